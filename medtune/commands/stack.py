"""`medtune stack`: MLflow, Prefect and a worker on this machine, until Ctrl-C; `medtune ui`: the two servers alone.

All of them listen on loopback only. Each runs on a leash (flows/leash.py), in a process group that ends with this
process, also where that is killed. What they know is in mlruns/ and .prefect/: started again, all is there again.
A worker that ends by itself is started again; a server that does ends everything.
"""

import contextlib
import fcntl
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
from typing import Annotated

import typer

from medtune.params.errors import UserError

LOCK = Path("mlruns/stack.lock")
POOL = "medtune"
START_SECONDS = 180.0  # a fresh database on a busy machine takes its time
PAUSES = (5.0, 30.0, 120.0)  # seconds before a worker that ended is started again: the first time, the second, …
MOST = 10  # ends within an hour, after which nobody should believe in the next start
HOUR = 3600.0
MlflowPort = Annotated[int, typer.Option(help="port of MLflow")]
PrefectPort = Annotated[int, typer.Option(help="port of Prefect")]


def stack(mlflow_port: MlflowPort = 5000, prefect_port: PrefectPort = 4200) -> None:
    """Start MLflow, Prefect and a worker on loopback, deploy every flow, and keep them running until Ctrl-C."""
    with _alone(), Group(Path("mlruns/stack.log")) as group:
        mlflow, prefect = _servers(group, mlflow_port, prefect_port)
        group.wait()
        more = {"PREFECT_API_URL": f"{prefect}/api", "MEDTUNE_MLFLOW_URL": mlflow}
        Path("data/incoming").mkdir(parents=True, exist_ok=True)  # before anybody looks into it
        group.run("flows.deploy", more)
        group.start("worker", ["prefect", "worker", "start", "--pool", POOL, "--name", "stack"], more, comes_back=True)
        print(
            f"MLflow    {mlflow}   runs, versions, cards\n"
            f"Prefect   {prefect}   runs of the flows, schedules, messages, approvals\n"
            "Put *.jsonl files into data/incoming: once retrain.min_new_rows have come in, a retrain starts by itself\n"
            "and its version is promoted or rejected. By hand:\n"
            f"  PREFECT_API_URL={prefect}/api prefect deployment run medtune-retrain/weekly\n"
            f"The log is {group.log}; Ctrl-C ends everything, and what is trained then goes on at the next start.",
            flush=True,
        )
        group.watch()


def ui(mlflow_port: MlflowPort = 5000, prefect_port: PrefectPort = 4200) -> None:
    """Serve the MLflow and Prefect pages on loopback until Ctrl-C."""
    with Group(Path("mlruns/ui.log")) as group:
        mlflow, prefect = _servers(group, mlflow_port, prefect_port)
        group.wait()
        print(f"MLflow    {mlflow}\nPrefect   {prefect}\nthe log is {group.log}; Ctrl-C ends both", flush=True)
        group.watch()


def _servers(group: "Group", mlflow_port: int, prefect_port: int) -> tuple[str, str]:
    """Start both; their addresses. Tracking by a server that runs elsewhere needs none here."""
    from medtune.tracking.store import open_store

    if mlflow_port == prefect_port:
        raise UserError(f"MLflow and Prefect cannot both have port {mlflow_port}")
    store = open_store()
    own = not store.startswith(("http:", "https:"))
    for name, port, option in (("MLflow", mlflow_port, "--mlflow-port"), ("Prefect", prefect_port, "--prefect-port")):
        if own or name == "Prefect":
            _is_free(name, port, option)
    mlflow, prefect = f"http://127.0.0.1:{mlflow_port}", f"http://127.0.0.1:{prefect_port}"
    if own:
        serve = ["mlflow", "server", "--default-artifact-root", "mlruns/artifacts", "--workers", "1"]
        group.start(
            "MLflow",
            [*serve, "--host", "127.0.0.1", "--port", str(mlflow_port)],
            # not as an argument: a password would be in the list of processes. MLflow's jobs judge answers of language
            # models by others, which we do not: seven processes less, and a twentieth of a core
            {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            f"{mlflow}/health",
        )
    group.start(
        "Prefect",
        ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)],
        {"PREFECT_API_URL": f"{prefect}/api"},
        f"{prefect}/api/health",
    )
    return (mlflow if own else store), prefect


