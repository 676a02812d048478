"""`medtune sweep`: many trainings compared on the validation split; one of them goes to the gate.

    swept = sweep(Path("."), ["lora.r=4,8,16", "train.learning_rate=1e-4,2e-4"])
    finalist(Path("."), swept.record.name)     # its values into params.yaml; `make run` judges it

Trials end at `train`: no suite is asked, no test row is read, no look is spent. They are trained through DVC's queue of
experiments, in a copy of the checkout (sweep_workspace.py), and what they train lies in DVC's cache: a trial that ended
is never trained again, neither by the same sweep after a kill nor by `make run` after `medtune sweep finalist`.
"""

import fcntl
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.params.errors import RecipeError, RegistryError
from medtune.params.names import nearest
from medtune.params.recipe import PARAMS, Recipe, load_recipe
from medtune.params.recipes import compose, write
from medtune.registry.sweep_grid import MANY, SEED, Grid, Trial, differing, read_grid, settings_of
from medtune.registry.sweep_queue import Outcome, enqueue, outcomes
from medtune.registry.sweep_record import (
    DONE,
    FAILED,
    SweepRecord,
    TrialRecord,
    end_failed,
    names,
    read_sweep,
    record_table,
    record_trial,
    write_sweep,
)
from medtune.registry.sweep_table import rank, write_table
from medtune.registry.sweep_workspace import (
    PLACE,
    Workspace,
    make_workspace,
    must_be_committed,
    prepare,
    remove_workspace,
)
from medtune.tracking.pipeline_lock import pipeline_lock
from medtune.tracking.store import HOME, open_store

