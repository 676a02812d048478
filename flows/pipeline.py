"""The whole pipeline as one Prefect flow over the graph of dvc.yaml.

    python -m flows.pipeline                           # what changed, and all that follows
    python -m flows.pipeline --force merge             # merge even though nothing changed, then what follows
    python -m flows.pipeline --data-version 3f2a9c01   # the rows of then (data/versions.jsonl) through today's recipe

DVC decides what is due and keeps the bytes; Prefect keeps time, logs and states. No server is needed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.logging.loggers import LoggingAdapter
from prefect.states import Completed, Failed, State

from flows.data_version import JOURNAL as VERSIONS
from flows.data_version import STAGE as FIRST
from flows.data_version import check_incoming, find_version, record_version, restore_version, track_incoming
from flows.graph import and_downstream, changed_stages, read_graph
from flows.intake import settled
from flows.lock import pipeline_lock
from flows.stage_run import StageFailed, run_stage
from flows.target import with_target
from flows.word import leave, recorded, to_its_end
from medtune.corpus.frozen import frozen
from medtune.params.errors import UserError
from medtune.params.recipe import PARAMS, Recipe, load_recipe

REGISTER = Path("reports/register.json")
# Only download meets the network. It retries single files itself; these are for a hub that is down for longer.
DOWNLOAD_RETRY_SECONDS = [10, 60, 300]


# Never cached by Prefect: whether a stage is due is DVC's to say.
@task(cache_policy=NO_CACHE, persist_result=False)
def reproduce(stage: str, root: Path, due: bool, force: bool = False, lock: int | None = None) -> State | None:
    """One stage; ends Cached where DVC had nothing to run, and Failed with the stage's sentence."""
    if not due:
        return Completed(name="Cached", message="as in dvc.lock")
    try:
        outcome = run_stage(stage, root, get_run_logger().info, force, () if lock is None else (lock,))
    except StageFailed as error:
        context = TaskRunContext.get()
        if context.task_run.run_count <= context.task.retries:
            raise  # Prefect tries again
        return Failed(message=str(error))
    return None if outcome == "ran" else Completed(name="Cached", message=f"{outcome} by dvc")


Between = Callable[[str], None]  # told after each stage; raises to stop before the next one


@flow(name="medtune-pipeline", persist_result=False)
def pipeline(force: list[str] | None = None, root: Path = Path("."), data_version: str | None = None) -> State:
    """Bring every stage of dvc.yaml up to date, in order.

    Ends Completed, in a state named Rejected or Inconclusive where the gate did not approve, or Failed with a sentence.

    Args:
        force: Stages that run even though nothing changed, such as merge; what follows runs if they made anything new.
        root: The checkout. Leave it: the worker runs in the one that was deployed.
        data_version: Replay the rows of an earlier run: the first digits of a version in data/versions.jsonl.
    """
    root = root.resolve()
    return recorded(root, lambda: _pipeline(root, force, data_version))


def _pipeline(root: Path, force: list[str] | None, data_version: str | None) -> State:
    log = get_run_logger()
    try:
        with pipeline_lock(root) as lock:
            recipe = load_recipe(root / PARAMS)
            # a replay reads what lies in DVC's cache
            incoming = None
            if not data_version:
                check_incoming(root, log.info)
                incoming = settled(root, recipe.retrain, log)
            run_stages(root, recipe, lock, log, incoming, force, data_version)
            state = decision_state(root, recipe, log)
            if not data_version:
                from medtune.corpus.newcomers import mark_learned

                mark_learned(root)
            return state
    except UserError as error:
        log.error("%s", error)
        return Failed(message=str(error))


