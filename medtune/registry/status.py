"""Who is champion, who challenges, what waits: `medtune status`. Reads only, and works before anything exists."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from medtune.corpus.sources import incoming_files
from medtune.params.recipe import Recipe
from medtune.registry import tags
from medtune.registry.gate import Finding
from medtune.registry.looks import Looks, read_looks
from medtune.tracking.store import HOME, SQLITE, connect, harden_environment

ANEW = "dvc repro -f -s register"


def read_status(root: Path, recipe: Recipe) -> dict[str, Any]:
    """Plain data, ready for JSON:

    {"model", "champion": version | None, "challenger": version | None, "incoming": {"rows", "files", "enough",
    "min_new_rows"}, "looks": {"test_digest", "used", "left", "of"} | None (before tokenize has run), "lost": sentence |
    None} with version = {"number", "adapter", "version", "candidate", "decision", "reasons", "findings", "decided_at",
    "run_id", "files"}.
    """
    versions, lost = _versions(root, recipe)
    return {
        "model": recipe.register_.model,
        "champion": versions.get(tags.CHAMPION),
        "challenger": versions.get(tags.CHALLENGER),
        "incoming": _incoming(root, recipe.retrain.min_new_rows),
        "looks": _looks(root, recipe),
        "lost": lost,
    }


def render(status: dict[str, Any]) -> str:
    """The status as text for a terminal."""
    model, champion, challenger = status["model"], status["champion"], status["challenger"]
    lines = []
    if champion:
        lines += _lines("champion", model, champion)
    elif challenger:
        lines.append(f"{model}: no champion yet; no candidate has passed the gate")
    else:
        lines.append(f"{model}: no champion yet: run `make run`")
    if challenger and champion and challenger["version"] == champion["version"]:
        lines.append("challenger: the champion itself is the newest candidate")
    elif challenger:
        lines += _lines("challenger", model, challenger)
    incoming = status["incoming"]
    if incoming["rows"]:
        waiting = f"data/incoming: {incoming['rows']} new rows in {len(incoming['files'])} file(s)"
        verdict = "enough to train anew: `make run`" if incoming["enough"] else "not yet enough to train anew"
        lines.append(f"{waiting} of {incoming['min_new_rows']} (retrain.min_new_rows): {verdict}")
    else:
        lines.append("data/incoming: nothing new")
    if status["looks"]:
        lines.append(Looks(**status["looks"]).sentence)
    if status["lost"]:
        lines.append(status["lost"])
    return "\n".join(lines)


def _lines(role: str, model: str, version: dict[str, Any]) -> list[str]:
    names = f"{model} version {version['number']}" + (f", adapter {version['adapter']}" if version["adapter"] else "")
    decided = f" {version['decided_at']}" if version["decided_at"] else ""
    lines = [
        f"{role}: {names}: {version['decision'] or 'not decided yet: `' + ANEW + '`'}{decided}",
        f"  version {str(version['version'])[:12]}  candidate {str(version['candidate'])[:12]}",
    ]
    lines += [f"  {Finding.read(f).mark:2}  {f['sentence']}" for f in version["findings"]]
    return lines


def _versions(root: Path, recipe: Recipe) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Versions by alias, and the sentence that says what the registry has lost."""
    claimed = _claimed(root)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    database = (root / HOME / "mlflow.db").resolve()
    found: dict[str, dict[str, Any]] = {}
    if given or database.exists():  # else nothing was registered: spare the two seconds of importing MLflow
        harden_environment()
        from medtune.registry.champion import registered

        client = connect(given or f"{SQLITE}{database}")
        model = registered(client, recipe.register_.model)
        for alias in (tags.CHAMPION, tags.CHALLENGER):
            if model is not None and alias in model.aliases:
                number = str(model.aliases[alias])
                found[alias] = _version(client.get_model_version(recipe.register_.model, number))
        if claimed and not any(item["version"] == claimed for item in found.values()):
            from medtune.registry.registrar import find

            if find(client, recipe.register_.model, claimed):
                claimed = None
    if claimed and not any(item["version"] == claimed for item in found.values()):
        return found, (
            f"dvc.lock says that version {claimed[:12]} was registered, but the registry has none such: run `{ANEW}`"
        )
    return found, None


def _version(version: Any) -> dict[str, Any]:
    kept = version.tags
    counterpart = kept.get(tags.COUNTERPART, "")
    return {
        "number": int(version.version),
        "adapter": int(counterpart.rpartition("/")[2]) if counterpart else None,
        "version": kept.get(tags.VERSION),
        "candidate": kept.get(tags.CANDIDATE),
        "decision": kept.get(tags.STATUS),
        "reasons": json.loads(kept.get(tags.REASONS, "[]")),
        "findings": json.loads(kept.get(tags.FINDINGS, "[]")),
        "decided_at": kept.get(tags.DECIDED_AT),
        "run_id": version.run_id,
        "files": version.source,
    }


def _claimed(root: Path) -> str | None:
    """The version digest that DVC holds for registered: dvc.lock has the stage, and its report names the version."""
    from ruamel.yaml import YAML

    try:
        lock = YAML(typ="safe", pure=True).load((root / "dvc.lock").read_text(encoding="utf-8"))
        if "register" not in (lock or {}).get("stages", {}):
            return None
        return json.loads((root / "reports/register.json").read_text(encoding="utf-8")).get("version")
    except FileNotFoundError:  # without the report DVC runs the stage anyway
        return None


def _looks(root: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The budget of the test split that the next decision will be made on."""
    try:
        report = json.loads((root / "reports/tokenize.json").read_text(encoding="utf-8"))
        return read_looks(root, report["test_digest"], recipe.gate.alpha, recipe.gate.looks).record()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _incoming(root: Path, enough: int) -> dict[str, Any]:
    """Rows of data/incoming that the last data version has not seen.

    A file that data/raw/dataset.json lists by its sha256 was seen whole. Of one that has grown since, the rows beyond
    the number seen are counted; of a new one, all. Whether rows repeat older ones only download can tell.
    """
    try:
        seen = json.loads((root / "data/raw/dataset.json").read_text(encoding="utf-8")).get("files", [])
    except FileNotFoundError:
        seen = []
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
    return {"rows": rows, "files": files, "enough": rows >= enough, "min_new_rows": enough}
