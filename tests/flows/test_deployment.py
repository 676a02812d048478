"""prefect.yaml with a real Prefect server and a process worker: deployed, run by hand, run by its schedule."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml

from tests.flows.small_project import ROOT, STAGES, SmallProject

pytestmark = pytest.mark.slow
SEOUL = ZoneInfo("Asia/Seoul")


class Server:
    """A Prefect server of this test's own on the loopback interface, and a worker for the pool of prefect.yaml."""

    def __init__(self, home: Path, project: SmallProject):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.api = f"http://127.0.0.1:{port}/api"
        self.project = project
        self.environment = project.environment(
            PREFECT_HOME=str(home),
            PREFECT_API_URL=self.api,
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_WORKER_QUERY_SECONDS="2",
        )
        self.log = (home.parent / "prefect.log").open("w")
        self.processes = [self._start("server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")]
        self.wait(lambda: self.get("/health") is True, 180)

    def _start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=self.project.root,
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def start_worker(self) -> None:
        self.processes.append(self._start("worker", "start", "--pool", "medtune"))

    def prefect(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=self.project.root,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str) -> object:
        try:
            with urllib.request.urlopen(self.api + path, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    def runs(self) -> list[dict]:
        request = urllib.request.Request(
            f"{self.api}/flow_runs/filter", data=b"{}", headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def run_by_hand(self, name: str) -> str:
        """Ask for a run; its id."""
        self.prefect("deployment", "run", "medtune-pipeline/weekly", "--flow-run-name", name)
        return next(run["id"] for run in self.runs() if run["name"] == name)

    def finished(self, run: str, seconds: float = 180) -> dict:
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        self.wait(lambda: self.get(f"/flow_runs/{run}")["state"]["type"] in final, seconds)
        return self.get(f"/flow_runs/{run}")

    def wait(self, done, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, Path(self.log.name).read_text()[-4000:]
            assert all(process.poll() is None for process in self.processes), Path(self.log.name).read_text()[-4000:]
            time.sleep(0.5)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("deployment")
    project = SmallProject.create(folder / "project")
    shutil.copytree(ROOT / "flows", project.root / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", project.root)
    server = Server(folder / "home", project)
    try:
        server.prefect("work-pool", "create", "medtune", "--type", "process")
        server.prefect("deploy", "--all")
        server.start_worker()
        yield server
    finally:
        server.stop()


def test_deployed_as_written(server):
    deployment = server.get("/deployments/name/medtune-pipeline/weekly")
    (schedule,) = deployment["schedules"]
    assert schedule["active"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 3 * * 1", "Asia/Seoul")
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployment["work_pool_name"] == "medtune"
    server.wait(server.runs, 60)  # the scheduler plans some weeks ahead
    due = [datetime.fromisoformat(run["expected_start_time"]).astimezone(SEOUL) for run in server.runs()]
    assert {(at.weekday(), at.hour, at.minute) for at in due} == {(0, 3, 0)}  # Mondays, three o'clock there


def test_run_by_hand_runs_the_stages(server):
    run = server.finished(server.run_by_hand("by hand"))
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert server.project.ran() == list(STAGES)


def test_a_second_run_while_one_trains_is_cancelled(server):
    project = server.project
    project.write_stage("register", "import time, stand_in\ntime.sleep(15)\nstand_in.run('register')\n")
    first = server.run_by_hand("first")
    server.wait(lambda: server.get(f"/flow_runs/{first}")["state"]["type"] == "RUNNING", 60)
    second = server.run_by_hand("second")
    assert server.finished(second)["state"]["type"] == "CANCELLED"
    assert server.finished(first)["state"]["type"] == "COMPLETED"
    assert project.ran() == ["register"]


def test_run_by_its_schedule(server):
    """The shipped cron line, moved to the next minutes."""
    project = server.project
    project.decide("rejected", "improvement: no")
    file = project.root / "prefect.yaml"
    deployments = yaml.safe_load(file.read_text(encoding="utf-8"))
    due = datetime.now(SEOUL) + timedelta(seconds=100)
    deployments["deployments"][0]["schedules"][0]["cron"] = f"{due.minute} {due.hour} * * *"
    file.write_text(yaml.safe_dump(deployments, sort_keys=False))
    server.prefect("deploy", "--all")

    def of_today() -> list[dict]:
        soon = datetime.now(SEOUL) + timedelta(hours=1)
        scheduled = [run for run in server.runs() if run["auto_scheduled"]]
        return [run for run in scheduled if datetime.fromisoformat(run["expected_start_time"]) < soon]

    server.wait(of_today, 60)
    (run,) = of_today()
    run = server.finished(run["id"], 240)
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Rejected")
    assert run["state"]["message"] == "improvement: no"
    assert project.ran() == ["register"]
