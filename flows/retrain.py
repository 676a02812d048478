"""Retrain on what has come in: one run a data version, judged by the gate, told in one message.

    python -m flows.retrain                    # now, on whatever lies there
    python -m flows.retrain --force-drift      # although the new rows lie far from the old ones

The data version is claimed in the ledger before anything runs, so that the schedule, an event that came twice and a
person at the keyboard never train on it twice; a run that was killed gives it back (medtune/registry/data_claims.py).
"""

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.context import FlowRunContext
from prefect.logging.loggers import LoggingAdapter
from prefect.states import Completed, Failed, State

from flows import message as messages
from flows.after import ask, push_data, tell
from flows.data_version import check_incoming
from flows.intake import settled
from flows.lock import PipelineBusy, pipeline_lock
from flows.pipeline import decision_state, run_stages, summary
from flows.target import with_target
from flows.word import leave, recorded, to_its_end
from medtune.params.errors import UserError
from medtune.params.recipe import PARAMS, Recipe, load_recipe
from medtune.registry.data_claims import Claim, DataTaken, claim, claims, finish, holder, release
from medtune.tracking.secrets import redact

if TYPE_CHECKING:
    from medtune.corpus.newcomers import Newcomers
    from medtune.registry.ledger import Ledger

NAME = "medtune-retrain"
AFTER = "validate"  # the stage whose outs tell how the new rows differ


class Told(UserError):
    """A failure that everybody has been told of already."""


class Held(UserError):
    """The new rows lie too far from the old ones to train on unseen."""

    def __init__(self, drift: dict[str, Any]) -> None:
        super().__init__("; ".join(drift["alarms"]))
        self.drift = drift


@flow(name=NAME, persist_result=False)
def retrain(
    data: str | None = None,
    reason: str = "by hand",
    force_drift: bool = False,
    take_over: bool = False,
    root: Path = Path("."),
) -> State:
    """Train on the rows that are there now, judge the candidate, promote or reject it, and say so.

    Ends Completed, in a state named Rejected, Inconclusive, Held, Skipped or Unchanged where it came to that, or
    Failed.

    Args:
        data: The data version that an event told of. Where more rows came in since, those are trained on too.
        reason: Why, for the message and the ledger.
        force_drift: Train although the new rows lie far from those that the champion learned.
        take_over: Train although another run has claimed these rows; for where you know that it is dead.
        root: The checkout. Leave it: the worker runs in the one that was deployed.
    """
    root = root.resolve()
    return recorded(root, lambda: _locked(root, Wanted(data, reason, force_drift, take_over)))


@dataclass(frozen=True)
class Wanted:
    """What the flow was asked for; see its arguments."""

    data: str | None
    reason: str
    force_drift: bool
    take_over: bool


@dataclass
class Work:
    """One retrain in work. mine: it has claimed the data version; drift: the report on its rows, once there is one."""

    root: Path
    recipe: Recipe
    lock: int
    log: LoggingAdapter
    here: "Newcomers"
    ledger: "Ledger"
    wanted: Wanted
    who: dict[str, Any]
    mine: bool = True
    force_drift: bool = False
    drift: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    since: int = 0  # ledger row of the claim

    @property
    def model(self) -> str:
        return self.recipe.register_.model

    def between(self, stage: str) -> None:
        """After the rows are sifted and before anything is trained: how far do they lie from the old ones?"""
        if stage != AFTER or not self.mine:
            return
        self.drift = _drift(self.root, self.recipe, self.log)
        hold = self.recipe.retrain.drift.action == "hold" and not self.force_drift
        if self.drift and self.drift["alarms"] and hold:
            raise Held(self.drift)


def _locked(root: Path, wanted: Wanted) -> State:
    log = get_run_logger()
    try:
        with pipeline_lock(root) as lock:
            return _retrain(root, lock, log, wanted)
    except PipelineBusy as error:
        return Completed(name="Skipped", message=str(error))
    except Told as error:
        return Failed(message=str(error))
    except UserError as error:  # before anything was claimed: a recipe or a file that nobody can read
        log.error("%s", error)
        tell(*messages.failure("medtune", str(error), wanted.reason), log)
        return Failed(message=str(error))


