"""`medtune stack` for real: servers, worker, deployments; refused twice; nothing left after Ctrl-C or kill -9."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from registry_checkout import fresh_store

from medtune.params.errors import UserError
from tests.flows.live_server import free_port, project_with_flows
from tests.flows.small_project import ROOT

__all__ = ["fresh_store"]
RUN = "import sys, typer; from medtune.commands.stack import stack; app = typer.Typer(); app.command()(stack); app()"


class Stack:
    def __init__(self, root: Path, mlflow: int, prefect: int):
        self.prefect = f"http://127.0.0.1:{prefect}/api"
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", RUN, "--mlflow-port", str(mlflow), "--prefect-port", str(prefect)],
            cwd=root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if "Ctrl-C ends everything" in line:
                return
        raise AssertionError(self.said)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def deployments(self) -> int:
        request = urllib.request.Request(
            f"{self.prefect}/deployments/count", data=b"{}", headers={"Content-Type": "application/json"}
        )
        return int(urllib.request.urlopen(request, timeout=30).read())


def environment() -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "PREFECT_HOME")}
    return known | {"PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"}


def gone(processes: list[psutil.Process], seconds: float = 30) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [item for item in alive if item.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def project(tmp_path_factory, fresh_store, prefect_database):
    project = project_with_flows(tmp_path_factory.mktemp("stack") / "project")
    for folder in ("mlruns", ".prefect"):
        (project.root / folder).mkdir()
    shutil.copy(prefect_database, project.root / ".prefect/prefect.db")
    shutil.copy(fresh_store, project.root / "mlruns/mlflow.db")  # a new one is tests/tracking/test_store.py's matter
    return project


@pytest.mark.slow
def test_killed_and_started_again_it_leaves_no_orphan_and_makes_no_double(project):
    mlflow, prefect = free_port(), free_port()
    stack = Stack(project.root, mlflow, prefect)
    assert f"http://127.0.0.1:{mlflow}" in stack.said
    assert "Put *.jsonl files into data/incoming" in stack.said
    assert urllib.request.urlopen(f"http://127.0.0.1:{mlflow}/health", timeout=30).status == 200
    second = subprocess.run(
        [sys.executable, "-c", RUN], cwd=project.root, env=environment(), capture_output=True, text=True
    )
    assert f"the stack runs here already, as process {stack.process.pid}" in second.stderr
    children = stack.children()
    assert len(children) >= 6  # three leashes and what they lead
    stack.process.kill()
    assert gone(children)

    again = Stack(project.root, mlflow, prefect)
    assert "as it was" in again.said
    assert ": made" not in again.said
    assert again.deployments() == 6
    children = again.children()
    again.process.send_signal(signal.SIGINT)
    assert again.process.stdout.read().rstrip().endswith("ended")
    assert again.process.wait(timeout=60) == 0
    assert gone(children)


def test_a_port_that_is_taken_is_a_sentence(project, monkeypatch):
    import socket

    from medtune.commands.stack import stack

    monkeypatch.chdir(project.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(UserError, match=f"port {port} is not free for Prefect .*--prefect-port {port + 1}"):
                stack(free_port(), port)
        with pytest.raises(UserError, match="cannot both have port 5000"):
            stack(5000, 5000)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_server_that_ends_by_itself_is_told_with_its_last_words(tmp_path, monkeypatch):
    from medtune.commands.stack import Group

    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    (tmp_path / "broken.py").write_text("raise SystemExit('no room on the disk')\n")
    before = signal.getsignal(signal.SIGTERM)
    try:
        with Group(Path("mlruns/stack.log")) as group:
            group.start("it", ["broken"], {"PYTHONPATH": str(tmp_path)}, "http://127.0.0.1:9/")
            with pytest.raises(UserError, match=r"it ended by itself.*mlruns/stack\.log: no room on the disk"):
                group.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


CRASHES = """
import subprocess, sys
from pathlib import Path

left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with Path("starts").open("a") as starts:
    starts.write(f"{left.pid}\\n")
sys.exit("no memory for the worker")
"""


def test_a_worker_that_ends_comes_back_and_the_servers_stay(tmp_path, monkeypatch, capsys):
    from medtune.commands import stack

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stack, "PAUSES", (0.0,))
    monkeypatch.setattr(stack, "MOST", 3)
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    (tmp_path / "crashes.py").write_text(CRASHES)
    (tmp_path / "stays.py").write_text("import time; time.sleep(600)")
    more = {"PYTHONPATH": str(tmp_path)}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with stack.Group(Path("mlruns/stack.log")) as group:
            group.start("server", ["stays"], more)
            group.start("worker", ["crashes"], more, comes_back=True)
            with pytest.raises(UserError, match=r"worker ended by itself 3 times within an hour.*no memory"):
                group.watch()
            assert group._running["server"].poll() is None
    finally:
        signal.signal(signal.SIGTERM, before)
    left = [int(line) for line in (tmp_path / "starts").read_text().split()]
    assert len(left) == 3
    assert gone([psutil.Process(pid) for pid in left if psutil.pid_exists(pid)])
    said = capsys.readouterr().out
    assert said.count("worker ended by itself, and is started again in 0 s: no memory for the worker") == 2
    assert said.count("worker was started again") == 2
    assert "worker was started again" in (tmp_path / "mlruns/stack.log").read_text()


def test_pauses_grow_and_an_hour_forgives(monkeypatch):
    from medtune.commands import stack

    monkeypatch.setattr(stack, "_end_group", lambda group, number: None)
    comeback = stack.Comeback(lambda: None)
    assert [comeback.ended(0, float(n)) for n in range(9)] == [5.0, 30.0, *[120.0] * 7]
    assert comeback.ended(0, 10.0) is None
    assert comeback.ended(0, 10.0 + stack.HOUR) == 5.0


def test_a_server_ends_everything_while_a_worker_is_awaited(tmp_path, monkeypatch):
    from medtune.commands import stack

    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    (tmp_path / "crashes.py").write_text("open('crashed', 'w').close()\nraise SystemExit('worker gone')\n")
    (tmp_path / "broken.py").write_text(
        "import time; from pathlib import Path\n"
        "while not Path('crashed').exists(): time.sleep(0.05)\n"
        "time.sleep(1.5); raise SystemExit('no room on the disk')\n"
    )
    more = {"PYTHONPATH": str(tmp_path)}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with stack.Group(Path("mlruns/stack.log")) as group:
            group.start("Prefect", ["broken"], more)
            group.start("worker", ["crashes"], more, comes_back=True)
            with pytest.raises(UserError, match=r"Prefect ended by itself; the reason.*no room on the disk"):
                group.watch()
    finally:
        signal.signal(signal.SIGTERM, before)