class Group:
    """Python modules that run until this process ends, and one log of them all."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._running: dict[str, subprocess.Popen] = {}
        self._asked: dict[str, str] = {}
        self._comes_back: dict[str, Comeback] = {}

    def __enter__(self) -> "Group":
        self.log.parent.mkdir(exist_ok=True)
        self._file = self.log.open("ab")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        return self

    def __exit__(self, kind: type | None, *_: object) -> bool:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for comeback in self._comes_back.values():
            comeback.clear()
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C: the leashes end them all the same
            for process in reversed(self._running.values()):
                process.terminate()
            for process in self._running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=20)
        self._file.close()
        if kind is KeyboardInterrupt:
            print("ended")
        return kind is KeyboardInterrupt

    def start(
        self,
        name: str,
        module: list[str],
        more: dict[str, str],
        health: str | None = None,
        comes_back: bool = False,
    ) -> None:
        """`health`: an address that answers 200 once it is up; `wait` waits for it. `comes_back`: whether `watch`
        starts it again where it ends by itself."""
        leash = Path("flows/leash.py")
        if not leash.exists():
            raise UserError("flows/ is not here: run this in the project's folder")
        self._running[name] = subprocess.Popen(
            [sys.executable, "-I", "-S", str(leash), str(os.getpid()), sys.executable, "-m", *module],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
            env=os.environ | more,
            start_new_session=True,
        )
        if health:
            self._asked[name] = health
        if comes_back and name not in self._comes_back:
            self._comes_back[name] = Comeback(lambda: self.start(name, module, more))

    def wait(self) -> None:
        """Until every server answers. UserError with the end of the log where one ends instead, or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        for name, address in self._asked.items():
            while not _answers(address):
                self._all_there()
                if time.monotonic() > deadline:
                    raise UserError(f"{name} does not answer after {START_SECONDS:.0f} s; see the end of {self.log}")
                time.sleep(0.2)

    def run(self, module: str, more: dict[str, str]) -> None:
        """To its end, its lines shown. UserError with its own sentence where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", module],
            env=os.environ | more,
            capture_output=True,
            text=True,
        )
        self._file.write((done.stdout + done.stderr).encode())
        self._file.flush()
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise UserError((said[-1] if said else f"{module} failed").removeprefix("error: "))
        print(done.stdout, end="")

    def watch(self) -> None:
        """Until Ctrl-C, or until one of them ends by itself that does not come back, or too often."""
        while True:
            self._bring_back()
            self._all_there()
            time.sleep(1)

    def _bring_back(self) -> None:
        now = time.monotonic()
        for name, comeback in self._comes_back.items():
            process = self._running.get(name)
            if process is None:
                if comeback.is_due(now):
                    comeback.clear()
                    comeback.start()
                    self._tell(f"{name} was started again")
            elif process.poll() is not None:
                last, pause = self._last_line(), comeback.ended(process.pid, now)
                if pause is None:
                    raise UserError(
                        f"{name} ended by itself {MOST} times within an hour; the reason is at the end of {self.log}: "
                        f"{last}"
                    )
                del self._running[name]
                self._tell(f"{name} ended by itself, and is started again in {pause:.0f} s: {last}")

    def _tell(self, sentence: str) -> None:
        """On the terminal and in the log."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}"
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        print(line, flush=True)

    def _all_there(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None and name not in self._comes_back:
                raise UserError(f"{name} ended by itself; the reason is at the end of {self.log}: {self._last_line()}")

    def _last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it says nothing")


class Comeback:
    """When something that ended by itself is started again, and that nothing of it is left by then."""

    def __init__(self, start: Callable[[], None]) -> None:
        self.start = start
        self._ends: list[float] = []
        self._due = 0.0
        self._left: int | None = None

    def ended(self, group: int, now: float) -> float | None:
        """Seconds until its next start; None where it ended too often. `group`: its process group, whose flow runs
        are told to end: nobody would end them at Ctrl-C, and a train stage goes on from its checkpoint."""
        self._ends = [at for at in self._ends if now - at < HOUR] + [now]
        self._left = group
        _end_group(group, signal.SIGTERM)
        if len(self._ends) >= MOST:
            return None
        pause = PAUSES[min(len(self._ends), len(PAUSES)) - 1]
        self._due = now + pause
        return pause

    def is_due(self, now: float) -> bool:
        return now >= self._due

    def clear(self) -> None:
        """What did not end when it was told to is ended."""
        if self._left is not None:
            _end_group(self._left, signal.SIGKILL)
            self._left = None


def _end_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One stack a checkout: a second would run watcher and worker twice. The kernel lets go when we are gone."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"the stack runs here already{_by(file.read())}; end that one first (Ctrl-C there)"
            ) from None
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        yield


def _by(text: str) -> str:
    try:
        holder = json.loads(text)
        return f", as process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError):
        return ""


def _is_free(name: str, port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the servers do: what just ended is no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} is not free for {name} ({error.strerror}): end what uses it, or take another, "
                f"{option} {port + 1}"
            ) from None


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