def _retrain(root: Path, lock: int, log: LoggingAdapter, wanted: Wanted) -> State:
    from medtune.corpus.newcomers import look
    from medtune.registry.ledger import open_ledger

    recipe = load_recipe(root / PARAMS)
    check_incoming(root, log.info)
    settled(root, recipe.retrain, log)
    here = look(root, recipe.download, recipe.retrain, say=log.info)
    for note in here.notes:
        log.warning("%s", note)
    work = Work(root, recipe, lock, log, here, open_ledger(root), wanted, holder(root, flow_run=_flow_run()))
    if (state := _claim(work)) is not None:
        return state
    try:
        return _run(work)
    except Held as error:
        _end(work, "held", str(error))
        tell(*messages.held(recipe, error.drift, wanted.reason), log)
        return Completed(name="Held", message=str(error))
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        log.error("%s", sentence)
        tell(*messages.failure(work.model, sentence, wanted.reason, _written(work), work.notes), log)
        _end(work, "failed", sentence)
        if isinstance(error, UserError):
            raise Told(sentence) from error
        raise
    except BaseException:
        _stopped(work)
        raise


def _claim(work: Work) -> State | None:
    """Take the data version; the state to end in where there is nothing to do for this run."""
    here, wanted, log = work.here, work.wanted, work.log
    event = wanted.data is not None
    known = claims(work.ledger, work.model)
    work.force_drift = wanted.force_drift or known.get(here.data, Claim(here.data)).forced
    if event and wanted.data != here.data:
        log.info("the event told of data version %s; by now it is %s", wanted.data[:12], here.data[:12])
        told = known.get(wanted.data)
        if told is not None and told.state == "done" and not here.enough:
            return Completed(name="Skipped", message=f"an event that came late: {told.outcome} already; {here.why}")
    try:
        work.since = claim(
            work.ledger, work.model, here.data, work.who, wanted.reason,
            again=not event, forced=work.force_drift, take_over=wanted.take_over,
        ).seq  # fmt: skip
    except DataTaken as error:
        log.info("%s", error)
        if event or error.claim.state == "claimed":
            return Completed(name="Skipped", message=str(error))
        work.mine = False  # trained on before: what else changed (the recipe, the code) is DVC's to tell
    return None


def _run(work: Work) -> State:
    root, log = work.root, work.log
    if work.recipe.retrain.follow_hub and work.here.revision:
        work.recipe = follow(root, work.here.revision, log)
        work.notes.append(f"The dataset moved: {PARAMS} is pinned to {work.here.revision}; commit it.")
    before = _report_stamp(root)
    data = work.here.data if work.mine else None
    run_stages(root, work.recipe, work.lock, log, work.here.whole, data=data, between=work.between)
    report = messages.read_report(root)
    state = _state(work, report)
    if not work.mine and _report_stamp(root) == before:
        push_data(root, log)  # what an earlier push left
        return Completed(name="Unchanged", message="no new row, knob or line of code that a stage reads")
    # in this order: a kill before the end is written leads to the same run from the cache, and to a second message;
    # the other way round nobody would be told
    if note := ask(work.recipe, report, work.drift, log):
        work.notes.append(note)
    tell(*messages.message(work.recipe, report, work.wanted.reason, work.drift, " ".join(work.notes)), log)
    if work.mine:
        from medtune.corpus.newcomers import mark_learned

        mark_learned(root, work.here)
        finish(work.ledger, work.model, work.here.data, report["decision"], report["version"])
    push_data(root, log)
    return state


def _state(work: Work, report: dict[str, Any]) -> State:
    """The gate's word as the flow's state. It is in the report: a store that is away by now takes nothing from it."""
    try:
        return decision_state(work.root, work.recipe, work.log)
    except UserError as error:
        work.log.warning("%s", error)
        if report["decision"] == "approved":
            return Completed(message="approved")
        return Completed(name=report["decision"].capitalize(), message="; ".join(report["reasons"]))


