"""Where a version comes from: rows, data version, tokens, adapter, merged model, decision, promotions.

    told = lineage(root, ledger, "medgpt-ko", "3")
    print(render(told))                    # a drawn chain
    json.dumps(statement(told))            # registry/provenance.py: SLSA v1 provenance

It stands on the ledger and the version's own folder. Of MLflow it takes the run's times; without it they are missing,
and `unknown` says so.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.history import local, named, plain, source, who
from medtune.registry.history_at import figure
from medtune.registry.ledger import Event, Ledger
from medtune.registry.standing import CROWNED, DECISIONS, SHORTEST, Standing, resolve, standings
from medtune.registry.version_record import Record, read_record
from medtune.registry.versions import ADAPTER, MERGED, ROWS

# of the recipe, what makes one adapter another; the rest is in `--json` and in `medtune compare`
DECISIVE = {
    "lora": ("r", "alpha", "dropout", "variant", "init", "targets"),
    "train": ("learning_rate", "max_steps", "epochs", "batch_size", "gradient_accumulation", "optimizer", "seed"),
}
WEIGHTS = (".safetensors", ".gguf")


def lineage(root: Path, ledger: Ledger | None, model: str, text: str) -> dict[str, Any]:
    """Everything that is known of a version's making, as plain data. RegistryError where there is no such version."""
    known = standings(ledger, model) if ledger else {}
    standing = resolve(ledger, model, text, known)
    record = read_record(root, standing)
    body = record.body
    events = ledger.events(model, version=standing.version)
    identity = record.adapter.get("identity") or {}
    parent = body.get("parent") or identity.get("init")
    followed = {event.body.get("approval") for event in events if event.event == "promoted"}
    return {
        "model": model,
        "version": standing.version,
        "name": standing.name,
        "number": standing.number,
        "override": standing.overridden,
        "registered": {"at": standing.registered.at, "by": who(standing.registered)},
        "dataset": body.get("dataset") or {},
        "data": {
            "digest": body.get("data"),
            "counts": record.counts(),
            "rows": body.get("rows"),
            "path": str(record.folder / ROWS) if record.rows is not None and record.folder.is_dir() else None,
            "retracted": list(standing.retracted),
        },
        "tokens": {
            "digest": body.get("tokens"),
            "test": body.get("test"),
            **{key: record.adapter.get(key) for key in ("template", "system", "max_length")},
        },
        "base": {**(record.adapter.get("base") or {}), **{k: v for k, v in (body.get("base") or {}).items() if v}},
        "parent": {"version": parent, "name": named(parent, known)} if parent else None,
        "git": body.get("git") or {},
        "recipe": _recipe(record),
        "code": identity.get("code"),
        "adapter": {
            "candidate": body.get("candidate"),
            "model": body.get("adapter_model"),
            "number": standing.adapter_number,
            "weights": _weights(record, ADAPTER),
        },
        "merged": {
            "into": (record.merged.get("merge") or {}).get("into"),
            "dtype": (record.merged.get("merge") or {}).get("dtype"),
            "weights": _weights(record, MERGED),
        },
        "run": _run(record),
        "decisions": [_decided(event, known) for event in events if event.event in DECISIONS],
        # a person's word whose promotion was refused approved nothing
        "people": [_acted(event) for event in events if event.event == "approved_by" and event.seq in followed],
        "promotions": [_acted(event) for event in events if event.event in (*CROWNED, "retired")],
        "evaluation": body.get("evaluation"),
        "manifest": body.get("manifest"),
        "signed_by": body.get("signed_by"),
        "files": record.files,
        "unknown": record.unknown,
    }


def training_rows(root: Path, ledger: Ledger | None, model: str, text: str) -> list[str]:
    """The ids of the rows that a version was trained on. RegistryError where it does not keep them."""
    return read_record(root, resolve(ledger, model, text), with_run=False).row_ids().get("train", [])


