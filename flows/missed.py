"""Ticks of the watcher that nobody ran in time: deleted, since one look now sees all that they would have seen.

A schedule makes its runs whether or not a worker is there. After a week without one, ten thousand are Late, and a
worker that comes back would ask for all of them (measured: 300 at once keep a server on SQLite from answering for
minutes, though each is only cancelled). So the watcher's queue hands out one at a time (flows/deploy.py), and the first
that runs deletes the others.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.logging.loggers import LoggingAdapter

WATCH = "medtune-watch"
GRACE = timedelta(seconds=90)  # younger than this, a tick may be about to start
KEPT_DAYS = 3.0  # of runs that only looked
MOST = 500  # requests of at most 50 runs each


def forget_missed(client: "SyncPrefectClient", keep: UUID | None = None) -> int:
    """Delete the watcher's runs that are overdue and not begun; how many. `keep`: the run that asks."""
    chosen = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "expected_start_time": {"before_": (datetime.now(UTC) - GRACE).isoformat()},
        "id": {"not_any_": [str(keep)] if keep else []},
        "deployment_id": {"any_": [str(item) for item in _deployments(client)]},
    }
    return _delete(client, chosen, MOST if chosen["deployment_id"]["any_"] else 0)


def forget_old(client: "SyncPrefectClient", days: float = KEPT_DAYS) -> int:
    """Delete the watcher's runs that ended more than `days` ago; how many. It makes half a million a year."""
    deployments = [str(item) for item in _deployments(client)]
    return _delete(
        client,
        {
            "state": {"type": {"any_": ["COMPLETED", "CANCELLED"]}},
            "end_time": {"before_": (datetime.now(UTC) - timedelta(days=days)).isoformat()},
            "deployment_id": {"any_": deployments},
        },
        MOST if deployments else 0,
    )


def _delete(client: "SyncPrefectClient", chosen: dict, requests: int) -> int:
    gone = 0
    for _ in range(requests):
        deleted = len(client.request("POST", "/flow_runs/bulk_delete", json={"flow_runs": chosen}).json()["deleted"])
        gone += deleted
        if not deleted:
            break
    return gone


def forget_others(log: "LoggingAdapter") -> None:
    """For the watcher itself: delete what was missed before it. Where it is no deployment's run there is nothing."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        return
    try:
        with get_client(sync_client=True) as client:
            missed = forget_missed(client, run.id)
    except Exception as error:  # tidying up must not keep the watcher from looking
        log.warning("missed ticks were not deleted (%s: %s)", type(error).__name__, error)
        return
    if missed:
        log.info("%s ticks that nobody ran in time: deleted", f"{missed:,}")


def _deployments(client: "SyncPrefectClient") -> list[UUID]:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    return [item.id for item in client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[WATCH])))]
