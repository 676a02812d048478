"""A person's word on an approved version, in Prefect's own page: register.promotion manual.

    medtune-approve/by-hand      started by a retrain; suspended until somebody answers, no process waits meanwhile

The run's page shows the figures and a form (promote or reject, by whom, why). Resumed with it, the run does what
`medtune promote` or `medtune reject` would. Without an answer it lapses after retrain.approval_days: the version stays
what it is, and can still be promoted from the command line.
"""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from prefect import flow, get_run_logger
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.logging.loggers import LoggingAdapter
from prefect.states import Cancelled, Completed, Failed, State
from pydantic import Field

from flows.word import recorded
from medtune.params.errors import UserError
from medtune.params.recipe import PARAMS, Recipe, load_recipe

NAME = "medtune-approve"
# Prefect fails a suspended run that nobody resumed; ours ends it before, in a state that says what happened
GRACE = timedelta(days=1)


class Word(RunInput):
    """What a person says of a version."""

    decision: Literal["promote", "reject"] = Field(description="promote: it becomes champion; reject: it never will")
    by: str = Field(min_length=1, max_length=200, description="who answers for it; stands in the ledger for ever")
    reason: str = Field(min_length=1, max_length=4000, description="why; stands in the ledger for ever")


@flow(name=NAME, persist_result=True)  # a run that is suspended and resumed must find its input again
def approve(version: str, figures: str = "", root: Path = Path(".")) -> State:
    """Ask a person whether an approved version becomes champion, and do what they say.

    Args:
        version: The version: its number in MLflow or the first digits of its digest.
        figures: What the person is to see beside the form, in Markdown.
        root: The checkout. Leave it: the worker runs in the one that was deployed.
    """
    root = root.resolve()
    return recorded(root, lambda: _approve(root, version, figures))


def _approve(root: Path, version: str, figures: str) -> State:
    from medtune.registry.ledger import open_ledger
    from medtune.registry.standing import champion, resolve

    log = get_run_logger()
    try:
        recipe = load_recipe(root / PARAMS)
        ledger, model = open_ledger(root), recipe.register_.model
        standing = resolve(ledger, model, version)
        now = champion(ledger, model)
        if now is not None and now.version == standing.version:
            return Completed(name="Promoted", message=f"{standing.name} is the champion already")
        if refusal := standing.refusal():
            return Completed(name="Overtaken", message=f"{refusal}: there is nothing to approve any more")
        days = recipe.retrain.approval_days
        asked = _asked()
        log.info("%s waits for a person's word: press Resume on this run's page", standing.name)
        word = suspend_flow_run(
            wait_for_input=Word.with_initial_data(description=figures or f"{standing.name}: `medtune status` has more"),
            timeout=int((timedelta(days=days) + GRACE).total_seconds()),
            key="word",
        )
        if datetime.now(UTC) - asked > timedelta(days=days):
            return expired(standing.name, days)
        return _do(root, recipe, standing.version, word, log)
    except UserError as error:
        log.error("%s", error)
        return Failed(message=str(error))


def expired(name: str, days: int) -> State:
    """The end of a run that nobody answered; also what the reaper gives it (flows/reap.py)."""
    return Cancelled(
        name="Expired",
        message=f"nobody answered within {days} days: {name} stays what it is; `medtune promote` can still make it "
        "champion",
    )


def _do(root: Path, recipe: Recipe, version: str, word: Word, log: LoggingAdapter) -> State:
    from medtune.registry.champion import verified
    from medtune.registry.ledger import open_ledger
    from medtune.registry.promotion import project, promote, reject
    from medtune.registry.standing import champion, resolve

    ledger, names = open_ledger(root), recipe.register_
    ledger.verify()
    standing, now = resolve(ledger, names.model, version), champion(ledger, names.model)
    against = standing.decision.body.get("against") if standing.decision else None
    if word.decision == "promote" and now is not None and now.version not in (against, standing.version):
        raise UserError(
            f"{standing.name} was judged against {str(against)[:12] if against else 'no champion'}, and version "
            f"{now.body.get('number')} became champion since: `dvc repro -f -s register` judges it anew, or "
            f"`medtune promote {standing.number}` makes it champion all the same"
        )
    event = None
    if word.decision == "reject":
        standing = reject(ledger, names.model, version, word.by, word.reason)
        done = Completed(name="Rejected", message=f"{standing.name} was rejected by {word.by}: {word.reason}")
    else:
        standing, event = promote(
            ledger, names.model, version, word.by, word.reason, check=lambda item: verified(root, item)
        )
        done = Completed(name="Promoted", message=f"{standing.name} is the champion, by {word.by}: {word.reason}")
    for sentence in project(root, ledger, names.model, names.adapter_model, [event]):
        log.info("%s", sentence)
    log.info("%s", done.message)
    return done


def _asked() -> datetime:
    """When this run was first begun: it is begun again when it is resumed."""
    context = FlowRunContext.get()
    started = context.flow_run.start_time if context and context.flow_run else None
    return started or datetime.now(UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask for a person's word on a version, through Prefect's page.")
    parser.add_argument("version", help="number or digest of the version")
    arguments = parser.parse_args()
    sys.exit(
        f"a run that is suspended needs a worker to go on: start it as a deployment,\n"
        f"  prefect deployment run {NAME}/by-hand --param version={arguments.version}\n"
        f"or decide at once: medtune promote {arguments.version} --by NAME --reason TEXT"
    )


if __name__ == "__main__":
    main()
