"""flows.serve: all deployments from one process, without work pool; ended by Ctrl-C with its schedules as they were."""

import signal
import subprocess
import sys

import pytest

from tests.flows.live_server import project_with_flows

pytestmark = pytest.mark.slow


def serve(live_server, project) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "flows.serve"],
        cwd=project.root,
        env=live_server.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(process: subprocess.Popen, text: str) -> str:
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(said)


def test_served_from_one_process_and_ended_cleanly(live_server, tmp_path):
    project = project_with_flows(tmp_path / "project")
    process = serve(live_server, project)
    try:
        said = until(process, "Ctrl-C ends it")
        assert said.count("serving medtune-") == 6, said
        weekly, pipeline = (
            live_server.deployment(f"medtune-{name}") for name in ("retrain/weekly", "pipeline/by-hand")
        )
        assert weekly["work_pool_name"] is None
        assert weekly["global_concurrency_limit"]["id"] == pipeline["global_concurrency_limit"]["id"]
        assert weekly["schedules"][0]["schedule"]["cron"] == "0 3 * * 1"
        run = live_server.run_deployment("medtune-watch/every-minute")
        state = live_server.finished(run)
        if state["type"] == "CRASHED":
            process.send_signal(signal.SIGINT)
            raise AssertionError(f"{state['message']}\n{process.stdout.read()[-6000:]}")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().rstrip().endswith("ended")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    for name in ("medtune-retrain/weekly", "medtune-watch/every-minute", "medtune-doctor/nightly"):
        after = live_server.deployment(name)
        assert not after["paused"]
        assert after["schedules"][0]["active"]
