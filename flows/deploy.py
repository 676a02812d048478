"""Everything that a Prefect server must know of this checkout, in one command that may be repeated.

    export PREFECT_API_URL=http://127.0.0.1:4200/api
    python -m flows.deploy              # pool, queues, the deployments of prefect.yaml, automations
    python -m flows.deploy --check      # reads prefect.yaml and asks no server

Repeated, it changes what prefect.yaml changed and leaves the rest: schedules that a person paused stay paused, and
nothing is made twice. Run it in the folder and on the machine where the worker runs (`prefect worker start --pool
medtune`): the deployments name this folder and this Python.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.deployments import Deployment, next_firing, read_deployments
from flows.missed import forget_missed
from flows.target import with_target
from medtune.params.errors import UserError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

TRAINING = "training"  # the queue whose deployments share one limit
# Queue -> priority (the smaller goes first) and how many runs it hands out at once. Only the watcher's has a limit, for
# the ten thousand ticks that it holds after a week without a worker (flows/missed.py). A run that waits for a place in
# a queue is Late and starts long after it was wanted; in the others the deployment's limit cancels it at once.
QUEUES = {TRAINING: (1, None), "asking": (2, None), "watching": (3, 1)}
LOOKING = ("asking", "watching")
SMALL = {"gpus": 0, "cpu_request": "1", "memory_request": "4Gi", "memory_limit": "4Gi"}  # a pod that reads and asks


@contextmanager
def server() -> Iterator["SyncPrefectClient"]:
    """A client of the server that PREFECT_API_URL names. UserError where none is named, answers or lets us in."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import get_current_settings

    from medtune.tracking.secrets import redact

    url = get_current_settings().api.url
    if not url:
        raise UserError(
            "no Prefect server is named: `make stack` starts one with all that belongs to it; where one runs, "
            "export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    try:
        with get_client(sync_client=True) as client:
            if (problem := client.api_healthcheck()) is not None:
                raise UserError(
                    f"the Prefect server {redact(url)} does not answer ({type(problem).__name__}): is it running, and "
                    "is PREFECT_API_URL right? `make stack` starts one"
                )
            yield client
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise UserError(
                f"the Prefect server {redact(url)} does not let us in ({error.response.status_code}): set "
                "PREFECT_API_AUTH_STRING to its user:password"
            ) from None
        raise UserError(f"the Prefect server {redact(url)} refused: {redact(_detail(error))}") from None
    except httpx.TransportError as error:
        raise UserError(f"the Prefect server {redact(url)} went away ({type(error).__name__}); run it again") from None


def deploy(root: Path, say: Callable[[str], None] = print) -> None:
    """Pool, queues, deployments and automations as prefect.yaml and flows/automations.py have them."""
    from flows.automations import ensure_automations

    items = read_deployments(root)
    with server() as client:
        for pool in dict.fromkeys(item.pool for item in items):
            say(_pool(client, pool))
            for queue in dict.fromkeys(item.queue for item in items if item.pool == pool):
                say(_queue(client, pool, queue))
        pools = {name: client.read_work_pool(name) for name in {item.pool for item in items}}
        for item in items:
            known = find(client, item.full_name)
            folder = root.resolve() if pools[item.pool].type == "process" else None
            more = small(item, pools[item.pool].base_job_template)
            item.runner(known, served=False, folder=folder, more=more).apply()
            say(f"deployment {item.full_name}: {'up to date' if known else 'made'}{_when(client, item)}")
        settle(client, items)
        share_limit(client, items)
        for sentence in [*ensure_automations(client), *_strangers(client, items)]:
            say(sentence)
        if missed := forget_missed(client):
            say(f"{missed:,} ticks of the watcher that nobody ran in time: deleted")
        if any(pool.type == "process" for pool in pools.values()) and (note := elsewhere(str(client.api_url), root)):
            say(note)


def small(item: Deployment, template: dict[str, Any]) -> dict[str, Any]:
    """What a run that only looks or asks is given, of the variables that a pool's template has (k8s/job-template.json).

    The watcher would wait each minute for a GPU, and keep one from a training. A run of the queue `training` gets what
    the pool says: how many GPUs it takes is the recipe's and the cluster's matter.
    """
    known = (template.get("variables") or {}).get("properties") or {}
    return {name: SMALL[name] for name in SMALL if name in known} if item.queue in LOOKING else {}


def elsewhere(api: str, root: Path) -> str | None:
    """A note where the server is another machine's: then the worker may be, too. None where it is this one's."""
    host = urlsplit(api).hostname or ""
    with suppress(ValueError):  # a name is no address
        if ip_address(host).is_loopback:
            return None
    if host == "localhost":
        return None
    return (
        f"note: the server is on {host}, and the deployments name this machine's folder {root.resolve()} and Python "
        f"{sys.executable}: if the worker runs on another machine, run `python -m flows.deploy` there"
    )


def share_limit(client: "SyncPrefectClient", items: list[Deployment]) -> None:
    """One limit for all deployments of the queue `training`: whichever runs, the others' new runs are cancelled.

    Prefect gives each deployment with a concurrency_limit a limit of its own, and lets several share one by its id.
    """
    together = [item for item in items if item.queue == TRAINING and item.limit]
    if not together:
        return
    known = [find(client, item.full_name) for item in together]
    shared = known[0].global_concurrency_limit
    for deployment in known[1:]:
        if deployment.global_concurrency_limit and deployment.global_concurrency_limit.id == shared.id:
            continue
        _patch(client, deployment, global_concurrency_limit_id=str(shared.id))


def settle(client: "SyncPrefectClient", items: list[Deployment]) -> None:
    """What Prefect sets when it makes a deployment and never again: the folder, where another version named one."""
    for item in items:
        if (known := find(client, item.full_name)) and known.path != ".":
            _patch(client, known, path=".")


def _patch(client: "SyncPrefectClient", deployment: "DeploymentResponse", **keys: str) -> None:
    """By the API itself: the client's models do not have these keys for writing."""
    client.request("PATCH", "/deployments/{id}", path_params={"id": deployment.id}, json=keys)


def find(client: "SyncPrefectClient", name: str) -> "DeploymentResponse | None":
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _strangers(client: "SyncPrefectClient", items: list[Deployment]) -> list[str]:
    """What earlier versions of prefect.yaml left on the server, with schedules that go on; a person removes it."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    ours = sorted({item.flow for item in items})
    flows = {flow.id: flow.name for flow in client.read_flows(flow_filter=FlowFilter(name=FlowFilterName(any_=ours)))}
    there = client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=ours)))
    names = {f"{flows[item.flow_id]}/{item.name}" for item in there} - {item.full_name for item in items}
    return [
        f"deployment {name} is not in prefect.yaml any more; `prefect deployment delete {name}` removes it"
        for name in sorted(names)
    ]


def _pool(client: "SyncPrefectClient", name: str) -> str:
    """A pool that is there stays as it is, of whatever type: k8s/ makes one for a cluster."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        return f"work pool {name}: as it was ({client.read_work_pool(name).type})"
    except ObjectNotFound:
        pass
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description="medtune's flows"))
    except ObjectAlreadyExists:
        return f"work pool {name}: made by another just now"
    return f"work pool {name}: made (process)"


