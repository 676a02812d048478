"""The nightly round: every byte of the registry is read, what a kill left open is closed, what is safe is mended.

    python -m flows.nightly              # now; exit status 1 where something is left for a person
    python -m flows.nightly --check      # changes nothing

It keeps no training waiting and takes no lock for hours: what `medtune doctor` repairs, it repairs under the registry's
lock on what it finds then, and it leaves alone what is younger than an hour, so that a pipeline may work meanwhile.
Only dvc.lock, and what it says of the registry, is not to be judged while stages write it: then that is a note.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed, State

from flows.target import with_target
from flows.word import recorded
from medtune.params.errors import UserError
from medtune.params.recipe import PARAMS, load_recipe
from medtune.tracking.holder import busy
from medtune.tracking.secrets import redact

if TYPE_CHECKING:
    from medtune.registry.doctor import Report

NAME = "medtune-doctor"
ARTIFACT = "medtune-doctor"
UNSETTLED = frozenset({"dvc_lock", "lost"})  # troubles that a pipeline in work shows for a moment


@flow(name=NAME, persist_result=False)
def doctor(deep: bool = True, repair: bool = True, root: Path = Path(".")) -> State:
    """Look at the registry, close what killed runs left open, mend what is safe to mend.

    Ends Completed in a state named Sound or Repaired, or Failed, named Troubled, with what is left for a person.

    Args:
        deep: Read every byte of every version and of DVC's cache, not only names and sizes.
        repair: Mend what is safe to mend. Without it nothing is changed, and no run is closed.
        root: The checkout. Leave it: the worker runs in the one that was deployed.
    """
    root = root.resolve()
    return recorded(root, lambda: _doctor(root, deep, repair))


def _doctor(root: Path, deep: bool, repair: bool) -> State:
    log = get_run_logger()
    try:
        return _round(root, deep, repair, log)
    except UserError as error:
        log.error("%s", error)
        _tell("the nightly doctor could not look", str(error), log)
        return Failed(name="Troubled", message=redact(error))


def _round(root: Path, deep: bool, repair: bool, log) -> State:
    from medtune.registry.doctor import doctor as look

    recipe = load_recipe(root / PARAMS)
    before = busy(root)
    report = look(root, recipe, repair, deep, log.info)
    unsettled = [item for item in report.left if item.code in UNSETTLED] if before or busy(root) else []
    left = [item for item in report.left if item not in unsettled]
    reaped = _reap(root, log) if repair else []
    done = [f"{item.sentence}: {what}" for item, what in report.repaired] + reaped
    notes = [item.sentence for item in report.warnings]
    notes += [f"{item.sentence} (seen while a pipeline was in work; the next round looks again)" for item in unsettled]
    for line in done:
        log.info("repaired: %s", line)
    for item in left:
        log.error("left: %s; %s", item.sentence, item.mend)
    for line in notes:
        log.info("note: %s", line)
    sentences = [f"{item.sentence}; {item.mend}" for item in left]
    model = recipe.register_.model
    if left:
        _tell(f"{model}: {len(left)} left for a person", _body(sentences, done), log)
    elif done:
        _tell(f"{model}: repaired", _body(sentences, done), log)
    try:
        _publish(report, left, done, notes)
    except Exception as error:  # Prefect away: people have been told, and the log has it all
        log.warning("the report is not in Prefect's Artifacts (%s: %s)", type(error).__name__, redact(error))
    if left:
        return Failed(name="Troubled", message="\n".join(sentences))
    if done:
        return Completed(name="Repaired", message="\n".join(done))
    return Completed(name="Sound", message="every byte was read" if deep else "names and sizes were looked at")


def _reap(root: Path, log) -> list[str]:
    """Flow runs that a kill left open; a server that is away must not hide what the doctor found."""
    from prefect.client.orchestration import get_client

    from flows.missed import forget_old
    from flows.reap import reap_flow_runs

    try:
        with get_client(sync_client=True) as client:
            if old := forget_old(client):
                log.info("%s runs of the watcher, older than three days: deleted", f"{old:,}")
        return reap_flow_runs(root)
    except Exception as error:
        log.warning("flow runs could not be looked at (%s: %s)", type(error).__name__, redact(error))
        return []


def _publish(report: "Report", left: list, done: list[str], notes: list[str]) -> None:
    from prefect.artifacts import create_markdown_artifact

    parts = [f"# {'Troubled' if left else 'Repaired' if done else 'Sound'}"]
    parts.append("Every byte was read." if report.deep else "Names and sizes only.")
    if left:
        parts.append("## Left for a person\n" + "\n".join(f"- {item.sentence}  \n  → {item.mend}" for item in left))
    if done:
        parts.append("## Repaired\n" + "\n".join(f"- {line}" for line in done))
    if notes:
        parts.append("## Notes\n" + "\n".join(f"- {line}" for line in notes))
    create_markdown_artifact(redact("\n\n".join(parts)), key=ARTIFACT, description="The registry, as the doctor saw it")


def _body(left: list[str], done: list[str]) -> str:
    lines = ["Left for a person:", *(f"  {line}" for line in left)] if left else []
    lines += ["Repaired:", *(f"  {line}" for line in done)] if done else []
    return redact("\n".join(lines))


def _tell(subject: str, body: str, log) -> None:
    from flows.notify import send

    send(subject, body, log)


def main() -> None:
    with_target("flows.nightly")
    parser = argparse.ArgumentParser(description="The nightly round: verify, reap, repair.")
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--quick", action="store_true", help="names and sizes only")
    arguments = parser.parse_args()
    state = doctor(deep=not arguments.quick, repair=not arguments.check, return_state=True)
    print(f"{state.name}: {state.message}")
    sys.exit(0 if state.is_completed() else 1)


if __name__ == "__main__":
    main()