def run_stages(
    root: Path,
    recipe: Recipe,
    lock: int,
    log: LoggingAdapter,
    incoming: Sequence[str] | None,
    force: list[str] | None = None,
    data_version: str | None = None,
    data: str | None = None,
    between: Between | None = None,
) -> None:
    """Every stage that is due, in order, with the pipeline's lock held. StageFailed where one fails.

    `incoming`: the files of data/incoming that DVC and download see, until download has ended; None: whatever is there.
    `data`: the digest that a retrain claimed, written beside DVC's hash of the rows. `between` is told of each stage.
    """
    (root / "data/incoming").mkdir(parents=True, exist_ok=True)  # git keeps no empty folder, and download reads it
    if data_version is None:
        check_incoming(root, log.info)
    graph = read_graph(root)
    if unknown := sorted(set(force or ()) - graph.keys()):
        raise UserError(f"there is no stage {unknown[0]}; dvc.yaml has {', '.join(graph)}")
    if data_version is not None:
        restore_version(root, find_version(root, data_version), log.info)
    with ExitStack() as intake:
        if incoming is not None:
            intake.enter_context(frozen(root, incoming))
        changed = changed_stages(root)
        if data_version is None:
            track_incoming(root, changed, log.info)
        else:
            changed.discard(FIRST)  # it would bring the newest rows
        due = and_downstream(graph, changed | set(force or ()))
        log.info("to do: %s", " → ".join(due) if due else "nothing, every stage is as in dvc.lock")
        for stage in graph:
            _run(stage, recipe, root=root, due=stage in due, force=stage in (force or ()), lock=lock)
            if stage == FIRST:
                intake.close()  # rows that come while it trains are the next version's, and may be seen
                if data is not None or stage in due or not (root / VERSIONS).exists():
                    record_version(root, data)
            if between is not None:
                between(stage)


def _run(stage: str, recipe: Recipe, **arguments: object) -> None:
    options = {"name": stage, "task_run_name": stage}
    if stage == "download" and "hub" in (recipe.base.source, recipe.download.source):
        options |= {"retries": len(DOWNLOAD_RETRY_SECONDS), "retry_delay_seconds": DOWNLOAD_RETRY_SECONDS}
    state = reproduce.with_options(**options)(stage, **arguments, return_state=True)
    if not state.is_completed():
        raise StageFailed(f"{stage}: {state.message}")


def decision_state(root: Path, recipe: Recipe, log: LoggingAdapter) -> State:
    """The gate's word as the flow's state, and whether the registry still has what dvc.lock claims."""
    from medtune.registry.status import read_status

    lost = read_status(root, recipe)["lost"]  # a sentence that names the command to register anew
    if lost:
        log.warning("%s", lost)
    decision = json.loads((root / REGISTER).read_text(encoding="utf-8"))
    if decision["decision"] == "approved":
        return Completed(message=lost or "approved")
    reasons = [reason for reason in (lost, *decision["reasons"]) if reason]
    return Completed(name=decision["decision"].capitalize(), message="; ".join(reasons))


def summary(root: Path, recipe: Recipe, state: State) -> str:
    """The last lines of a run: what was made, where to look, what to run next."""
    from medtune.registry.status import read_status, render

    return "\n".join(
        [
            "",
            f"The pipeline is up to date: {state.name}" + (f" ({state.message})" if state.message else ""),
            render(read_status(root, recipe)),
            "",
            "Where to look   reports/card/card.html         the release card: decision, figures, answers, safety",
            "                reports/data_docs/index.html   the corpus and its checks",
            "                reports/evaluate/              scores, answers and figures, base against adapter",
            "                make ui                        runs and registered versions in the browser",
            "What next       medtune status                 champion and challenger with the deciding figures",
            '                medtune ask "…"                ask the champion',
            "                git add dvc.lock data reports && git commit   what made this version, for the team",
        ]
    )


def main() -> None:
    with_target("flows.pipeline")
    parser = argparse.ArgumentParser(description="Run the stages of dvc.yaml that are not up to date, in order.")
    parser.add_argument("--force", metavar="STAGE", action="append", help="run this stage in any case (repeatable)")
    parser.add_argument(
        "--data-version", metavar="HASH", help="replay the rows of an earlier run, of data/versions.jsonl"
    )
    arguments = parser.parse_args()
    root = Path()
    try:
        recipe = load_recipe(root / PARAMS)
        with pipeline_lock(root):  # refuses at once what the flow would refuse after Prefect has started
            pass
        state, heard = to_its_end(pipeline, arguments.force, root, arguments.data_version)
        if state.is_completed():
            print(summary(root, recipe, state))
        else:
            print(f"error: {state.message}", file=sys.stderr)
        leave(heard, 0 if state.is_completed() else 1)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
