"""Who is champion, who challenges, what waits: `medtune status`. Reads only, and works before anything exists.

Champion, challenger and decisions are the ledger's; MLflow is asked for its aliases alone, to tell where they drifted.
Nothing here imports MLflow: with a thousand versions the answer is there before MLflow would be imported
(benchmarks/status_speed.py).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from medtune.corpus.sources import incoming_files
from medtune.params.recipe import Recipe
from medtune.registry import aliases, tags
from medtune.registry.doctor_incoming import left_list
from medtune.registry.ledger import Event, Ledger, read_ledger
from medtune.registry.looks import read_looks
from medtune.registry.promotion import drift
from medtune.registry.standing import Standing, champion, standings
from medtune.registry.status_text import ANEW, render

__all__ = ["read_status", "render"]

LOCK = "finish the merge, or `git checkout HEAD -- dvc.lock`; then `dvc repro`"


def read_status(root: Path, recipe: Recipe) -> dict[str, Any]:
    """Plain data, ready for JSON:

    {"model", "champion": version | None, "challenger": version | None (the newest one), "versions": how many,
    "waiting": [version] (approved since the champion was made, and not promoted), "promotion": "auto" | "manual",
    "drift": [{"alias", "model", "found", "should", "sentence"}], "mlflow": sentence | None (why it was not reached),
    "retrain": {"seq", "at", "reason", "by", "without": [row id]} | None (asked for and not come), "incoming": {"rows",
    "files", "enough", "min_new_rows", "hidden": sentence | None (a killed flow hides what came since)}, "looks":
    {"test_digest", "used", "left", "of"} | None (before tokenize has run),
    "damaged": [sentence] (a file that cannot be read, and what mends it),
    "lost": sentence | None, "unadopted": sentence | None (a champion from before the ledger), "next": command}

    with version = {"number", "adapter", "version", "candidate", "decision", "reasons", "findings", "decided_at", "by"
    (who decided), "against", "run_id", "files", "registered_at", "crowned": {"event", "at", "by", "reason", "policy",
    "override", "overridden"} | None (what last made it champion), "override": whether one ever did, "refusal": why it
    may not become champion | None, "retired": {"at", "by", "reason"} | None, "retracted": [row id]}.

    RegistryError where the ledger cannot be read: without it nothing can be said.
    """
    model = recipe.register_.model
    ledger = read_ledger(root)
    known = standings(ledger, model, bodies=False) if ledger else {}
    crowned = champion(ledger, model) if ledger else None
    newest = max(known.values(), key=lambda standing: standing.registered.seq, default=None)
    told = {}
    if ledger is not None:
        named = {crowned and crowned.version, newest and newest.version, *_waiting(known, crowned)}
        told = {digest: _version(root, ledger, standing) for digest, standing in known.items() if digest in named}
    moved, unreached = _drift(root, ledger, recipe)
    damaged: list[str] = []
    state = {
        "model": model,
        "champion": told.get(crowned.version) if crowned else None,
        "challenger": told.get(newest.version) if newest else None,
        "versions": len(known),
        "waiting": [told[digest] for digest in _waiting(known, crowned)],
        "promotion": recipe.register_.promotion,
        "drift": moved,
        "mlflow": unreached,
        "retrain": _retrain(root, ledger, model),
        "incoming": _incoming(root, recipe.retrain.min_new_rows, damaged),
        "looks": _looks(root, ledger, recipe),
        "lost": _lost(root, known, damaged),
        "damaged": damaged,
        "unadopted": None if known else _unadopted(root, model),
    }
    return {**state, "next": _next(state)}


def _waiting(known: dict[str, Standing], crowned: Event | None) -> list[str]:
    """Approved since the present champion was made, never champion, and nothing against them; the newest first."""
    since = crowned.seq if crowned else 0
    waiting = [
        standing
        for standing in known.values()
        if standing.decision is not None
        and standing.decision.seq > since
        and not standing.promoted
        and standing.refusal() is None
    ]
    return [standing.version for standing in sorted(waiting, key=lambda standing: -standing.decision.seq)]


def _version(root: Path, ledger: Ledger, standing: Standing) -> dict[str, Any]:
    events = ledger.events(standing.registered.model, version=standing.version)
    bodies = {event.seq: event for event in events}
    registered = bodies[standing.registered.seq].body
    decision = standing.decision and bodies[standing.decision.seq]
    decided = decision.body if decision else {}
    crowned = bodies[standing.promoted[-1].seq] if standing.promoted else None
    retired = standing.retired and bodies[standing.retired.seq]
    from medtune.registry.versions import MERGED, version_path

    files = registered.get("files", "local")
    return {
        "number": standing.number,
        "adapter": standing.adapter_number,
        "version": standing.version,
        "candidate": registered.get("candidate"),
        "decision": decision.event if decision else None,
        "reasons": decided.get("reasons", []),
        "findings": decided.get("findings", []),
        "decided_at": decision.at if decision else None,
        "by": decided.get("by") or (decision.actor if decision else None),
        "against": decided.get("against"),
        "run_id": registered.get("run_id"),
        "files": str(version_path(root, standing.version) / MERGED) if files == "local" else files,
        "registered_at": standing.registered.at,
        "crowned": crowned and _crowned(crowned),
        "override": standing.overridden,
        "refusal": standing.refusal(),
        "retired": retired
        and {"at": retired.at, "by": retired.body.get("by", retired.actor), "reason": retired.body.get("reason")},
        "retracted": list(standing.retracted),
    }


def _crowned(event: Event) -> dict[str, Any]:
    body = event.body
    return {
        "event": event.event,
        "at": event.at,
        "by": body.get("by") or event.actor,
        "reason": body.get("reason"),
        "policy": body.get("policy"),
        "override": bool(body.get("override")),
        "overridden": body.get("overridden"),
    }


def _drift(root: Path, ledger: Ledger | None, recipe: Recipe) -> tuple[list[dict[str, Any]], str | None]:
    """Where MLflow's aliases are not the ledger's, and why MLflow could not be asked."""
    if ledger is None:
        return [], None
    names = recipe.register_
    try:
        found = drift(aliases.registry_uri(root), ledger, names.model, names.adapter_model)
    except aliases.Unreachable as error:
        return [], str(error)
    return [{**body, "sentence": sentence} for body, sentence in found], None


def _unadopted(root: Path, model: str) -> str | None:
    """A champion from before the ledger, which the next registration takes over."""
    try:
        number = aliases.read_aliases(aliases.registry_uri(root), model).get(tags.CHAMPION)
    except aliases.Unreachable:  # an empty database, too
        return None
    if number is None:
        return None
    return f"MLflow has {model} version {number} as champion from before the ledger: `{ANEW}` takes it over"


def _lost(root: Path, known: dict[str, Standing], damaged: list[str]) -> str | None:
    """What DVC holds for registered and the ledger does not know."""
    claimed = _claimed(root, damaged)
    if claimed is None or claimed in known:
        return None
    return f"dvc.lock says that version {claimed[:12]} was registered, but the registry has none such: run `{ANEW}`"


def _claimed(root: Path, damaged: list[str]) -> str | None:
    """The version digest that DVC holds for registered: dvc.lock has the stage, and its report names the version."""
    if "register" not in (_read(root, "dvc.lock", LOCK, damaged).get("stages") or {}):
        return None
    # without the report DVC runs the stage anyway
    return _read(root, "reports/register.json", f"`{ANEW}` writes it anew", damaged).get("version")


def _read(root: Path, name: str, mend: str, damaged: list[str]) -> dict[str, Any]:
    """A JSON or YAML file's mapping; {} where it is missing, or damaged, which is said with the mend."""
    try:
        text = (root / name).read_text(encoding="utf-8")
        found = json.loads(text) if name.endswith(".json") else _yaml(text)
        if found is not None and not isinstance(found, dict):
            raise ValueError("no mapping")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        damaged.append(f"{name} cannot be read ({str(error).splitlines()[0]}): {mend}")
        return {}
    return found or {}


