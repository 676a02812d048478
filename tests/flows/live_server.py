"""A Prefect server of the tests' own on loopback, with the services that schedule, mark late and trigger."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from tests.flows.small_project import ROOT, SmallProject

THREE = ("download", "train", "register")
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def project_with_flows(root: Path) -> SmallProject:
    """Three stand-in stages with our flows, deployments and rows that the watcher can read."""
    project = SmallProject.create(root, THREE)
    (root / "flows").symlink_to(ROOT / "flows")
    (root / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    row = {"instruction": "머리가 아파요.", "output": "쉬시고, 심해지면 병원에 가세요."}
    for folder in ("data/sample", "data/incoming"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "data/sample/rows.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    return project


class LiveServer:
    def __init__(self, home: Path):
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.log = home / "prefect.log"
        self.settings = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            "PYTHONPATH": str(ROOT),  # not whatever checkout is installed
        }
        self._running: list[subprocess.Popen] = []
        self._server = self.start(
            ROOT, "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui"
        )
        self.wait(lambda: self.get("/health") is True, 180)

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {"PATH": path} | self.settings | more

    def start(self, cwd: Path, *module: str) -> subprocess.Popen:
        """A module that goes on running; `stop` ends it."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=cwd,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def run(self, cwd: Path, *module: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *module], cwd=cwd, env=self.environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, root: Path) -> str:
        """What `python -m flows.deploy` does there, without the seconds that another Python takes to load Prefect."""
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.deploy import deploy

        said: list[str] = []
        with temporary_settings({PREFECT_API_URL: self.api}):
            deploy(root, said.append)
        return "\n".join(said)

    def get(self, path: str) -> object:
        try:
            with urllib.request.urlopen(self.api + path, timeout=30) as answer:
                return json.load(answer)
        except OSError:
            return None

    def post(self, path: str, body: object) -> object:
        request = urllib.request.Request(
            self.api + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        for _ in range(20):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code != 503:  # SQLite is busy; Prefect's own client asks again too
                    raise
                time.sleep(0.5)
        raise AssertionError(f"{path}: the server stays busy")

    def tell(self, event: str, resource: str, **payload: object) -> None:
        """An event, as flows/watch.py would emit it."""
        self.post(
            "/events",
            [
                {
                    "id": str(uuid4()),
                    "occurred": datetime.now(UTC).isoformat(),
                    "event": event,
                    "resource": {"prefect.resource.id": resource},
                    "payload": payload,
                }
            ],
        )

    def deployment(self, name: str) -> dict:
        return self.get(f"/deployments/name/{name}")

    def run_deployment(self, name: str, **state: object) -> str:
        """Ask for a run of a deployment, by its name or id; the run's id."""
        body = {"state": {"type": "SCHEDULED", **state}} if state else {}
        deployment = self.deployment(name)["id"] if "/" in name else name
        return self.post(f"/deployments/{deployment}/create_flow_run", body)["id"]

    def runs(self, name: str) -> list[dict]:
        wanted = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}, "limit": 200}
        return self.post("/flow_runs/filter", wanted)

    def state(self, run: str) -> dict:
        return self.get(f"/flow_runs/{run}")["state"]

    def finished(self, run: str, seconds: float = 180) -> dict:
        self.wait(lambda: self.state(run)["type"] in FINAL, seconds)
        return self.state(run)

    def wait(self, done, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            assert all(process.poll() is None for process in self._running), self.log.read_text()[-4000:]
            time.sleep(0.3)

    def stop(self, process: subprocess.Popen) -> None:
        self._running.remove(process)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        for process in reversed(self._running.copy()):
            self.stop(process)
