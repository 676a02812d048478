"""Prefect's server killed while a stage works: the stage goes on, and the records are right once it is back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.reap import reap_flow_runs
from tests.flows.live_server import free_port
from tests.flows.small_project import ROOT, SmallProject

WAITS = """
    import time
    from pathlib import Path
    from stand_in import run
    Path("started").touch()
    while not Path("go").exists():
        time.sleep(0.1)
    run("register")
"""


class Outage:
    """A server of this test's own that can be killed and started again on its port, and flows in other processes."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.log = (home.parent / "outage.log").open("w")
        self.settings = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONPATH": str(ROOT),
        }
        self.server = None

    def start_server(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.server = subprocess.Popen(
            [*command, "--no-ui"],
            env=os.environ | self.settings,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.wait(self.answers, self.server)

    def kill_server(self) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=2) as answer:
                return json.load(answer) is True
        except OSError:
            return False

    def read(self, what: str) -> list[dict]:
        request = urllib.request.Request(
            f"{self.api}/{what}/filter", data=b"{}", headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def states(self) -> list[tuple[str, str]]:
        return sorted((run["state"]["type"], run["state"]["name"]) for run in self.read("flow_runs"))

    def tasks(self, run: str) -> list[tuple[str, str]]:
        of = [task["state"] for task in self.read("task_runs") if task["flow_run_id"] == run]
        return sorted((state["type"], state["name"]) for state in of)

    def flow(self, project: SmallProject, **more: str) -> subprocess.Popen:
        """A flow there, in a process; what it says is in the file `said`."""
        with (project.root / "said").open("w") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.pipeline"],
                cwd=project.root,
                env=project.environment(**self.settings, **more),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, done: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, Path(self.log.name).read_text()[-4000:]
            assert process is None or process.poll() is None, Path(self.log.name).read_text()[-4000:]
            time.sleep(0.1)


@pytest.fixture
def outage(tmp_path: Path, prefect_database: Path) -> Iterator[Outage]:
    (tmp_path / "home").mkdir()
    shutil.copy(prefect_database, tmp_path / "home/prefect.db")
    made = Outage(tmp_path / "home")
    try:
        made.start_server()
        yield made
    finally:
        if made.server.poll() is None:
            made.kill_server()
        made.log.close()


@pytest.fixture
def project(tmp_path: Path) -> SmallProject:
    """Its register waits for the file `go`."""
    project = SmallProject.create(tmp_path / "project", ("download", "train", "register"))
    project.dvc("repro", "--quiet")
    project.write_stage("register", WAITS)
    project.ran()
    return project


@pytest.mark.slow
def test_a_server_that_goes_away_in_a_stage(project: SmallProject, tmp_path: Path, outage: Outage) -> None:
    """For one flow it is back when the stage ends; for the other it is away then: its work is done all the same, and
    the record follows."""
    waits, leaves = project, project.copy(tmp_path / "leaves")
    flows = {leaves: outage.flow(leaves, PREFECT_CLIENT_MAX_RETRIES="1"), waits: outage.flow(waits)}
    for made, flow in flows.items():
        outage.wait((made.root / "started").exists, flow)
    outage.kill_server()
    (leaves.root / "go").touch()
    said = leaves.root / "said"
    assert flows[leaves].wait(120) == 0, said.read_text()[-4000:]
    assert "The pipeline is up to date: Completed" in said.read_text()
    assert "note: Prefect's server did not answer when the run ended" in said.read_text()
    assert leaves.ran() == ["register"]
    assert leaves.dvc("status").strip() == "Data and pipelines are up to date."

    outage.start_server()
    assert outage.states() == [("RUNNING", "Running")] * 2  # as the kill left them
    (waits.root / "go").touch()
    assert flows[waits].wait(120) == 0, (waits.root / "said").read_text()[-4000:]
    assert "note:" not in (waits.root / "said").read_text()
    assert waits.ran() == ["register"]
    assert outage.states() == [("COMPLETED", "Completed"), ("RUNNING", "Running")]

    (kept,) = (run["id"] for run in outage.read("flow_runs") if run["state"]["type"] == "COMPLETED")
    names = [("COMPLETED", "Cached")] * 2 + [("COMPLETED", "Completed")]
    outage.wait(lambda: outage.tasks(kept) == names)  # events follow

    with temporary_settings({PREFECT_API_URL: outage.api}):
        (told,) = reap_flow_runs(leaves.root)
    assert "Completed, as it ended at" in told
    assert outage.states() == [("COMPLETED", "Completed")] * 2
    assert {task["state"]["type"] for task in outage.read("task_runs")} == {"COMPLETED"}
