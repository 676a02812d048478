"""Run a command that does not outlive whoever asked for it.

    python flows/leash.py PARENT_PID COMMAND [ARGUMENT …]

`kill -9` on a flow or on `dvc` leaves what they started alive: a training would go on, unseen, beside the next one.
This small process stands in between, in a process group of its own (its parent starts it with start_new_session), and
takes the whole group down when it is told to (SIGTERM) or when its parent is gone. It needs the standard library only
and so starts in 20 ms.
"""

import ctypes
import os
import signal
import subprocess
import sys

GRACE_SECONDS = 5.0
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(parent: int, command: list[str]) -> int:
    """Run the command to its end; its exit status, or no return at all: a group that is taken down dies by SIGKILL."""
    child = None
    try:
        for number in STOPPING:
            signal.signal(number, _told_to_stop)
        _signal_when_parent_dies(signal.SIGTERM)
        # the child's own leash holds should this process be killed (out of memory, say)
        child = subprocess.Popen(command, preexec_fn=lambda: _signal_when_parent_dies(signal.SIGKILL))
        while True:
            if os.getppid() != parent:  # where the kernel sends no signal (macOS), or the parent died before the call
                raise _Stop
            try:
                return child.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
    except _Stop:
        _ignore_further_requests()
        os.killpg(0, signal.SIGTERM)
        try:
            if child:
                child.wait(timeout=GRACE_SECONDS)
        finally:
            os.killpg(0, signal.SIGKILL)  # this process too


class _Stop(BaseException):
    """Someone wants the group to end."""


def _told_to_stop(number: int, frame: object) -> None:
    _ignore_further_requests()
    raise _Stop


def _ignore_further_requests() -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _signal_when_parent_dies(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    status = run(int(sys.argv[1]), sys.argv[2:])
    sys.exit(status if status >= 0 else 128 - status)
