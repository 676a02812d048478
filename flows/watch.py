"""Look for new rows, and tell Prefect when there are enough for a retrain. Starts nothing itself.

    python -m flows.watch                 # one look
    python -m flows.watch --every 30      # until Ctrl-C, for where no worker runs the deployment

What it looks at: the dataset's newest commit on the hub, data/incoming, and the folder of retrain.prefix (s3://…),
whose files it copies to data/incoming. What it tells is the event medtune.data.arrived, which an automation turns into
a run of medtune-retrain/on-new-data. It tells again until a run has claimed the data version, since an event may be
lost; however often it tells, the claim lets one run through.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger
from prefect.events import emit_event
from prefect.logging.loggers import LoggingAdapter
from prefect.states import Completed, Failed, State

from flows.data_version import check_incoming
from flows.missed import forget_others
from flows.target import with_target
from medtune.params.errors import UserError
from medtune.params.recipe import PARAMS, Recipe, load_recipe
from medtune.registry.data_claims import Claim, claims, release_dead

if TYPE_CHECKING:
    from medtune.corpus.newcomers import Newcomers
    from medtune.registry.ledger import Ledger

NAME = "medtune-watch"
EVENT = "medtune.data.arrived"
TOLD = Path("mlruns/told.json")  # what was told last and when; lost, it is told once more
AGAIN_SECONDS = 600.0  # a worker that is busy elsewhere takes its time; an event that was lost is told again


@flow(name=NAME, persist_result=False, log_prints=True)
def watch(root: Path = Path(".")) -> State:
    """Look for new rows once.

    Ends Completed, in a state named Told, Waiting, Claimed, Stuck, Unreachable or Nothing, or Failed.

    Args:
        root: The checkout. Leave it: the worker runs in the one that was deployed.
    """
    log = get_run_logger()
    forget_others(log)
    try:
        name, sentence = tick(root.resolve(), log)
    except UserError as error:
        log.error("%s", error)
        return Failed(message=str(error))
    return Completed(name=name, message=sentence)


def tick(root: Path, log: LoggingAdapter, now: float | None = None) -> tuple[str, str]:
    """One look: the state's name and its sentence. `now`: seconds of the clock, for a simulated year."""
    from medtune.corpus.newcomers import look, set_aside
    from medtune.registry.ledger import open_ledger

    now = time.time() if now is None else now
    recipe = load_recipe(root / PARAMS)
    check_incoming(root, log.info)
    told = _read_told(root)
    unreached = fetch(root, recipe.retrain.prefix, log) if recipe.retrain.prefix else ""
    here = look(root, recipe.download, recipe.retrain, now)
    for sentence in set_aside(root, here.broken):
        log.warning("%s", sentence)
    notes = [*here.notes, *([unreached] if unreached else [])]
    for note in notes:
        if note not in told.get("notes", ()):  # once, and not every minute
            log.warning("%s", note)
    ledger, model = open_ledger(root), recipe.register_.model
    for sentence in release_dead(ledger, model, root):
        log.warning("%s", sentence)
    known = claims(ledger, model).get(here.data, Claim(here.data))
    name, sentence = _verdict(root, recipe, here, known, ledger, told, now)
    if name == "Tell":
        name = "Told"
        if has_server():
            emit(model, here, sentence)
            told = {"data": here.data, "at": now}
            log.info("%s: told Prefect of data version %s", sentence, here.data[:12])
        else:
            sentence += "; no Prefect server is named (PREFECT_API_URL), so that nothing starts by itself: "
            sentence += "python -m flows.retrain"
    elif name == "Stuck" and told.get("stuck") != here.data:
        from flows.notify import send

        send(f"{model}: retrains are killed again and again", sentence, log)
        told |= {"stuck": here.data}
    if name == "Nothing" and unreached:
        name, sentence = "Unreachable", unreached
    _write_told(root, told | {"notes": notes})
    return name, sentence


def _verdict(
    root: Path, recipe: Recipe, here: "Newcomers", known: Claim, ledger: "Ledger", told: dict, now: float
) -> tuple[str, str]:
    if known.state == "claimed":
        return "Claimed", f"data version {here.data[:12]} is being worked on"
    reason = due(root, recipe, here, known, ledger)
    if reason is None and here.waiting:
        return "Waiting", "; ".join(item.sentence for item in here.waiting)
    if reason is None:
        return "Nothing", here.why if known.state == "free" else f"{here.why}; {known.outcome} at {known.at[:19]}Z"
    if known.exhausted:
        return "Stuck", (
            f"{reason}, but runs on data version {here.data[:12]} were killed {known.tries} times: look at their logs, "
            "then start one by hand (python -m flows.retrain)"
        )
    if told.get("data") == here.data and 0 <= now - told["at"] < AGAIN_SECONDS:
        return "Told", f"{reason}; told already, no run has claimed it yet"
    return "Tell", reason


def due(root: Path, recipe: Recipe, here: "Newcomers", known: Claim, ledger: "Ledger") -> str | None:
    """Why a retrain should start on what lies here, or None."""
    if known.state == "done":
        return None
    if known.begun:  # its rows are in the journal already and count as new no more
        return f"the retrain on data version {here.data[:12]} did not come to its end ({known.reason})"
    if here.enough:
        return here.why
    from medtune.registry.retract import pending_retrain
    from medtune.registry.row_places import rows_wherever

    asked = pending_retrain(ledger, recipe.register_.model, rows_wherever(root))
    return asked and str(asked["reason"])


def has_server() -> bool:
    """Whether somebody listens: a server that Prefect starts for one run alone has no automation."""
    from prefect.settings import get_current_settings

    return bool(get_current_settings().api.url)


def emit(model: str, here: "Newcomers", reason: str) -> None:
    emit_event(
        event=EVENT,
        resource={
            "prefect.resource.id": f"medtune.data.{model}",
            "prefect.resource.name": f"rows of {model}",
            "medtune.data": here.data,
        },
        payload={"data": here.data, "new_rows": here.new_rows, "reason": reason},
    )


def fetch(root: Path, prefix: str, log: LoggingAdapter) -> str:
    """What arrived at the prefix. One that is away keeps nobody from looking at data/incoming: its sentence, or ""."""
    from medtune.corpus.prefix import fetch_prefix

    try:
        for name in fetch_prefix(root, prefix, log.info):
            log.info("arrived: data/incoming/%s", name)
    except UserError as error:
        return f"retrain.prefix: {error}"
    return ""


def _read_told(root: Path) -> dict:
    """{"data", "at"}: what Prefect was told last; "stuck": what people were told of; "notes": said already."""
    try:
        found = json.loads((root / TOLD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_told(root: Path, told: dict) -> None:
    if told == _read_told(root):
        return
    path = root / TOLD
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    with_target("flows.watch")
    parser = argparse.ArgumentParser(description="Look for new rows, and tell Prefect when there are enough.")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="look again and again, until Ctrl-C")
    arguments = parser.parse_args()
    try:
        while True:
            state = watch(return_state=True)
            if arguments.every is None:
                print(f"{state.name}: {state.message}")
                sys.exit(1 if state.is_failed() else 0)
            time.sleep(arguments.every)
    except KeyboardInterrupt:
        print("ended")


if __name__ == "__main__":
    main()
