"""Prefect's server killed while a stage works: the stage goes on, and the records are right once it is back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
REAP = "from flows.reap import reap_flow_runs\nfor sentence in reap_flow_runs(): print(sentence)"


class Outage:
    """A server of this test's own that can be killed and started again on its port, and a flow in another process."""

    def __init__(self, home: Path, project: SmallProject) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.project, self.log = project, (home.parent / "outage.log").open("w")
        self.environment = project.environment(
            PREFECT_HOME=str(home),
            PREFECT_API_URL=f"http://127.0.0.1:{self.port}/api",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PYTHONPATH=str(ROOT),
        )
        self.server = None

    def start_server(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.server = self.start([*command, "--no-ui"], self.log)
        self.wait(self.answers, self.server)

    def start(self, command: list[str], out: object, **more: str) -> subprocess.Popen:
        environment = self.environment | more
        return subprocess.Popen(
            command,
            cwd=self.project.root,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def kill_server(self) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=2) as answer:
                return json.load(answer) is True
        except OSError:
            return False

    def read(self, what: str) -> list[dict]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{what}/filter", data=b"{}", headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def states(self, what: str) -> list[tuple[str, str]]:
        return sorted((run["state"]["type"], run["state"]["name"]) for run in self.read(what))

    def flow_in_its_stage(self, out: object, **more: str) -> subprocess.Popen:
        """A flow whose register waits for the file `go`."""
        for name in ("started", "go"):
            (self.project.root / name).unlink(missing_ok=True)
        flow = self.start([sys.executable, "-m", "flows.pipeline"], out, **more)
        self.wait((self.project.root / "started").exists, flow)
        return flow

    def wait(self, done: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, Path(self.log.name).read_text()[-4000:]
            assert process is None or process.poll() is None, Path(self.log.name).read_text()[-4000:]
            time.sleep(0.1)


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    project = SmallProject.create(tmp_path / "project")
    project.dvc("repro", "--quiet")
    project.write_stage("register", WAITS)
    project.ran()
    made = Outage(tmp_path / "home", project)
    try:
        made.start_server()
        yield made
    finally:
        if made.server.poll() is None:
            made.kill_server()
        made.log.close()


@pytest.mark.slow
def test_a_server_that_goes_away_in_a_stage(outage: Outage) -> None:
    project = outage.project
    flow = outage.flow_in_its_stage(outage.log)
    outage.kill_server()
    outage.start_server()
    (project.root / "go").touch()
    assert flow.wait(120) == 0, Path(outage.log.name).read_text()[-4000:]
    assert project.ran() == ["register"]
    assert outage.states("flow_runs") == [("COMPLETED", "Completed")]
    names = [("COMPLETED", "Cached")] * 6 + [("COMPLETED", "Completed")]
    outage.wait(lambda: outage.states("task_runs") == names)  # events follow

    # away for good when the flow ends: its work is done all the same, and the record follows
    project.write_stage("register", WAITS + "    # again\n")
    with (project.root / "said").open("w") as out:
        flow = outage.flow_in_its_stage(out, PREFECT_CLIENT_MAX_RETRIES="1")
        outage.kill_server()
        (project.root / "go").touch()
        assert flow.wait(120) == 0, (project.root / "said").read_text()[-4000:]
    said = (project.root / "said").read_text()
    assert "The pipeline is up to date: Completed" in said
    assert "note: Prefect's server did not answer when the run ended" in said
    assert project.ran() == ["register"]
    assert project.dvc("status").strip() == "Data and pipelines are up to date."

    outage.start_server()
    assert ("RUNNING", "Running") in outage.states("flow_runs")  # as the kill left it
    done = subprocess.run(
        [sys.executable, "-c", REAP], cwd=project.root, env=outage.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Completed, as it ended at" in done.stdout
    assert outage.states("flow_runs") == [("COMPLETED", "Completed")] * 2
    assert {kind for kind, _ in outage.states("task_runs")} == {"COMPLETED"}
