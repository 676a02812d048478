"""The one message of a retrain: what came of it, the figures that decided, and where to read more.

subject, body = message(recipe, report, trigger="60 new rows", drift=report_of_drift)
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtune.params.recipe import Recipe
from medtune.registry.gate import Finding

CARD = Path("reports/card/card.html")
LONGEST = 8  # findings in a message; the card has them all


def message(
    recipe: Recipe, report: dict[str, Any], trigger: str, drift: dict[str, Any] | None = None, note: str = ""
) -> tuple[str, str]:
    """Subject and body, in plain text that Slack and mail both show as it is.

    `report`: reports/register.json; `drift`: drift_report's; `note`: a further sentence, such as who is waited for.
    """
    merged, champion = report["versions"]["merged"], report["champion"]
    name = f"{merged['model']} version {merged['number']}"
    promoted = champion is not None and champion["number"] == merged["number"]
    word = {"approved": "approved", "rejected": "rejected", "inconclusive": "inconclusive"}[report["decision"]]
    subject = f"{name}: {'promoted to champion' if promoted else word}"
    lines = [f"Retrained because of: {trigger}."]
    if promoted:
        lines.append(f"{name} passed the gate and is the champion.")
    else:
        lines.append(f"{name} is {word}.")
        lines += [f"  because {reason}" for reason in report["reasons"][:LONGEST]]
        stays = f"{merged['model']} version {champion['number']}" if champion else "nobody: there is no champion"
        lines.append(f"In use stays {stays}.")
    findings = [Finding.read(item) for item in report["findings"]]
    deciding = [item for item in findings if item.blocks]
    if deciding:
        lines.append("The deciding figures:")
        lines += [f"  {item.mark:2}  {item.sentence}" for item in deciding[:LONGEST]]
        if len(deciding) > LONGEST:
            lines.append(f"  … and {len(deciding) - LONGEST} more in the card")
    if drift and drift.get("alarms"):
        lines.append("The new rows differ from those that the champion learned:")
        lines += [f"  {sentence}" for sentence in drift["alarms"]]
    if note:
        lines.append(note)
    lines.append(f"Release card: {card_link(report.get('run_id'))}")
    return subject, "\n".join(lines)


def failure(
    model: str, sentence: str, trigger: str, written: str = "Nothing was registered.", notes: Sequence[str] = ()
) -> tuple[str, str]:
    """Subject and body where the retrain broke off. `written`: what the ledger has of it all the same."""
    body = "\n".join(
        [
            f"Begun because of: {trigger}.",
            sentence,
            f"{written} What was done is kept: the next run goes on from there (python -m flows.retrain).",
            *notes,
        ]
    )
    return f"{model}: the retrain failed", body


def held(recipe: Recipe, drift: dict[str, Any], trigger: str) -> tuple[str, str]:
    """Subject and body where the new rows lie too far from the old ones to train on unseen."""
    sentences = "\n".join(f"  {sentence}" for sentence in drift["alarms"])
    body = (
        f"Begun because of: {trigger}.\nThe new rows differ from those that the champion learned:\n{sentences}\n"
        "Nothing was trained (retrain.drift.action: hold). Look at the drift report in Prefect's Artifacts; then train "
        "all the same by `python -m flows.retrain --force-drift`, or take the rows out of data/incoming."
    )
    return f"{recipe.register_.model}: held, the new rows differ", body


def card_link(run_id: str | None) -> str:
    """Where people open the card: the run in MLflow where a server is known, else the file."""
    server = os.environ.get("MEDTUNE_MLFLOW_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
    if run_id and server.startswith(("http:", "https:")):
        from medtune.tracking.secrets import redact

        return f"{redact(server).rstrip('/')}/#/runs/{run_id} (artifacts, card)"
    return f"{CARD} (make ui shows it with the run)"


def read_report(root: Path) -> dict[str, Any]:
    return json.loads((root / "reports/register.json").read_text(encoding="utf-8"))