def find_row(root: Path, ledger: Ledger | None, model: str, text: str, row: str) -> dict[str, Any]:
    """Whether and where a row is in a version: {"row", "version", "name", "split" (None if nowhere), "retracted"}.

    `row`: its id or the first digits of it. RegistryError where they begin several ids.
    """
    standing = resolve(ledger, model, text)
    row = row.strip().lower()
    if len(row) < SHORTEST or len(row) > 64 or set(row) - set("0123456789abcdef"):
        raise RegistryError(
            f"{plain(row)[:64]!r} is no row id: it is the 64 hexadecimal digits of row_id in data/valid/rows.jsonl, or "
            f"at least the first {SHORTEST}"
        )
    splits = read_record(root, standing, with_run=False).row_ids()
    found = {one: split for split, ids in splits.items() for one in ids if one.startswith(row)}
    if len(found) > 1:
        raise RegistryError(f"{row} begins the ids of {len(found)} rows of {standing.name}; give more digits")
    full, split = next(iter(found.items()), (row, None))
    retracted = any(one.startswith(row) for one in standing.retracted)
    return {
        "row": full,
        "version": standing.version,
        "name": standing.name,
        "split": split,
        "retracted": retracted,
    }


def render_row(found: Mapping[str, Any]) -> str:
    where = f"is in the {found['split']} split of" if found["split"] else "is not in"
    return f"row {found['row'][:12]} {where} {found['name']}" + (" and was retracted" if found["retracted"] else "")


def _recipe(record: Record) -> dict[str, Any]:
    """The sections that made this version, as its own sidecars have them; {} where they are away."""
    found = {**(record.adapter.get("recipe") or {}), "merge": record.merged.get("merge")}
    found["tokenize"] = {
        key: record.adapter[key] for key in ("template", "system", "max_length") if key in record.adapter
    }
    return {section: settings for section, settings in found.items() if settings}


def _weights(record: Record, part: str) -> list[dict[str, Any]]:
    return [
        item
        for item in record.files or []
        if item["path"].startswith(f"{part}/") and item["path"].endswith(WEIGHTS)
    ]  # fmt: skip


def _run(record: Record) -> dict[str, Any]:
    run = record.run
    told = {"run_id": record.body.get("run_id")}
    if run is not None:
        told |= {"status": run.status, "started": run.started, "finished": run.finished, "params": run.params}
    return told


def _decided(event: Event, known: Mapping[str, Standing]) -> dict[str, Any]:
    body = event.body
    kept = {name: body.get(name) for name in ("key", "against", "test", "evaluation", "run_id", "reason", "findings")}
    return {**_acted(event), "outcome": event.event, "name_against": named(body.get("against"), known), **kept}


def _acted(event: Event) -> dict[str, Any]:
    return {
        "event": event.event,
        "at": event.at,
        "who": who(event),
        "reason": event.body.get("reason"),
        "override": bool(event.body.get("override")),
        "seq": event.seq,
        "digest": event.digest,
    }


def render(told: Mapping[str, Any]) -> str:
    """The chain, drawn from top to bottom, digests short and times in the local zone."""
    mark = "  OVERRIDE" if told["override"] else ""
    blocks = [
        ("rows", _rows(told)),
        ("data", _data(told["data"])),
        ("tokens", _tokens(told["tokens"])),
        ("adapter", _adapter(told)),
        ("merged", _merged(told)),
        ("decision", _decision_lines(told)),
        ("champion", _promotion_lines(told["promotions"])),
    ]
    lines = [f"{told['model']} {told['name']}{mark}", ""]
    for n, (name, texts) in enumerate(blocks):
        last = n == len(blocks) - 1
        lines.append(f"o {name:9} {texts[0]}")
        lines += [f"{' ' if last else '|'}           {text}" for text in texts[1:]]
        lines += [] if last else ["|"]
    lines += [f"cannot be told: {sentence}" for sentence in told["unknown"]]
    return "\n".join(lines)


def _rows(told: Mapping[str, Any]) -> list[str]:
    dataset = told["dataset"]
    return [source(dataset) if dataset else "of a source that the ledger does not name"]


