"""What a sweep keeps: reports/sweeps/<name>.json, and every trial as an MLflow run that has ended.

A trial is a candidate like any other, so that its run is the candidate's: where it is chosen, register takes the same
run up again and completes it. Until then it has its curve, its training's figures and these tags:

  medtune.trial = true, medtune.sweep = <name>, mlflow.parentRunId = the sweep's own run, which holds table and plot
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.registry.record import PARAMS
from medtune.registry.sweep_grid import Trial, show
from medtune.tracking.runs import CANDIDATE, candidate_run, figures, finish, flatten, log_curve, log_record
from medtune.tracking.store import connect, store_errors

FOLDER = Path("reports/sweeps")
SCHEMA = 1
TRIAL, SWEEP, PARENT = "medtune.trial", "medtune.sweep", "medtune.sweep.parent"
NESTED = "mlflow.parentRunId"
DONE, FAILED = "done", "failed"


@dataclass
class TrialRecord:
    """A trial as it ended. state: of the rows and the code that it was trained on (Workspace.state)."""

    id: str
    params: dict[str, Any]
    status: str
    state: str
    candidate: str | None = None
    run_id: str | None = None
    validation_loss: float | None = None
    best_validation_loss: float | None = None
    train_loss: float | None = None
    steps: int | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    trained: bool = True
    problem: str | None = None


@dataclass
class SweepRecord:
    """keys: what varies; fixed: dotted key -> value of the rest of the recipe that makes a candidate."""

    name: str
    keys: list[str]
    fixed: dict[str, Any]
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    parent_run: str | None = None

    def done(self) -> list[TrialRecord]:
        """The trials that may be compared: those with a validation loss, the smallest first."""
        good = [trial for trial in self.trials.values() if trial.status == DONE and trial.validation_loss is not None]
        return sorted(good, key=lambda trial: (trial.validation_loss, trial.id))

    def failed(self) -> list[TrialRecord]:
        return [trial for trial in self.trials.values() if trial.status == FAILED]


def path_of(root: Path, name: str, suffix: str = ".json") -> Path:
    return root / FOLDER / f"{name}{suffix}"


def names(root: Path) -> list[str]:
    """The sweeps of this checkout, the newest first."""
    found = sorted((root / FOLDER).glob("*.json"), key=lambda path: (-path.stat().st_mtime, path.name))
    return [path.stem for path in found if not path.name.startswith(".")]


def read_sweep(root: Path, name: str) -> SweepRecord | None:
    """None where there is no such sweep; RegistryError where its file is broken."""
    path = path_of(root, name)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise ValueError(f"schema {told['schema']}")
        trials = {item["id"]: TrialRecord(**item) for item in told["trials"]}
        return SweepRecord(told["name"], told["keys"], told["fixed"], trials, told.get("parent_run"))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(
            f"{path} is no sweep's record ({error}); restore it from git, or remove it: trials that are in DVC's cache "
            "are not trained anew"
        ) from None


def write_sweep(root: Path, record: SweepRecord) -> Path:
    """Whole or not at all: written after every trial, so that a kill costs none that ended."""
    path = path_of(root, record.name)
    told = {"schema": SCHEMA, **asdict(record), "trials": [asdict(trial) for trial in record.trials.values()]}
    write_file(path, json.dumps(told, ensure_ascii=False, indent=1) + "\n")
    return path


def write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def record_trial(
    uri: str, recipe: Recipe, record: SweepRecord, trial: Trial, report: dict[str, Any], history: list[dict[str, Any]]
) -> str:
    """The trial's run, complete as far as training goes, and ended; its id. `report`: reports/train.json."""
    candidate = str(report["candidate"])
    run_id = candidate_run(uri, recipe.register_.experiment, candidate, name=f"candidate {candidate[:12]}")
    parent = parent_run(uri, recipe, record)  # after it: the experiment is there, in the place that is its own
    log_curve(uri, run_id, history)
    sections = {name: getattr(recipe, name).model_dump(mode="json") for name in PARAMS}
    params = {key: value for key, value in flatten(sections).items() if value is not None}
    tags = {TRIAL: "true", SWEEP: record.name, NESTED: parent, "medtune.sweep.params": str(trial)}
    log_record(uri, run_id, params, figures(report, "train."), {}, tags)
    finish(uri, run_id)
    return run_id


def end_failed(uri: str, recipe: Recipe, record: SweepRecord, trial: Trial, digits: str | None, problem: str) -> None:
    """End the run of a trial whose training failed. `digits`: the first 12 of its candidate, None if it never began."""
    if digits is None:
        return
    with store_errors(uri):
        client = connect(uri)
        experiment = client.get_experiment_by_name(recipe.register_.experiment)
        if experiment is None:
            return
        found = client.search_runs(
            [experiment.experiment_id], f"tags.`{CANDIDATE}` LIKE '{digits}%' and attributes.status = 'RUNNING'"
        )
        for run in found:
            told = {
                TRIAL: "true",
                SWEEP: record.name,
                "medtune.reason": problem[:4000],
            }
            for key, value in told.items():
                client.set_tag(run.info.run_id, key, value)
            client.set_terminated(run.info.run_id, "FAILED")


def parent_run(uri: str, recipe: Recipe, record: SweepRecord) -> str:
    """The sweep's own run, under which MLflow shows the trials side by side; made once, and ended at once."""
    from mlflow.exceptions import MlflowException

    with store_errors(uri):
        client = connect(uri)
        if record.parent_run:
            try:
                if client.get_run(record.parent_run).info.lifecycle_stage == "active":
                    return record.parent_run
            except MlflowException as error:  # another store, or deleted for good
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        name = recipe.register_.experiment
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        made = client.create_run(experiment, run_name=record.name, tags={SWEEP: record.name, PARENT: "true"})
        client.set_terminated(made.info.run_id)
        record.parent_run = made.info.run_id
        return made.info.run_id


def record_table(uri: str, record: SweepRecord, files: list[Path]) -> None:
    """Table and plot as artifacts of the sweep's run, its best loss as a figure."""
    if record.parent_run is None:
        return
    best = record.done()[:1]
    metrics = {"train.validation_loss": best[0].validation_loss, "sweep.trials": len(record.done())} if best else {}
    tried = {key: dict.fromkeys(show(trial.params[key]) for trial in record.trials.values()) for key in record.keys}
    tags = {SWEEP: record.name} | {f"{SWEEP}.{key}": ", ".join(values) for key, values in tried.items()}
    log_record(uri, record.parent_run, {}, metrics, dict.fromkeys(files, ""), tags)
    finish(uri, record.parent_run)