def _end(work: Work, outcome: str, reason: str) -> None:
    """Write down how it ended; a ledger that is away leaves the claim to whoever finds it dead."""
    if not work.mine:
        return
    try:
        finish(work.ledger, work.model, work.here.data, outcome, reason=reason)
    except Exception as error:
        work.log.error("that it %s could not be written into the ledger (%s)", outcome, redact(error))


def _stopped(work: Work) -> None:
    """Cancelled in Prefect's page, it stays so until a person begins anew; ended with its worker, it is taken up."""
    if not work.mine:
        return
    try:
        if _cancelled():
            finish(work.ledger, work.model, work.here.data, "cancelled", reason="cancelled in Prefect")
        else:
            release(work.ledger, work.model, work.here.data, work.who, "the run was stopped", own=True)
    except Exception as error:
        work.log.error("that it was stopped could not be written into the ledger (%s)", redact(error))


def _cancelled() -> bool:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType

    if (run := _flow_run()) is None:
        return False
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(run)).state.type in (StateType.CANCELLING, StateType.CANCELLED)
    except Exception:  # a server that is away has cancelled nothing
        return False


def _written(work: Work) -> str:
    """What stands in the registry since the claim, although the run failed."""
    try:
        events = work.ledger.events(work.model, kinds={"registered", "promoted"})
    except Exception:
        return "Whether it registered anything cannot be seen: the ledger does not answer."
    made = [event for event in events if event.seq > work.since] if work.mine else []
    if promoted := [event for event in made if event.event == "promoted"]:
        return f"Version {promoted[-1].body.get('number')} had been promoted before that, and is the champion."
    if made:
        return "Its version had been registered before that; the champion is as before."
    return "Nothing was registered and the champion is as before."


def follow(root: Path, revision: str, log: LoggingAdapter) -> Recipe:
    """Pin the dataset's newest commit in params.yaml, its comments kept."""
    from medtune.params import recipes

    path = root / PARAMS
    text, _ = recipes.compose(
        path.read_text(encoding="utf-8"), [f'download.revision="{revision}"'], lambda kind, name: revision, f"{path}"
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    log.info("the dataset moved: download.revision is now %s (%s; commit it)", revision, PARAMS)
    return load_recipe(path)


def _drift(root: Path, recipe: Recipe, log: LoggingAdapter) -> dict[str, Any] | None:
    """The report on the new rows, in Prefect's Artifacts too; a report that cannot be made stops nothing."""
    from flows.drift_artifact import publish
    from medtune.registry.drift_report import drift_report

    try:
        report = drift_report(root, recipe)
    except UserError as error:
        log.warning("how far the new rows lie from the old ones is unknown: %s", error)
        return None
    if report is None:
        return None
    try:
        publish(root, recipe, report)
    except Exception as error:  # Prefect away: the report is used all the same
        log.warning("the drift report is not in Prefect's Artifacts (%s: %s)", type(error).__name__, redact(error))
    for sentence in report["alarms"]:
        log.warning("drift: %s", sentence)
    return report


def _report_stamp(root: Path) -> tuple[int, int] | None:
    try:
        found = (root / "reports/register.json").stat()
        return found.st_mtime_ns, found.st_size
    except FileNotFoundError:
        return None


def _flow_run() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None


def main() -> None:
    with_target("flows.retrain")
    parser = argparse.ArgumentParser(description="Retrain on what has come in, judge it, and say what came of it.")
    parser.add_argument("--reason", default="by hand", help="why, for the message and the ledger")
    parser.add_argument("--force-drift", action="store_true", help="train although the new rows lie far from the old")
    parser.add_argument(
        "--take-over", action="store_true", help="although another run has claimed these rows: you know that it is dead"
    )
    arguments = parser.parse_args()
    root = Path()
    try:
        recipe = load_recipe(root / PARAMS)
        state, heard = to_its_end(
            retrain,
            reason=arguments.reason,
            force_drift=arguments.force_drift,
            take_over=arguments.take_over,
            root=root,
        )
        if not state.is_completed():
            print(f"error: {state.message}", file=sys.stderr)
        elif state.name in ("Skipped", "Held", "Unchanged"):
            print(f"{state.name}: {state.message}")
        else:
            print(summary(root, recipe, state))
        leave(heard, 0 if state.is_completed() else 1)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
