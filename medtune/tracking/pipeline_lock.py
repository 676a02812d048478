"""One run on the stages of a checkout at a time, whoever starts it: a file lock that says who holds it.

    with pipeline_lock(root) as lock: …

The flows hold it, `medtune sweep`, and the doctor while it takes away what a killed flow left.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from medtune.params.errors import UserError
from medtune.tracking.holder import LOCK


class PipelineBusy(UserError):
    """Another run holds the lock."""


@contextmanager
def pipeline_lock(root: Path) -> Iterator[int]:
    """Hold `mlruns/pipeline.lock`, or raise PipelineBusy with process, host and time of whoever does.

    Yields the file descriptor. The kernel lets go when the last process that has it is gone, however it ends: handed to
    a child (pass_fds), the lock stays until the child has ended too. (filelock would empty the file on every attempt.)
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineBusy(f"the pipeline is running already: {_holder(path)}; wait for its end") from None
        file.truncate(0)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now}, file)
        file.flush()
        yield file.fileno()


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} holds {LOCK} since {holder['since']}"
    except (ValueError, KeyError):  # taken this very moment, its name not written yet
        return f"someone has just taken {LOCK}"
