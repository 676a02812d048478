"""Flow runs that say what is no longer so, put right on a real Prefect server: killed, silent, piled up, unanswered."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Completed, Crashed, Failed, Paused, Pending, Running, Scheduled, State

from flows.approve import GRACE
from flows.reap import UNANSWERED, reap_flow_runs
from flows.word import last_word, recorded, words
from medtune.tracking.holder import HOST, PID, SEEN, STARTED, TABLE, moment, this_process

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = """
import sys, time
from pathlib import Path
from prefect import flow
from prefect.context import FlowRunContext
from prefect.states import Completed
from flows.word import recorded

@flow(name="medtune-sleeper", persist_result=False)
def sleeper():
    def body():
        print(FlowRunContext.get().flow_run.id, flush=True)
        time.sleep(600)
    return recorded(Path("."), body)

sleeper()
"""


@flow(name="medtune-reaped", persist_result=False)
def reaped() -> None:
    pass


@flow(name="medtune-approve", persist_result=False)
def approval(version: str) -> None:
    pass


@flow(name="someones-own", persist_result=False)
def someones() -> None:
    pass


@pytest.fixture
def client(prefect_server: str, tmp_path: Path) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs():  # other tests' runs on the session's server
            client.delete_flow_run(run.id)
        yield client


def made(client: SyncPrefectClient, state: State, of=reaped, **parameters: str) -> FlowRun:
    run = client.create_flow_run(of, parameters=parameters, state=Pending() if state.is_running() else state)
    if state.is_running():
        client.set_flow_run_state(run.id, state, force=True)
    return client.read_flow_run(run.id)


def now_of(client: SyncPrefectClient, run: FlowRun) -> tuple[str, str, str | None]:
    state = client.read_flow_run(run.id).state
    return state.type.value, state.name, state.message


def hold(client: SyncPrefectClient, run: FlowRun, **other: str) -> None:
    """As recorded() does in the flow's process."""
    client.update_flow_run_labels(run.id, this_process().tags() | {f"medtune.{key}": v for key, v in other.items()})


