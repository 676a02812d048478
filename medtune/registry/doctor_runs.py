"""Candidate runs in MLflow that say RUNNING with nobody at work, and figures that wait for their run."""

import re
from datetime import UTC, datetime
from pathlib import Path

from medtune.registry.doctor_trouble import Examination, Trouble
from medtune.tracking.reaper import Idle, end, idle_runs
from medtune.tracking.runs import CANDIDATE, UNSENT, send_unsent
from medtune.tracking.store import store_errors

FILE = re.compile(r"[0-9a-f]{64}\.jsonl")


def check_runs(seen: Examination) -> list[Trouble]:
    """Runs left RUNNING by a kill are ended with the reason; those that name nobody are told until a day has passed."""
    if seen.client is None:
        return []
    return [_trouble(seen, item) for item in idle_runs(seen.uri, seen.root)]


def check_unsent(seen: Examination) -> list[Trouble]:
    """Figures of a training that MLflow was not there to take, and that no register has sent since."""
    troubles = []
    for file in sorted((seen.root / UNSENT).glob("*.jsonl")):
        if not FILE.fullmatch(file.name) or _age(file) < seen.age:
            continue  # training may be writing it, or about to send it
        run = _run(seen, file.stem)
        troubles.append(
            Trouble(
                "figures_unsent",
                f"MLflow has not all figures of the training of candidate {file.stem[:12]} ({UNSENT}/{file.name})",
                "send them: `medtune doctor`"
                if run
                else "its run was never opened or is deleted: `dvc repro -f -s register` with its recipe makes it, or "
                "remove the file",
                (lambda file=file, run=run: _send(seen, run, file)) if run else None,
                warning=run is None,
            )
        )
    return troubles


def _trouble(seen: Examination, item: Idle) -> Trouble:
    if not item.dead:
        return Trouble("run_nameless", item.sentence, "if nobody works on it, wait: it is ended then", warning=True)
    return Trouble(
        "run_left_running",
        f"{item.name} says RUNNING, but {item.sentence}",
        "end it: `medtune doctor`; the next `dvc repro` of its candidate takes it up again",
        lambda: end(seen.uri, item) or f"{item.name} was taken up again meanwhile",
    )


def _run(seen: Examination, candidate: str) -> str | None:
    if seen.client is None:
        return None
    with store_errors(seen.uri):
        found = seen.client.get_experiment_by_name(seen.recipe.register_.experiment)
        if found is None:
            return None
        runs = seen.client.search_runs([found.experiment_id], f"tags.`{CANDIDATE}` = '{candidate}'", max_results=1)
    return runs[0].info.run_id if runs else None


def _send(seen: Examination, run: str, file: Path) -> str:
    return f"{send_unsent(seen.uri, run, file):,} points were sent, with the times of then"


def _age(path: Path) -> float:
    return datetime.now(UTC).timestamp() - path.stat().st_mtime
