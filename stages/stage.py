"""How every stage starts and ends: plain logs, errors as sentences, no orphan when its parent is killed."""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import UserError
from medtune.tracking.secrets import guard_output, redact

if TYPE_CHECKING:
    from psutil import Process

LOOK_SECONDS = 1.0  # between two looks at whether the process that asked for this stage is there


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's main; a UserError becomes its sentence on stderr and exit status 1, anything else a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("httpx", "httpx2", "great_expectations", "matplotlib", "alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a server that is away is told of by whoever asks it
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns of optional CPU kernels at every import
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    guard_output()
    for stream in (sys.stdout, sys.stderr):  # under DVC and Prefect stdout is a pipe: show lines as they come
        stream.reconfigure(line_buffering=True)
    die_with_parent()
    target, applied = os.environ.get("MEDTUNE_TARGET") or "dev", os.environ.get("MEDTUNE_TARGET_APPLIED", "")
    if target not in ("dev", applied.partition(":")[0]):  # it would work on another registry than its name says
        sys.exit(
            f"error: MEDTUNE_TARGET is {target}, without its settings: python -m medtune.tracking.targets dvc repro"
        )
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {redact(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run `dvc repro` again to go on")


def die_with_parent() -> None:
    """End with whoever asked for this stage: a `dvc` that is killed leaves its stages running, with the GPU in hand.

    Linux sends a signal when the parent dies. But DVC runs a command through the user's shell, which may stand in
    between and live on, and elsewhere there is no such signal: so a thread watches every process up to DVC's.
    """
    ancestors = _up_to_dvc()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() == 1 and not ancestors and "DVC_STAGE" in os.environ:  # it died before we could look
        sys.exit("the process that started this stage is gone")
    threading.Thread(target=_watch, args=(ancestors,), name="parent", daemon=True).start()


def _up_to_dvc() -> "list[Process]":
    """The parent; under DVC all processes from there up to it."""
    import psutil

    found: list[Process] = []
    try:
        for process in psutil.Process().parents():
            if process.pid == 1 and not found:
                return []  # adopted; a container's first process is nobody that would be killed alone
            found.append(process)
            if any(Path(part).name == "dvc" for part in process.cmdline()[:4]):
                return found
    except psutil.Error:  # one of them ended as we looked: the next look tells
        return found
    return found[:1]


def _watch(ancestors: "list[Process]") -> None:
    import psutil

    def lives(process: "Process") -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    while all(lives(process) for process in ancestors):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
