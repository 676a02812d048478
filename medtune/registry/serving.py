"""A verified version behind somebody else's server: transformers' own, or vLLM.

The server is a child process that reaches no network but the address it listens on, knows one model, and ends with us:
on Linux also where we are killed. transformers' server finds the model by its name in a cache of the hub's layout that
is made for it alone, so that requests name medgpt-ko and not a path, /v1/models lists it, and no other model of this
machine can be asked for by name.
"""

import ctypes
import importlib.util
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import RegistryError
from medtune.registry.ledger import read_ledger
from medtune.registry.standing import standings
from medtune.tracking.secrets import ADDRESSES, SECRETS
from medtune.tracking.store import HOME

if TYPE_CHECKING:
    from types import FrameType

    from medtune.params.recipe import Recipe

SERVERS = ("transformers", "vllm")
LOG = Path(HOME) / "serve.log"
GRACE_SECONDS = 10.0  # for answers under way, after SIGTERM
# what a model server has no use for, besides every name in secrets.SECRETS and secrets.ADDRESSES
OURS = re.compile(r"^(AWS_|MLFLOW_TRACKING_|MEDTUNE_LEDGER|PREFECT_API|HF_TOKEN|HUGGING_FACE_HUB_TOKEN|PG)")


@dataclass(frozen=True)
class Served:
    """folder: the merged model, verified; version: its digest; number: MLflow's; card: its release card, where kept."""

    folder: Path
    model: str
    version: str
    number: int | None
    card: Path | None

    @property
    def name(self) -> str:
        """The model's name in requests: what the registry calls it, in the characters that the hub allows."""
        return re.sub(r"[^\w.-]|--|\.\.", "-", self.model, flags=re.ASCII).strip("-.") or "model"


def find_served(root: Path, recipe: "Recipe", alias: str = "champion", version: str | None = None) -> Served:
    """The version that an alias, number or digest names, every file verified; RegistryError as champion_dir."""
    from medtune.registry.champion import champion_dir

    folder = champion_dir(root, recipe, alias, version)
    digest, model = folder.parent.name, recipe.register_.model
    ledger = read_ledger(root)
    standing = standings(ledger, model).get(digest) if ledger else None
    run_id = standing.registered.body.get("run_id") if standing else None
    return Served(folder, model, digest, standing.number if standing else None, _card(root, digest, run_id))


def _card(root: Path, digest: str, run_id: str | None) -> Path | None:
    """The page in the version's run; else reports/card/ where that is of this version."""
    kept = sorted((root / HOME / "artifacts").glob(f"**/{run_id}/artifacts/card/card.html")) if run_id else []
    if kept:
        return kept[-1]
    report, page = root / "reports/register.json", root / "reports/card/card.html"
    try:
        of = json.loads(report.read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError):
        return None
    return page if of == digest and page.exists() else None


