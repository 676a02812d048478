"""Prefect's automations as code, by name: data arrived → a retrain; a run's heartbeat lost → the run is Crashed.

    python -m flows.deploy       # makes them, or brings them up to date

Made again and again, by however many at once, there is one of each: a second one would start every retrain twice.
Whoever switches one off in Prefect's page finds it still off afterwards.
"""

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore

DATA_ARRIVED = "medtune data arrived"
HEARTBEAT_LOST = "medtune heartbeat lost"
RETRAIN = "medtune-retrain/on-new-data"
LONG = ("medtune-retrain", "medtune-pipeline", "medtune-doctor", "medtune-approve")
HEARTBEAT_MINUTES = 5  # heartbeats come every minute; a restart of the server in between must not look like a death


def data_arrived(deployment: UUID) -> "AutomationCore":
    """The watcher's event (flows/watch.py) starts one run with the event's own data version and reason."""
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    from flows.watch import EVENT

    return AutomationCore(
        name=DATA_ARRIVED,
        description="New rows were found: retrain on them. The ledger lets one run a data version through.",
        trigger=EventTrigger(
            expect={EVENT},
            match=ResourceSpecification({"prefect.resource.id": ["medtune.data.*"]}),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                parameters={"data": "{{ event.payload.data }}", "reason": "{{ event.payload.reason }}"},
            )
        ],
    )


def heartbeat_lost(within: timedelta = timedelta(minutes=HEARTBEAT_MINUTES)) -> "AutomationCore":
    """A run whose process was killed stays Running for ever, unless somebody listens for its heartbeat.

    Any event of the run counts as a sign of life: our states have names of their own (Rejected, Expired, Suspended),
    which the list in Prefect's documentation does not have. `within`: at least three heartbeats.
    """
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    return AutomationCore(
        name=HEARTBEAT_LOST,
        description="A run that says nothing any more is Crashed: its process is gone.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                # not the watcher's: a run of seconds may end before its first heartbeat comes, which looks like a death
                {"prefect.resource.role": ["flow"], "prefect.resource.name": [*LONG]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {within.total_seconds():.0f} s: its process is gone",
            )
        ],
    )


def ensure_automations(client: "SyncPrefectClient") -> list[str]:
    """Each automation once, as written here; a sentence each. The deployments must be there."""
    deployment = client.read_deployment_by_name(RETRAIN)
    return [ensure(client, wanted) for wanted in (data_arrived(deployment.id), heartbeat_lost())]


def ensure(client: "SyncPrefectClient", wanted: "AutomationCore") -> str:
    """Make one automation, or bring it up to date. Of several of its name one stays."""
    known = _named(client, wanted.name)
    if not known:
        client.create_automation(wanted)
        known = _named(client, wanted.name)  # somebody else may have made one at the same moment
        said = "made"
    elif _content(known[0]) == _content(wanted):
        said = "as it was"
    else:
        client.update_automation(known[0].id, wanted.model_copy(update={"enabled": known[0].enabled}))
        said = "brought up to date"
    for double in known[1:]:
        _delete(client, double)
    off = "" if known[0].enabled else "; it is switched off"
    return f"automation {wanted.name!r}: {said}{off}"


def _delete(client: "SyncPrefectClient", automation: "Automation") -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        client.delete_automation(automation.id)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 404:  # whoever else made one at the same moment has deleted it already
            raise


def _named(client: "SyncPrefectClient", name: str) -> "list[Automation]":
    """In the same order for everybody who asks, so that all who make one at once keep the same."""
    return sorted(client.read_automations_by_name(name), key=lambda item: str(item.id))


def _content(automation: "AutomationCore") -> dict:
    """What counts for "the same". Ids of triggers are given anew each time; whether it is on is a person's to say."""
    said = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    for item in ("id", "job_variables"):
        said["trigger"].pop(item, None)
    return said
