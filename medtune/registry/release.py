"""The release card of a decision: pages in reports/card/, and the same files in the candidate's run under card/.

README.md is the model card of the merged model. It cannot lie in the version's own folder, whose manifest is sealed
before there is a number or a decision to tell; whoever publishes the model puts it beside the weights.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.evaluation.release_card.data import gather
from medtune.evaluation.release_card.writing import write
from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.registry.champion import named
from medtune.registry.evidence import Evidence, git_tags
from medtune.registry.ledger import Ledger, open_ledger, read_ledger
from medtune.registry.standing import standings
from medtune.tracking.store import connect, open_store

if TYPE_CHECKING:
    from medtune.params.recipe import Recipe
    from medtune.registry.registrar import Registered

FOLDER = Path("reports/card")


def write_release_card(
    client: Any,
    root: Path,
    recipe: "Recipe",
    evidence: Evidence,
    done: "Registered",
    run_id: str,
    versions: Mapping[str, Mapping[str, Any]],
    licences: Mapping[str, Any],
    looks: Mapping[str, Any],
    drift: Mapping[str, Any] | None = None,
    drift_why: str = "",
) -> Path:
    """Write the card of the decision that stands, log it in the run, and return the page's path.

    `drift`: registry.drift_report's of this version's data, or None and in `drift_why` the reason.
    """
    model, ledger = recipe.register_.model, open_ledger(root)
    decided = standings(ledger, model)[evidence.version].decision
    data = gather(
        root,
        recipe.model_dump(mode="json", by_alias=True),
        evidence.reports,
        evidence.base,
        evidence.dataset,
        done.decision.record(),
        {
            "run_id": run_id,
            "decided_at": decided and decided.at,
            "versions": versions,
            "champion": _rival(client, ledger, model, decided and decided.body.get("against")),
            "licences": licences,
            "looks": looks,
            "drift": drift or {"why": drift_why},
            "git": git_tags(root),
        },
    )
    files = write(root / FOLDER, data)
    for path in files.values():
        client.log_artifact(run_id, str(path), "card")
    return files["card.html"]


def champion_reports(root: Path, recipe: "Recipe") -> Path:
    """The champion's evaluate.json and evaluate/answers.jsonl out of its run, in a folder as reports/ is one.

    RegistryError where there is no champion, or its run does not keep them.
    """
    model, ledger = recipe.register_.model, read_ledger(root)
    found = named(ledger, model, tags.CHAMPION)
    if ledger is None or found is None:
        raise RegistryError(f"{model} has no champion yet; review against the base")
    told = _rival(connect(open_store(root)), ledger, model, found.version) or {}
    if "answers" not in told:
        raise RegistryError(f"the run of {model} version {found.number} keeps no answers to review; take the base")
    folder = root / "data/review/champion"
    (folder / "evaluate").mkdir(parents=True, exist_ok=True)
    report = json.dumps(told["evaluate"], ensure_ascii=False).encode()
    for name, content in (("evaluate.json", report), ("evaluate/answers.jsonl", told["answers"].read_bytes())):
        temporary = folder / f"{name}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)
    return folder


def _rival(client: Any, ledger: Ledger, model: str, digest: str | None) -> dict[str, Any] | None:
    """The champion that was judged against, with the figures and answers of its own run; None where there was none."""
    version = standings(ledger, model).get(digest) if digest else None
    if version is None:
        return None
    run_id = version.registered.body["run_id"]
    told: dict[str, Any] = {"number": version.number, "version": digest}
    if (report := _artifact(client, run_id, "reports/evaluate.json")) is None:
        return told
    evaluate = json.loads(report.read_text(encoding="utf-8"))
    if evaluate.get("version") != digest:
        # a run is a candidate's: another merge of the same adapter has written its own report there since
        print(f"the run of champion version {version.number} holds another version's report: the card goes without")
        return told
    told["evaluate"] = evaluate
    if (answers := _artifact(client, run_id, "evaluate/answers.jsonl")) is not None:
        told["answers"] = answers
    return told


def _artifact(client: Any, run_id: str, path: str) -> Path | None:
    """A file of a run on this disk; None where the run has none such (a champion from before this was kept)."""
    from mlflow.exceptions import MlflowException

    folder, _, name = path.rpartition("/")
    try:
        listed = client.list_artifacts(run_id, folder)
    except MlflowException:  # the run was deleted: nothing of it can stand beside the candidate
        listed = []
    if not any(item.path == path for item in listed):
        print(f"the champion's run {run_id} keeps no {name}: the card goes without")
        return None
    return Path(client.download_artifacts(run_id, path))