LOGS = HOME / "sweeps"
FIGURES = (
    "validation_loss best_validation_loss train_loss steps seconds tokens_per_second peak_memory_bytes".split()  # noqa: SIM905
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a sweep would do: trials that ended already on these rows and this code are left out of `due`."""

    name: str
    grid: Grid
    recipe: Recipe
    record: SweepRecord


def plan(root: Path, words: Sequence[str], name: str | None = None, yes: bool = False) -> Plan:
    """Read and check everything that can be checked without running anything. RecipeError or RegistryError."""
    recipe = load_recipe(root / PARAMS)
    grid = read_grid((root / PARAMS).read_text(encoding="utf-8"), words)
    if len(grid.trials) > MANY and not yes:
        raise RecipeError(f"{len(grid.trials)} combinations are as many trainings; give --yes if that is meant")
    must_be_committed(root)
    chosen = name or grid.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", chosen):
        raise RecipeError(f"--name {chosen!r}: up to 40 letters, digits, - and _, a letter or digit first")
    record = read_sweep(root, chosen) or SweepRecord(chosen, list(grid.keys), grid.fixed)
    if record.keys != list(grid.keys):
        raise RecipeError(f"the sweep {chosen} varies {', '.join(record.keys)}; give another --name for other keys")
    if changed := differing(record.fixed, grid.fixed):
        raise RecipeError(f"the sweep {chosen} was of another recipe ({'; '.join(changed[:4])}); give another --name")
    return Plan(chosen, grid, recipe, record)


def sweep(
    root: Path, words: Sequence[str], name: str | None = None, jobs: int = 1, yes: bool = False, say: Say = print
) -> SweepRecord:
    """Train every combination that was not trained yet, and keep table, plot and records. Failed trials are told, and
    the others go on. UserError before anything is queued where words, recipe or checkout are not in order; PipelineBusy
    where a run of the pipeline, or another sweep, is at work in this checkout."""
    wanted = plan(root, words, name, yes)
    record, recipe = wanted.record, wanted.recipe
    if wanted.grid.repeated:
        say(f"{wanted.grid.repeated} combination(s) stand twice and are tried once")
    uri = open_store(root)
    # trials take the machine that a retrain would: whichever comes second is refused
    with _alone(root, wanted.name), pipeline_lock(root):
        workspace = make_workspace(root, wanted.name, recipe, say)
        stale = [id for id, trial in record.trials.items() if trial.state != workspace.state]
        if stale:
            say(f"rows or code changed since {len(stale)} trial(s) of {wanted.name} were made: they count no more")
            record.trials = {id: trial for id, trial in record.trials.items() if id not in stale}
        due = [trial for trial in wanted.grid.trials if _status(record, trial) != DONE]
        try:
            if due:
                _run(root, uri, recipe, record, workspace, due, jobs, say)
            else:
                say("every combination was tried already")
        finally:
            remove_workspace(root, wanted.name, checkpoints_too=all(_status(record, t) for t in wanted.grid.trials))
        write_sweep(root, record)
        files = write_table(root, record)
        record_table(uri, record, files)
    return record


def finalist(root: Path, name: str | None = None, trial: str | None = None) -> tuple[TrialRecord, Path | None]:
    """Write a trial's values into params.yaml, the best one's unless another is named.

    Returns the trial, and where the old params.yaml is kept if it is no shipped recipe. Where seeds were varied, the
    best setting's smallest seed is taken. UserError where no trial ended well, or params.yaml is another recipe now.
    """
    record = _named(root, name)
    if not record.done():
        raise RegistryError(f"no trial of {record.name} ended well; `medtune sweep --list` tells what failed")
    if trial is None:
        best = rank(record)[0]
        chosen = min(best.trials, key=lambda item: item.params.get(SEED, 0))
    else:
        matching = [item for item in record.done() if item.id.startswith(trial)]
        if len(matching) != 1:
            raise RegistryError(
                f"{record.name} has no one trial {trial} that ended well; it has "
                f"{', '.join(item.id for item in record.done())}"
            )
        chosen = matching[0]
    path = root / PARAMS
    now = settings_of(load_recipe(path))
    changed = differing(record.fixed, {key: value for key, value in now.items() if key in record.fixed})
    if changed:
        raise RecipeError(
            f"{PARAMS} is another recipe than the sweep {record.name} was of ({'; '.join(changed[:4])}): its losses "
            f"do not speak for this one; `git checkout {PARAMS}`, or sweep again"
        )
    text, _ = compose(
        path.read_text(encoding="utf-8"), Trial(chosen.id, chosen.params).overrides, lambda *_: "", str(PARAMS)
    )
    return chosen, write(text, path)


def _named(root: Path, name: str | None) -> SweepRecord:
    there = names(root)
    if name is None and not there:
        raise RegistryError("there is no sweep yet; `medtune sweep 'lora.r=4,8,16'` makes one")
    record = read_sweep(root, name or there[0])
    if record is None:
        raise RegistryError(f"there is no sweep {name}; {nearest(str(name), there) if there else 'none was made yet'}")
    return record


def _run(
    root: Path,
    uri: str,
    recipe: Recipe,
    record: SweepRecord,
    workspace: Workspace,
    due: list[Trial],
    jobs: int,
    say: Say,
) -> None:
    say(f"sweep {record.name}: {len(due)} trial(s) to train, {len(record.done())} done; rows and tokens first")
    prepare(workspace, root)
    enqueue(workspace, due, record.name)
    say(f"queued; stopped and started again, the sweep goes on (at once: {min(jobs, len(due))})")
    text = (root / PARAMS).read_text(encoding="utf-8")
    for number, outcome in enumerate(outcomes(workspace, root, due, record.name, jobs), 1):
        _, composed = compose(text, outcome.trial.overrides, lambda *_: "", str(PARAMS))
        told = _keep(root, uri, composed, record, workspace, outcome)
        record.trials[told.id] = told
        write_sweep(root, record)
        where = f"{number} of {len(due)}  {outcome.trial}"
        if told.status == FAILED:
            say(f"{where}  FAILED: {told.problem} ({LOGS / record.name / told.id}.log)")
        else:
            how = f"{told.steps} steps in {told.seconds or 0:,.0f} s" if told.trained else "from DVC's cache"
            say(f"{where}  validation loss {told.validation_loss:.4f}, {how}")


def _keep(
    root: Path, uri: str, recipe: Recipe, record: SweepRecord, workspace: Workspace, outcome: Outcome
) -> TrialRecord:
    """One trial's end in MLflow and as a record."""
    trial = outcome.trial
    log = root / LOGS / record.name / f"{trial.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(outcome.log, encoding="utf-8")
    report = _output(workspace, outcome.commit, "reports/train.json") if outcome.commit else None
    if report is None:
        problem = outcome.sentence or "its reports/train.json is not in DVC's cache; start the sweep again"
        digits = re.findall(r"^candidate ([0-9a-f]{12})\s*$", outcome.log, re.MULTILINE)
        end_failed(uri, recipe, record, trial, digits[-1] if digits else None, problem)
        return TrialRecord(trial.id, trial.params, FAILED, workspace.state, problem=problem)
    told = json.loads(report)
    figures = {name: told.get(name) for name in FIGURES}
    if told.get("validation_loss") is None:
        return TrialRecord(
            trial.id, trial.params, FAILED, workspace.state, problem="it has no validation loss", **figures
        )
    history = _output(workspace, outcome.commit, "data/adapter/history.jsonl") or ""
    lines = [json.loads(line) for line in history.splitlines() if line.strip()]
    run_id = record_trial(uri, recipe, record, trial, told, lines)
    return TrialRecord(
        trial.id, trial.params, DONE, workspace.state, told["candidate"], run_id, trained=outcome.trained, **figures
    )


def _output(workspace: Workspace, commit: str | None, path: str) -> str | None:
    """An out of an experiment, from DVC's cache; None where it is not there."""
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        return dvc.api.read(path, repo=str(workspace.root), rev=commit, encoding="utf-8")
    except (DvcException, OSError):
        return None


def _status(record: SweepRecord, trial: Trial) -> str | None:
    there = record.trials.get(trial.id)
    return there.status if there else None


@contextmanager
def _alone(root: Path, name: str) -> Iterator[None]:
    """One process a sweep. The kernel lets go when it ends, however it ends."""
    path = root / PLACE / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RegistryError(f"the sweep {name} is running already; wait for it, or give another --name") from None
        yield


def describe(root: Path) -> list[dict[str, Any]]:
    """Every sweep of the checkout, the newest first: name, keys, how many trials ended well and failed, the best."""
    told = []
    for name in names(root):
        record = read_sweep(root, name)
        if record is not None:
            best = rank(record)[:1]
            told.append(
                {
                    "name": name,
                    "keys": record.keys,
                    "done": len(record.done()),
                    "failed": len(record.failed()),
                    "best": best[0].loss if best else None,
                    "params": best[0].params if best else None,
                }
            )
    return told
