"""The automations on a real server: one of each, however often and by however many they are made."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.automations import data_arrived, ensure, heartbeat_lost

pytestmark = pytest.mark.slow


@pytest.fixture
def client(live_server):
    with temporary_settings({PREFECT_API_URL: live_server.api}), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def wanted(client):
    """An automation of ours under a name of this test's own."""
    made = heartbeat_lost().model_copy(update={"name": f"test {uuid4()}"})
    yield made
    for item in client.read_automations_by_name(made.name):
        client.delete_automation(item.id)


def test_made_once_and_then_left_alone(client, wanted):
    assert ensure(client, wanted).endswith(": made")
    assert [ensure(client, wanted) for _ in range(3)] == [f"automation {wanted.name!r}: as it was"] * 3
    (known,) = client.read_automations_by_name(wanted.name)
    assert known.enabled


def test_many_who_make_it_at_once_leave_one(live_server, client, wanted):
    def make(_: int) -> str:
        with temporary_settings({PREFECT_API_URL: live_server.api}), get_client(sync_client=True) as own:
            return ensure(own, wanted)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(make, range(6)))
    ensure(client, wanted)
    assert len(client.read_automations_by_name(wanted.name)) == 1


def test_a_changed_one_is_updated_and_one_that_is_off_stays_off(client, wanted):
    ensure(client, wanted)
    (known,) = client.read_automations_by_name(wanted.name)
    client.pause_automation(known.id)
    slower = heartbeat_lost(timedelta(minutes=9)).model_copy(update={"name": wanted.name})
    assert ensure(client, slower).endswith("brought up to date; it is switched off")
    (after,) = client.read_automations_by_name(wanted.name)
    assert (after.id, after.enabled, after.trigger.within) == (known.id, False, timedelta(minutes=9))
    assert ensure(client, slower).endswith("as it was; it is switched off")


def test_the_retrain_gets_what_the_event_says(client):
    """As the server keeps it; that it starts the run is held in test_deployment.py."""
    made = data_arrived(uuid4())
    assert made.actions[0].parameters == {
        "data": "{{ event.payload.data }}",
        "reason": "{{ event.payload.reason }}",
    }
    assert made.trigger.expect == {"medtune.data.arrived"}