def test_a_killed_flow_is_crashed_with_its_reason(client, prefect_server, tmp_path):
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    environment = os.environ | {"PREFECT_API_URL": prefect_server, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as process:
        run = client.read_flow_run(UUID(process.stdout.readline().strip()))
        assert run.state.is_running()
        assert {HOST, PID, STARTED, TABLE, SEEN} <= run.labels.keys()
        assert reap_flow_runs(tmp_path) == []  # it lives
        process.send_signal(signal.SIGKILL)
    (sentence,) = reap_flow_runs(tmp_path)
    assert sentence.startswith(f"flow run {run.name}: Crashed, ")
    kind, name, message = now_of(client, run)
    assert (kind, name) == ("CRASHED", "Crashed")
    assert f"process {process.pid} on" in message
    assert "is gone, last seen" in message
    assert reap_flow_runs(tmp_path) == []


def test_silence_counts_where_nobody_can_look(client, tmp_path):
    quiet, far, pending = made(client, Running()), made(client, Running()), made(client, Pending())
    hold(client, far, host="gpu-7", process_table="another")
    assert reap_flow_runs(tmp_path) == []
    reaped = reap_flow_runs(tmp_path, silence=timedelta(0))
    assert len(reaped) == 3
    assert "nothing was heard of its process since" in now_of(client, quiet)[2]
    assert "on gpu-7 since" in now_of(client, far)[2]
    assert now_of(client, pending)[0] == "CRASHED"


def test_a_heartbeat_keeps_a_run(client, tmp_path):
    run = made(client, Running())
    body = [
        {
            "occurred": moment(datetime.now(UTC) + timedelta(seconds=30)),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
            "id": str(UUID(int=run.id.int ^ 1)),
        }
    ]
    client._client.post("/events", json=body).raise_for_status()
    assert wait_for(lambda: reap_flow_runs(tmp_path, silence=timedelta(seconds=-1)) == [])


def wait_for(done, seconds: float = 20) -> bool:
    import time

    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return True


def test_what_was_to_be_cancelled_is(client, tmp_path):
    run = made(client, Cancelling())
    hold(client, run, process_started="1000.0")
    reap_flow_runs(tmp_path)
    assert now_of(client, run)[0] == "CANCELLED"


def test_others_flows_and_runs_that_ended_are_left_alone(client, tmp_path):
    other, done = made(client, Running(), someones), made(client, Completed())
    assert reap_flow_runs(tmp_path, silence=timedelta(0)) == []
    assert now_of(client, other)[0] == "RUNNING"
    assert now_of(client, done)[0] == "COMPLETED"


def test_the_last_word_counts(client, tmp_path):
    """Of a flow that ended while the server was away; a worker then took its process for crashed."""

    @flow(name="medtune-word", persist_result=False)
    def speaks() -> State:
        return recorded(tmp_path, lambda: Completed(name="Rejected", message="improvement: no"))

    told = speaks(return_state=True)
    assert told.name == "Rejected"
    (word,) = words(tmp_path)
    assert reap_flow_runs(tmp_path) == []  # the server knows
    assert list(words(tmp_path)) == []
    for state in (Running(), Crashed(message="Flow run process exited with non-zero status code 1.")):
        client.set_flow_run_state(word.run, state, force=True)
        client.update_flow_run_labels(word.run, {STARTED: "1000.0"})
        word.path.parent.mkdir(parents=True, exist_ok=True)
        word.path.write_text(
            '{"type": "COMPLETED", "name": "Rejected", "message": "improvement: no", "at": "2026-11-23T03:00:00+00:00"}'
        )
        (sentence,) = reap_flow_runs(tmp_path)
        assert sentence.endswith(f"Rejected, as it ended at 2026-11-23 03:00 UTC (it said {state.name})")
        found = client.read_flow_run(word.run).state
        assert (found.type.value, found.name) == ("COMPLETED", "Rejected")
        assert "improvement: no (ended 2026-11-23 03:00:00 UTC" in found.message
        assert list(words(tmp_path)) == []
    assert last_word(tmp_path, told) is told  # outside a flow there is nothing to keep
    assert list(words(tmp_path)) == []


def test_an_unanswered_approval_expires(client, tmp_path):
    waiting = made(client, Paused(timeout_seconds=3 * 86400, pause_key="word"), approval, version="7")
    late = made(
        client, Paused(timeout_seconds=int(GRACE.total_seconds()) - 60, pause_key="word"), approval, version="8"
    )
    failed = made(client, Failed(message=UNANSWERED), approval, version="9")
    honest = made(client, Failed(message="no such version"), approval, version="x")
    assert len(reap_flow_runs(tmp_path)) == 2
    assert now_of(client, waiting)[0] == "PAUSED"
    assert now_of(client, honest)[0] == "FAILED"
    for run, version in ((late, "8"), (failed, "9")):
        kind, name, message = now_of(client, run)
        assert (kind, name) == ("CANCELLED", "Expired")
        assert "nobody answered within" in message
        assert f"version {version} stays what it is" in message


def test_runs_that_piled_up(client, tmp_path):
    deployment = client.create_deployment(client.create_flow(reaped), name="piled", enforce_parameter_schema=False)

    def due(hours: float, **parameters: str) -> FlowRun:
        at = datetime.now(UTC) - timedelta(hours=hours)
        return client.create_flow_run_from_deployment(
            deployment, state=Scheduled(scheduled_time=at), parameters=parameters
        )

    old, newer, newest = due(50), due(26), due(2)
    other, soon = due(30, data="f" * 64), due(-1)
    assert len(reap_flow_runs(tmp_path)) == 2
    for run in (old, newer):
        kind, _, message = now_of(client, run)
        assert kind == "CANCELLED"
        assert f"and {newest.name} is due for the same" in message
    for run in (newest, other, soon):
        assert now_of(client, run)[0] == "SCHEDULED"