def _yaml(text: str) -> Any:
    """ValueError where it is none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if marked := [n for n, line in enumerate(text.splitlines(), 1) if line.startswith(("<<<<<<< ", ">>>>>>> "))]:
        raise ValueError(f"line {marked[0]}: the marks of a merge that was not finished")
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"line {mark.line + 1}: no YAML" if mark else "no YAML") from None


def _looks(root: Path, ledger: Ledger | None, recipe: Recipe) -> dict[str, Any] | None:
    """The budget of the test split that the next decision will be made on."""
    try:
        test_digest = json.loads((root / "reports/tokenize.json").read_text(encoding="utf-8"))["test_digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return read_looks(root, ledger, test_digest, recipe.gate.alpha, recipe.gate.looks).record()


def _retrain(root: Path, ledger: Ledger | None, model: str) -> dict[str, Any] | None:
    """That rows were retracted and no version was registered without them since."""
    if ledger is None or not ledger.events(model, kinds={"retrain_requested"}, bodies=False):
        return None
    from medtune.registry.retract import pending_retrain
    from medtune.registry.row_places import rows_of_version

    return pending_retrain(ledger, model, rows_of_version(root))


def _incoming(root: Path, enough: int, damaged: list[str]) -> dict[str, Any]:
    """Rows of data/incoming that the last data version has not seen.

    A file that data/raw/dataset.json lists by its sha256 was seen whole. Of one that has grown since, the rows beyond
    the number seen are counted; of a new one, all. Whether rows repeat older ones only download can tell.
    """
    dataset = _read(root, "data/raw/dataset.json", "`dvc repro download` writes it anew", damaged)
    seen = [item for item in dataset.get("files") or [] if isinstance(item, dict)]
    digests = {item.get("sha256") for item in seen}
    rows_of = {item.get("name"): item.get("rows", 0) for item in seen}
    files = {}
    for path in incoming_files(root):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() not in digests:
            lines = sum(bool(line.strip()) for line in content.splitlines())
            if fresh := max(0, lines - int(rows_of.get(f"incoming/{path.name}", 0))):
                files[path.name] = fresh
    rows = sum(files.values())
    return {
        "rows": rows,
        "files": files,
        "enough": rows >= enough,
        "min_new_rows": enough,
        "hidden": left_list(root),
    }


def _next(state: dict[str, Any]) -> str:
    """The one command that is due first."""
    if state["lost"] or state["unadopted"]:
        return ANEW
    if state["drift"] or state["incoming"]["hidden"]:
        return "medtune doctor"
    if state["retrain"]:
        return "make run"
    if state["promotion"] == "manual" and state["waiting"]:
        return f'medtune promote {state["waiting"][0]["number"]} --by NAME --reason "…"'
    if state["incoming"]["enough"] or not state["versions"]:
        return "make run"
    if state["champion"]:
        return 'medtune ask "…"'
    return "medtune history"