def _data(data: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{name} {count:,}" for name, count in data["counts"].items())
    lines = [f"version {_short(data['digest'])}" + (f": {counts} rows" if counts else "")]
    if data["rows"]:
        lines.append(f"row ids in {data['path'] or ROWS} (sha256 {_short(data['rows'])})")
    if data["retracted"]:
        ids = ", ".join(_short(row) for row in data["retracted"][:3])
        lines.append(f"RETRACTED since: {len(data['retracted'])} of its rows ({ids}{' …' * (len(ids) > 3 * 14)})")
    return lines


def _tokens(tokens: Mapping[str, Any]) -> list[str]:
    settings = f", template {tokens['template']}, at most {tokens['max_length']} tokens" if tokens["template"] else ""
    return [f"{_short(tokens['digest'])}{settings}", f"test set {_short(tokens['test'])}"]


def _adapter(told: Mapping[str, Any]) -> list[str]:
    adapter, base = told["adapter"], told["base"]
    lines = [f"candidate {_short(adapter['candidate'])}, {adapter['model']} version {adapter['number']}"]
    lines += [f"<- base {source(base)}, fingerprint {_short(base.get('fingerprint'))}"]
    if told["parent"]:
        lines.append(f"<- goes on from {told['parent']['name']}")
    commit = told["git"].get("commit")
    dirty = ", with changes that were not committed" if str(told["git"].get("dirty")).lower() == "true" else ""
    lines.append(f"<- code of commit {_short(commit)}{dirty}" if commit else "<- code of no known commit")
    for section, keys in DECISIVE.items():
        settings = told["recipe"].get(section) or {}
        shown = ", ".join(f"{key} {_value(settings[key])}" for key in keys if settings.get(key) is not None)
        lines += [f"{section}: {shown}"] if shown else []
    lines += _files(adapter["weights"])
    run = told["run"]
    times = f", {run['started'] or '?'} to {run['finished'] or 'still running'}" if "started" in run else ""
    return [*lines, f"MLflow run {run['run_id'] or 'unknown'}{times}"]


def _merged(told: Mapping[str, Any]) -> list[str]:
    merged = told["merged"]
    into = f", into the {merged['into']} base, kept as {merged['dtype']}" if merged["into"] else ""
    signed = f"signed with key {_short(told['signed_by'])}" if told["signed_by"] else "not signed"
    registered = f"registered {local(told['registered']['at'])} {told['registered']['by']}"
    manifest = f"manifest sha256 {_short(told['manifest'])}, {signed}"
    return [f"version {_short(told['version'])}{into}", *_files(merged["weights"]), manifest, registered]


def _decision_lines(told: Mapping[str, Any]) -> list[str]:
    if not told["decisions"]:
        return ["none: it was never judged"]
    lines = []
    for decision in told["decisions"]:
        against = f", against {decision['name_against']}" if decision["against"] else ""
        reason = f": {plain(decision['reason'])}" if decision["reason"] else ""
        lines.append(f"{decision['outcome']} {decision['who']}, {local(decision['at'])}{against}{reason}")
    blocking = [finding for finding in told["decisions"][-1]["findings"] or [] if finding.get("blocks")]
    lines += [f"  {figure(finding)}" for finding in blocking]
    lines.append(f"evaluation {_short(told['evaluation'])}")
    lines += [f"also approved {p['who']}, {local(p['at'])}: {plain(p['reason'])}" for p in told["people"]]
    return lines


def _promotion_lines(promotions: list[dict[str, Any]]) -> list[str]:
    lines = []
    for event in promotions:
        reason = f": {plain(event['reason'])}" if event["reason"] else ""
        mark = " OVERRIDE" if event["override"] else ""
        what = event["event"].replace("_", " ")
        lines.append(f"{what}{mark} {event['who']}, {local(event['at'])}{reason}")
    return lines or ["never"]


def _files(items: list[dict[str, Any]]) -> list[str]:
    return [f"{item['path']}, {item['bytes'] / 2**20:,.1f} MiB, sha256 {_short(item['sha256'])}" for item in items]


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(digest: Any) -> str:
    return plain(digest)[:12] if digest else "unknown"