def serve(
    root: Path,
    served: Served,
    host: str = "127.0.0.1",
    port: int = 8000,
    server: str = "transformers",
    device: str = "cpu",
    dtype: str = "auto",
    say: Callable[[str], None] = print,
) -> int:
    """Start the server, tell when it answers, and stay until it ends or SIGINT or SIGTERM comes; its exit status, 0
    where it was we who ended it. port 0 takes a free one. RegistryError where it cannot start, with the log's end."""
    if server not in SERVERS:
        raise RegistryError(f"--server {server} is none of {', '.join(SERVERS)}")
    port = _free_port(host, port)
    home = _own_folder(root)
    log = root / LOG
    try:
        command = (_transformers if server == "transformers" else _vllm)(served, home, host, port, device, dtype)
        if not _loopback(host):
            say(
                f"warning: {host} is not loopback, and the server has no password: whoever reaches port {port} may use "
                "it. Stay on 127.0.0.1 and use `ssh -L`, or put a proxy with a login in front"
            )
        say(f"{served.model} version {served.number or '?'} ({served.version[:12]}), verified; starting {server}")
        with log.open("wb") as out, _ended_by_signals() as asked:
            child = _start(command, home, out, signal.SIGKILL if server == "transformers" else signal.SIGTERM)
            try:
                seconds = _wait(child, host, port, served.name, log, asked)
                if seconds is not None:
                    say(_ready(served, host, port, seconds, log.relative_to(root)))
                while child.poll() is None and not asked:
                    time.sleep(0.2)
            finally:
                ended = child.poll()
                _end(child)
        if ended is not None and not asked:
            raise RegistryError(f"the server ended by itself (status {ended}); {log} ends with:\n{_tail(log)}")
        say("ended")
        return 0
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _transformers(served: Served, home: Path, host: str, port: int, device: str, dtype: str) -> list[str]:
    if missing := [name for name in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise RegistryError(
            f"transformers' server needs {', '.join(missing)}: python -m pip install 'medtune[serve]', or --server vllm"
        )
    snapshot = home / "hub" / f"models--{served.name}" / "snapshots" / served.version[:40]
    snapshot.mkdir(parents=True)
    for file in sorted(served.folder.iterdir()):
        if file.is_file():
            (snapshot / file.name).symlink_to(file.resolve())
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text(served.version[:40])
    return [
        sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", served.name,
        "--host", host, "--port", str(port), "--device", device, "--dtype", dtype, "--no-trust-remote-code",
    ]  # fmt: skip


def _vllm(served: Served, home: Path, host: str, port: int, device: str, dtype: str) -> list[str]:
    beside = Path(sys.executable).with_name("vllm")
    program = str(beside) if beside.exists() else shutil.which("vllm")
    if program is None:
        raise RegistryError(
            "vLLM is not installed here: python -m pip install vllm on a machine with a GPU, or leave --server out for "
            "transformers' own server; `medtune export vllm OUT` writes the model for another machine"
        )
    # --generation-config auto: the defaults of the model's own generation_config.json, max_new_tokens included
    return [
        program, "serve", str(served.folder.resolve()), "--served-model-name", served.name, "--host", host,
        "--port", str(port), "--dtype", dtype, "--generation-config", "auto",
    ]  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    """The child's: no network of the hub's, its own cache, no credentials of ours."""
    ours = {*SECRETS, *ADDRESSES}
    kept = {name: value for name, value in os.environ.items() if name not in ours and not OURS.match(name)}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _start(command: list[str], home: Path, out, with_us: int) -> subprocess.Popen:
    """In a session of its own, so that Ctrl-C comes to us and we end it in order; with_us: its signal if we die."""
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def bind() -> None:
        if libc is not None:
            libc.prctl(1, with_us)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:  # we died before the call
                os._exit(1)

    return subprocess.Popen(
        command,
        cwd=home,  # a folder of the model's name where we were started would be taken for the model
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=bind,
    )


def _wait(child: subprocess.Popen, host: str, port: int, name: str, log: Path, asked: list[int]) -> float | None:
    """Seconds until /v1/models lists the model; None where a signal or the child's end came first."""
    began = time.monotonic()
    url = f"http://{_reach(host)}:{port}/v1/models"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not asked and child.poll() is None:
        try:
            with opener.open(url, timeout=5) as answer:
                if name in {model["id"] for model in json.load(answer)["data"]}:
                    return time.monotonic() - began
        except (OSError, ValueError, KeyError, urllib.error.URLError):
            pass
        time.sleep(0.2)
    return None


def _ready(served: Served, host: str, port: int, seconds: float, log: Path) -> str:
    address = f"http://{_reach(host)}:{port}/v1"
    drawn = served.folder / "generation_config.json"
    limit = json.loads(drawn.read_text(encoding="utf-8")).get("max_new_tokens", 256) if drawn.exists() else 256
    body = {"model": served.name, "max_tokens": limit, "messages": [{"role": "user", "content": "머리가 아파요."}]}
    return "\n".join(
        (
            f"ready after {seconds:.0f} s: {address} (OpenAI's API; any key will do)",
            f"model   {served.name}",
            f"card    {served.card or 'none is kept of this version'}",
            f"log     {log}",
            f"try     curl {address}/chat/completions -H 'Content-Type: application/json' "
            f"-d '{json.dumps(body, ensure_ascii=False)}'",
            "연구용 모델이며 진료를 대신하지 않습니다. 응급 상황이면 119에 전화하세요.",
            "Ctrl-C ends it",
        )
    )


class _ended_by_signals(list):
    """A list that SIGINT and SIGTERM are put into while the block runs; the handlers that were there come back."""

    def __enter__(self) -> "_ended_by_signals":
        self.before = {number: signal.signal(number, self._came) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _came(self, number: int, frame: "FrameType | None") -> None:
        self.append(number)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _end(child: subprocess.Popen) -> None:
    """SIGTERM for the whole session of the server, and SIGKILL for what is left after the grace."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


def _own_folder(root: Path) -> Path:
    """mlruns/serving/<pid>, empty; folders of processes that are gone are removed."""
    import psutil

    home = (root / HOME / "serving").resolve()
    home.mkdir(parents=True, exist_ok=True)
    for old in home.iterdir():
        if old.name == str(os.getpid()) or not (old.name.isdigit() and psutil.pid_exists(int(old.name))):
            shutil.rmtree(old, ignore_errors=True)
    (home / str(os.getpid())).mkdir()
    return home / str(os.getpid())


def _free_port(host: str, port: int) -> int:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, port))
            return taken.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise RegistryError(f"{host} port {port} cannot be had ({error}); choose another with --port") from None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reach(host: str) -> str:
    """Where this machine finds a server that listens on `host`."""
    known = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return known.get(host, f"[{host}]" if ":" in host else host)


def _tail(log: Path, characters: int = 800) -> str:
    return log.read_bytes()[-characters:].decode("utf-8", errors="replace")
