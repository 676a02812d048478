"""The services of compose.yaml as processes of this machine: the same commands, environment, entrypoint and secrets.

    with start_stack(folder, root, postgres, store.endpoint) as stack:   # prepare, MLflow, Prefect
        stack.run("deploy")                                              # a one-shot service, to its end
        stack.start("worker")                                            # until the stack ends
        subprocess.run(..., env=stack.client())                          # what compose tells flows and stages

PostgreSQL and the S3 store come from the fixtures in the place of compose's two; the hosts of compose become addresses
on the loopback, /run/secrets a folder. Nothing else differs, so that a wrong option or a missing variable shows here.
"""

import base64
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from servers.processes import Postgres, free_port, start, stop, wait_for

ROOT = Path(__file__).resolve().parents[2]
# of this machine's environment a container would have none of ours
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "OMP_WAIT_POLICY", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE")
QUIET = {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


@dataclass
class Stack:
    """folder: secrets and logs; root: the checkout that worker and deploy run in."""

    folder: Path
    root: Path
    postgres: Postgres
    endpoint: str
    ports: dict[str, int] = field(default_factory=lambda: {n: free_port() for n in ("mlflow", "prefect", "worker")})
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def prefect(self) -> str:
        """Prefect's API."""
        return f"http://127.0.0.1:{self.ports['prefect']}/api"

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def client(self, service: str = "worker") -> dict[str, str]:
        """The environment of a process beside this stack, secrets and all, as the entrypoint would make it."""
        made = {}
        for name, value in self._environment(service).items():
            if name.endswith("_FILE"):
                name, value = name.removesuffix("_FILE"), Path(value).read_text()
            made[name] = value
        return made

    def command(self, service: str) -> list[str]:
        return ["bash", str(ROOT / "docker/entrypoint.sh"), *map(self._here, _services()[service]["command"])]

    def run(self, service: str, timeout: float = 300) -> str:
        """A one-shot service to its end; what it printed."""
        done = subprocess.run(
            self.command(service),
            cwd=self.root,
            env=self._environment(service),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{service} ended with status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, service: str) -> subprocess.Popen:
        """Begin a service and wait until its health check of compose.yaml is content."""
        process = self.begin(service)
        self.wait(service)
        return process

    def begin(self, service: str) -> subprocess.Popen:
        log = self.folder / f"{service}.log"
        process = start(self.command(service), log, env=self._environment(service))
        self.processes[service] = process
        return process

    def wait(self, service: str) -> None:
        check = [self._here(part) for part in _services()[service]["healthcheck"]["test"][1:]]
        check[0] = sys.executable

        def healthy() -> bool:
            return subprocess.run(check, capture_output=True).returncode == 0

        wait_for(healthy, self.processes[service], self.folder / f"{service}.log", seconds=180)

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def get(self, url: str, login: str = "", method: str = "GET", host: str = "") -> int:
        """The status of a request, with "user:password" or without."""
        request = urllib.request.Request(url, method=method, data=b"{}" if method == "POST" else None)
        request.add_header("Content-Type", "application/json")
        if login:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        if host:
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            stop(process)
        self.processes.clear()

    def _environment(self, service: str) -> dict[str, str]:
        own = {name: self._here(str(value)) for name, value in _services()[service]["environment"].items()}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: os.environ[name] for name in KEPT if name in os.environ} | QUIET
        return kept | {
            "PATH": path,
            "PYTHONPATH": str(self.root),
            "MEDTUNE_PATH": f"{Path(sys.executable).parent}:",  # as the image sets it
            "MEDTUNE_SECRETS": str(self.folder / "secrets"),
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["worker"]),
            "PREFECT_WORKER_QUERY_SECONDS": "2",  # a worker asks every ten seconds else: a test that waits for it idles
            **own,
        }

    def _here(self, text: str) -> str:
        """An address or a path of the containers as it is on this machine."""
        whole = {
            "0.0.0.0": "127.0.0.1",
            "postgres": "127.0.0.1",
            "5432": str(self.postgres.port),
            "5000": str(self.ports["mlflow"]),
            "4200": str(self.ports["prefect"]),
            "docker/prepare.py": str(ROOT / "docker/prepare.py"),
        }
        if text in whole:
            return whole[text]
        parts = {
            r"http://minio:9000": self.endpoint,
            r"postgres:5432": f"127.0.0.1:{self.postgres.port}",
            r"(mlflow|127\.0\.0\.1):5000": f"127.0.0.1:{self.ports['mlflow']}",
            r"(prefect|127\.0\.0\.1):4200": f"127.0.0.1:{self.ports['prefect']}",
            r"127\.0\.0\.1:8080": f"127.0.0.1:{self.ports['worker']}",
            r"/run/secrets": str(self.folder / "secrets"),
            r"/etc/medtune": str(self.folder),
            r"/tmp/prefect": str(self.folder / "prefect"),
        }
        for pattern, there in parts.items():
            text = re.sub(rf"{pattern}(?!\d)", there, text)
        return text


@contextmanager
def start_stack(folder: Path, root: Path, postgres: Postgres, endpoint: str) -> Iterator[Stack]:
    """Secrets, then prepare, then MLflow and Prefect, as depends_on has it. `postgres`: a cluster of its own."""
    stack = Stack(folder, root, postgres, endpoint)
    secrets = folder / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "postgres_password").write_text(postgres.password)  # docker/secrets.sh lets it be
    subprocess.run(["bash", ROOT / "docker/secrets.sh", secrets], check=True, capture_output=True)
    (folder / "mlflow-auth.ini").write_text(stack._here((ROOT / "docker/mlflow-auth.ini").read_text()))
    try:
        stack.run("prepare")
        for service in ("mlflow", "prefect"):
            stack.begin(service)
        for service in ("mlflow", "prefect"):
            stack.wait(service)
        yield stack
    finally:
        stack.stop()


def _services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
