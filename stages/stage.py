"""How every stage starts and ends: plain logs, errors as sentences, no orphan when its parent is killed."""

import ctypes
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable

from medtune.params.errors import UserError
from medtune.tracking.secrets import guard_output, redact


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's main; a UserError becomes its sentence on stderr and exit status 1, anything else a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("httpx", "httpx2", "great_expectations", "matplotlib", "alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns of optional CPU kernels at every import
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    guard_output()
    for stream in (sys.stdout, sys.stderr):  # under DVC and Prefect stdout is a pipe: show lines as they come
        stream.reconfigure(line_buffering=True)
    die_with_parent()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {redact(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run `dvc repro` again to go on")


def die_with_parent() -> None:
    """Linux: have the kernel end this process when its parent dies, since a killed `dvc` leaves its stages running."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the call
            sys.exit("the process that started this stage is gone")
