"""prefect.yaml on a real Prefect server with a process worker: deployed, started, cancelled, forgotten."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.flows.live_server import FINAL, THREE, project_with_flows

pytestmark = pytest.mark.slow
SEOUL = ZoneInfo("Asia/Seoul")
DATA = "c0ffee" + "0" * 58
REASON = '60 new "rows" {{ in }} rows.jsonl'
TRAINING = ("medtune-retrain/weekly", "medtune-retrain/on-new-data", "medtune-pipeline/by-hand")
ALL = (*TRAINING, "medtune-watch/every-minute", "medtune-doctor/nightly", "medtune-approve/by-hand")


@pytest.fixture(scope="module")
def project(tmp_path_factory, live_server):
    project = project_with_flows(tmp_path_factory.mktemp("deployment") / "project")
    # register waits until it is let go: a training of hours
    project.write_stage(
        "register",
        """
        import time
        from pathlib import Path
        import stand_in
        Path("in_register").touch()
        while not Path("go_on").exists():
            time.sleep(0.1)
        stand_in.run("register")
        """,
    )
    live_server.said = live_server.run(project.root, "flows.deploy")
    return project


def test_deployed_as_written(live_server, project):
    found = {name: live_server.deployment(name) for name in ALL}
    assert all(f"deployment {name}" in live_server.said for name in ALL)
    queues = {name: item["work_queue_name"] for name, item in found.items()}
    assert {queues[name] for name in TRAINING} == {"training"}
    assert [queues[name] for name in ALL[3:]] == ["watching", "asking", "asking"]
    crons = {name: item["schedules"][0]["schedule"] for name, item in found.items() if item["schedules"]}
    assert (crons[ALL[0]]["cron"], crons[ALL[0]]["timezone"]) == ("0 3 * * 1", "Asia/Seoul")
    assert (crons["medtune-doctor/nightly"]["cron"], crons[ALL[3]]["interval"]) == ("0 2 * * *", 60.0)
    limits = [found[name]["global_concurrency_limit"] for name in TRAINING]
    assert {limit["limit"] for limit in limits} == {1}
    assert len({limit["id"] for limit in limits}) == 1
    assert {found[name]["concurrency_options"]["collision_strategy"] for name in ALL[:5]} == {"CANCEL_NEW"}
    for item in found.values():  # every knob of the form says what it is for
        assert all(field.get("description") for field in item["parameter_openapi_schema"]["properties"].values())
    live_server.wait(lambda: live_server.runs(ALL[0]))
    due = [datetime.fromisoformat(run["expected_start_time"]).astimezone(SEOUL) for run in live_server.runs(ALL[0])]
    assert {(at.weekday(), at.hour, at.minute) for at in due} == {(0, 3, 0)}  # Mondays, three o'clock there


def test_deployed_again_it_changes_nothing_and_paused_stays_paused(live_server, project):
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    weekly = live_server.deployment(ALL[0])
    with temporary_settings({PREFECT_API_URL: live_server.api}), get_client(sync_client=True) as client:
        client.update_deployment_schedule(weekly["id"], weekly["schedules"][0]["id"], active=False)
        said = live_server.deploy(project.root)
        again = live_server.deployment(ALL[0])
        assert [item["active"] for item in again["schedules"]] == [False]
        assert "its schedule is paused" in said
        client.update_deployment_schedule(weekly["id"], again["schedules"][0]["id"], active=True)
    assert again["id"] == weekly["id"]
    assert again["schedules"][0]["id"] == weekly["schedules"][0]["id"]
    assert again["global_concurrency_limit"]["id"] == weekly["global_concurrency_limit"]["id"]
    assert said.count("as it was") == 6, said  # pool, queues, automations
    assert "made" not in said, said
    assert live_server.deployment(ALL[3])["schedules"][0]["active"]


def test_a_week_of_missed_ticks_is_forgotten(live_server, project):
    """No worker runs yet: the schedule's runs pile up, the queue hands out one, the next deploy deletes the rest."""
    before, watch = datetime.now(UTC) - timedelta(days=7), live_server.deployment(ALL[3])["id"]
    missed = [
        live_server.run_deployment(watch, state_details={"scheduled_time": (before + timedelta(minutes=n)).isoformat()})
        for n in range(52)
    ]
    asked = {"work_queue_names": ["watching"], "scheduled_before": datetime.now(UTC).isoformat()}
    handed_out = live_server.post("/work_pools/medtune/get_scheduled_flow_runs", asked)
    assert [item["flow_run"]["id"] for item in handed_out] == missed[:1]
    said = live_server.deploy(project.root)
    # and any that the schedule itself made and that fell due since
    deleted = re.search(r"(\d+) ticks of the watcher that nobody ran in time: deleted", said)
    assert deleted, said
    assert int(deleted[1]) >= 52
    assert not {run["id"] for run in live_server.runs(ALL[3])} & set(missed)


def test_what_is_due_while_a_training_runs_is_cancelled_and_never_late(live_server, project):
    """Also what an event starts; meanwhile the watcher looks every minute, by its schedule."""
    worker = live_server.start(project.root, "prefect", "worker", "start", "--pool", "medtune", "--name", "test")
    training = live_server.run_deployment("medtune-pipeline/by-hand")
    live_server.wait((project.root / "in_register").exists, 180)
    others = [live_server.run_deployment(name) for name in (*TRAINING, TRAINING[0])]
    live_server.tell("medtune.data.arrived", "medtune.data.medgpt-ko", data=DATA, new_rows=60, reason=REASON)
    live_server.wait(lambda: any(run["parameters"].get("data") == DATA for run in live_server.runs(TRAINING[1])))
    told = [run for run in live_server.runs(TRAINING[1]) if run["parameters"].get("data") == DATA]
    assert [run["parameters"]["reason"] for run in told] == [REASON]
    states = [live_server.finished(run) for run in (*others, told[0]["id"])]
    assert {state["type"] for state in states} == {"CANCELLED"}, states
    live_server.wait(
        lambda: any(run["state_type"] in FINAL and run["auto_scheduled"] for run in live_server.runs(ALL[3])), 120
    )
    assert live_server.state(training)["type"] == "RUNNING"
    (project.root / "go_on").touch()
    assert live_server.finished(training)["type"] == "COMPLETED"
    assert project.ran() == list(THREE)
    late = [run for name in TRAINING for run in live_server.runs(name) if run["state_name"] == "Late"]
    assert late == []
    live_server.stop(worker)
