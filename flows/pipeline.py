"""The whole pipeline as one Prefect flow over the graph of dvc.yaml.

    python -m flows.pipeline                  # what changed, and all that follows
    python -m flows.pipeline --force merge    # merge even though nothing changed, then what follows

DVC decides what is due and keeps the bytes; Prefect keeps time, logs and states. No server is needed.
"""

import argparse
import json
import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.logging.loggers import LoggingAdapter
from prefect.states import Completed, Failed, State

from flows.graph import and_downstream, changed_stages, read_graph
from flows.lock import pipeline_lock
from flows.stage_run import StageFailed, run_stage
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


@flow(name="medtune-pipeline", persist_result=False)
def pipeline(force: list[str] | None = None, root: Path = Path(".")) -> State:
    """Bring every stage of dvc.yaml up to date, in order; `force` names stages that run in any case.

    Ends Completed, in a state named Rejected or Inconclusive where the gate did not approve, or Failed with a sentence.
    """
    log = get_run_logger()
    root = root.resolve()
    try:
        with pipeline_lock(root) as lock:
            recipe = load_recipe(root / PARAMS)
            graph = read_graph(root)
            if unknown := sorted(set(force or ()) - graph.keys()):
                raise UserError(f"there is no stage {unknown[0]}; dvc.yaml has {', '.join(graph)}")
            due = and_downstream(graph, changed_stages(root) | set(force or ()))
            log.info("to do: %s", " → ".join(due) if due else "nothing, every stage is as in dvc.lock")
            for stage in graph:
                _run(stage, recipe, root=root, due=stage in due, force=stage in (force or ()), lock=lock)
            return _decision(root, recipe, log)
    except UserError as error:
        log.error("%s", error)
        return Failed(message=str(error))


def _run(stage: str, recipe: Recipe, **arguments: object) -> None:
    options = {"name": stage, "task_run_name": stage}
    if stage == "download" and "hub" in (recipe.base.source, recipe.download.source):
        options |= {"retries": len(DOWNLOAD_RETRY_SECONDS), "retry_delay_seconds": DOWNLOAD_RETRY_SECONDS}
    state = reproduce.with_options(**options)(stage, **arguments, return_state=True)
    if not state.is_completed():
        raise StageFailed(f"{stage}: {state.message}")


def _decision(root: Path, recipe: Recipe, log: LoggingAdapter) -> State:
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
            "                git add dvc.lock data/first_seen.txt reports/register.json && git commit",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the stages of dvc.yaml that are not up to date, in order.")
    parser.add_argument("--force", metavar="STAGE", action="append", help="run this stage in any case (repeatable)")
    arguments = parser.parse_args()
    root = Path()
    try:
        recipe = load_recipe(root / PARAMS)
        with pipeline_lock(root):  # refuses at once what the flow would refuse after Prefect has started
            pass
        state = pipeline(force=arguments.force, root=root, return_state=True)
        if not state.is_completed():
            raise UserError(state.message)
        print(summary(root, recipe, state))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
