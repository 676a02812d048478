"""What follows a retrain's decision: a person is asked, everybody is told, the bytes go to DVC's remote.

None of it changes the decision, and none of it stops the flow: what cannot be done now is said, with the command that
does it.
"""

from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.logging.loggers import LoggingAdapter
from prefect.states import State

from flows import message as messages
from medtune.params.errors import UserError
from medtune.params.recipe import Recipe
from medtune.tracking.secrets import redact

UPLOAD_RETRY_SECONDS = [10, 60, 300]


def _may_pass(task: Task, run: TaskRun, state: State) -> bool:
    """No retry brings credentials, or room on a disk."""
    from flows.remote import RemoteTrouble

    error = state.result(raise_on_failure=False)
    return not isinstance(error, RemoteTrouble) or error.passing


@task(
    name="push",
    task_run_name="push",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(UPLOAD_RETRY_SECONDS),
    retry_delay_seconds=UPLOAD_RETRY_SECONDS,
    retry_condition_fn=_may_pass,
)
def _push(root: Path) -> str | None:
    from flows.remote import push

    return push(root)


def push_data(root: Path, log: LoggingAdapter) -> None:
    """What DVC made goes to its remote, where there is one; a remote that is away stops nothing."""
    from flows.remote import default_remote

    try:
        if default_remote(root) is None:
            return
    except UserError as error:
        log.warning("not pushed to the DVC remote: %s", error)
        return
    state = _push(root, return_state=True)
    if state.is_completed():
        log.info("%s", state.result(raise_on_failure=False) or "pushed to the DVC remote")
    else:
        log.warning("not pushed to the DVC remote: %s; `dvc push` brings it there", state.message)


def ask(recipe: Recipe, report: dict[str, Any], drift: dict[str, Any] | None, log: LoggingAdapter) -> str:
    """With promotion manual: start the run that waits for a person. Returns the sentence for the message."""
    number, version, champion = report["versions"]["merged"]["number"], report["version"], report["champion"]
    if recipe.register_.promotion != "manual" or report["decision"] != "approved":
        return ""
    if champion is not None and champion["version"] == version:
        return ""
    by_hand = f"medtune promote {number} --by NAME --reason TEXT"
    try:
        from prefect.deployments import run_deployment
        from prefect.settings import PREFECT_UI_URL

        seen = {"version": version, "figures": figures(recipe, report, drift)}
        for attempt in range(9):  # asked before and over, expired perhaps: a new one
            run = run_deployment(
                "medtune-approve/by-hand",
                parameters=seen,
                flow_run_name=f"approve version {number}",
                timeout=0,
                as_subflow=False,
                idempotency_key=f"approve-{version}-{report['run_id']}-{attempt}",
            )
            if run.state is None or not run.state.is_final():
                break
        link = f"{PREFECT_UI_URL.value()}/runs/flow-run/{run.id}"
    except Exception as error:  # no server, or nothing deployed: the command line is there in any case
        log.info("nobody can be asked through Prefect's page (%s: %s)", type(error).__name__, redact(error))
        return f"It waits for a person: {by_hand}"
    return f"It waits {recipe.retrain.approval_days} days for a person: {link} (Resume), or {by_hand}"


def figures(recipe: Recipe, report: dict[str, Any], drift: dict[str, Any] | None) -> str:
    """What the person who decides sees beside the form, in Markdown."""
    subject, body = messages.message(recipe, report, "", drift)
    kept = [line for line in body.splitlines() if not line.startswith(("Retrained because", "In use stays"))]
    champion = report["champion"]
    stays = f"In use is version {champion['number']}." if champion else "There is no champion yet."
    return "\n".join([f"## {subject}", "", stays, "", "```", *kept, "```"])


def tell(subject: str, body: str, log: LoggingAdapter) -> None:
    from flows.notify import send

    send(subject, body, log)
