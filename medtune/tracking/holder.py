"""Who works on a candidate's run, as tags that anybody can read: host, process, when it was last seen.

A killed process cannot take its name off. So the tags name it exactly: a process id is given anew after a while, its
start time is not, and ids mean something only in the process table (boot and PID namespace) that gave them.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

HOST = "medtune.host"
PID = "medtune.pid"
STARTED = "medtune.process_started"  # seconds since 1970, of the process
TABLE = "medtune.process_table"  # boot and PID namespace
SEEN = "medtune.seen"
STAGE = "medtune.stage"
CHECKOUT = "medtune.checkout"
ENDED = "medtune.ended"  # the reaper's reason, a sentence; gone once the run is taken up again
TRAINED = "medtune.trained"  # when training reached its last step: from then on the run waits for register

LOCK = Path("mlruns/pipeline.lock")  # the flow's (flows/lock.py): {"pid", "host", "since"}
RWLOCK = Path(".dvc/tmp/rwlock")  # DVC's: which process reads or writes which path
SILENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Holder:
    """A process as the tags name it; seen: UTC."""

    host: str
    pid: int
    started: float
    table: str
    seen: datetime
    stage: str = ""
    checkout: str = ""

    @property
    def words(self) -> str:
        return f"{self.stage + ', ' if self.stage else ''}process {self.pid} on {self.host}"

    @property
    def near(self) -> bool:
        """Its process id can be looked up here: the same host, boot and PID namespace."""
        return (self.host, self.table) == (socket.gethostname(), process_table())

    def death(self, now: datetime, silence: timedelta = SILENCE) -> str | None:
        """Why this process works no longer; None where it lives, or may. `silence` counts where nobody can look."""
        if self.near:
            return None if _runs(self.pid, self.started) else f"{self.words} is gone, last seen {_told(self.seen)}"
        if now - self.seen <= silence:
            return None
        minutes = silence.total_seconds() / 60
        return f"nothing was heard of {self.words} since {_told(self.seen)}, more than {minutes:.0f} minutes"

    def tags(self) -> dict[str, str]:
        return {
            HOST: self.host,
            PID: str(self.pid),
            STARTED: f"{self.started:.2f}",
            TABLE: self.table,
            SEEN: moment(self.seen),
            STAGE: self.stage,
            CHECKOUT: self.checkout,
        }


def this_process(now: datetime | None = None) -> Holder:
    """This process, seen now, in the checkout that it runs in."""
    import psutil

    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        table=process_table(),
        seen=now or datetime.now(UTC),
        stage=os.environ.get("DVC_STAGE") or Path(sys.argv[0]).stem,
        checkout=str(Path.cwd()),
    )


def read_holder(tags: Mapping[str, str]) -> Holder | None:
    """Who a run's tags name; None where they name nobody (a run of before, or edited by hand)."""
    try:
        return Holder(
            host=tags[HOST],
            pid=int(tags[PID]),
            started=float(tags[STARTED]),
            table=tags[TABLE],
            seen=datetime.fromisoformat(tags[SEEN]),
            stage=tags.get(STAGE, ""),
            checkout=tags.get(CHECKOUT, ""),
        )
    except (KeyError, ValueError):
        return None


def moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def busy(root: Path) -> str | None:
    """Who runs this checkout's stages at the moment, the flow or `dvc repro`; None where nobody does.

    Between two stages of a candidate no process holds its run, and it is alive all the same.
    """
    return _flow(root / LOCK) or _dvc(root / RWLOCK)


@cache
def process_table() -> str:
    """Boot and PID namespace: a container has process ids of its own, and may share its host's name."""
    import psutil

    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return f"boot {psutil.boot_time():.0f}"


def _runs(pid: int, started: float) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        # by the clock of the moment: create_time moves a little where the host's clock is set
        return abs(process.create_time() - started) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _flow(path: Path) -> str | None:
    """The holder of the flow's lock. Only looked at: taking the lock to try it could turn a flow away."""
    import psutil

    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        pid, inode = int(said["pid"]), path.stat().st_ino
    except (OSError, ValueError, KeyError, TypeError):
        return None
    words = f"the pipeline (process {pid} on {said.get('host')}, since {said.get('since')})"
    if said.get("host") != socket.gethostname():
        return words  # a shared disk: it cannot be looked up
    locks = Path("/proc/locks")
    if locks.exists():  # the text stays when the lock goes; the kernel knows
        held = any(
            line.split()[1] == "FLOCK" and line.split()[5].endswith(f":{inode}")
            for line in locks.read_text().splitlines()
            if " -> " not in line and len(line.split()) > 5
        )
        return words if held and pid != os.getpid() else None
    return words if pid != os.getpid() and psutil.pid_exists(pid) else None


def _dvc(path: Path) -> str | None:
    import psutil

    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        held = [said.get("write", {}).values(), *said.get("read", {}).values()]
        infos = [info for group in held for info in group]
        pids = {int(info["pid"]): info.get("cmd", "dvc") for info in infos}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    living = [pid for pid in pids if pid != os.getpid() and psutil.pid_exists(pid)]
    return f"`{pids[living[0]]}` (process {living[0]})" if living else None


def _told(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