def _queue(client: "SyncPrefectClient", pool: str, name: str) -> str:
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        client.read_work_queue_by_name(name, work_pool_name=pool)
        return f"work queue {pool}/{name}: as it was"
    except ObjectNotFound:
        pass
    try:
        priority, limit = QUEUES.get(name, (None, None))
        client.create_work_queue(name, priority=priority, concurrency_limit=limit, work_pool_name=pool)
    except ObjectAlreadyExists:
        return f"work queue {pool}/{name}: made by another just now"
    return f"work queue {pool}/{name}: made"


def _when(client: "SyncPrefectClient", item: Deployment) -> str:
    """When it runs next, or that somebody paused it."""
    known = find(client, item.full_name)
    active = {schedule.slug: schedule.active for schedule in known.schedules} if known else {}
    if known and known.paused and item.schedules:
        return ", paused"
    return "".join(f", {_due(given, active.get(slug, True))}" for slug, given in item.schedules.items())


def _due(given: dict, active: bool) -> str:
    schedule = given["schedule"]
    if not active:
        return "its schedule is paused"
    if hasattr(schedule, "cron"):
        at = next_firing({"cron": schedule.cron, "timezone": schedule.timezone}, datetime.now(UTC))
        return f"next {at:%a %d %b %Y %H:%M} {schedule.timezone or 'UTC'}"
    return f"every {schedule.interval.total_seconds():.0f} s"


def _detail(error) -> str:
    try:
        return str(error.response.json().get("detail") or error)
    except ValueError:
        return str(error).splitlines()[0]


def main() -> None:
    with_target("flows.deploy")
    parser = argparse.ArgumentParser(description="Tell a Prefect server of the deployments and automations here.")
    parser.add_argument("--check", action="store_true", help="read prefect.yaml and ask no server")
    arguments = parser.parse_args()
    try:
        if arguments.check:
            items = read_deployments(Path())
            print(f"prefect.yaml is in order: {', '.join(item.full_name for item in items)}")
            return
        deploy(Path())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
