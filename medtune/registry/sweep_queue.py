"""DVC's queue of experiments, worked off by workers that end with us.

`dvc queue start` leaves its workers behind as daemons: a sweep that is killed would go on training, unseen. The same
workers (`dvc exp queue-worker`) are started here as children on a leash (flows/leash.py), which takes the whole group,
trainings included, down when this process ends, however it ends. The queue itself, its temporary folders and the
experiments' commits are DVC's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.sweep_grid import Trial
from medtune.registry.sweep_workspace import DVC, TARGET, Workspace, sentence_of

RUNS = Path(".dvc/tmp/exps/run")
LEASH = Path("flows/leash.py")
FAILURES, FINISHED = (4, 5), 6  # of DVC's TaskStatus; a success (3) is finished once its commit was collected
LOOK_SECONDS = 0.5
# DVC's own command line, once for all: it takes a second or two to start
QUEUE = "import json, sys; from dvc.cli import main; sys.exit(max(main(words) for words in json.load(sys.stdin)))"


@dataclass(frozen=True)
class Outcome:
    """commit: of the experiment, in the workspace, where it went well; log: what its stages said."""

    trial: Trial
    commit: str | None
    log: str
    trained: bool

    @property
    def sentence(self) -> str | None:
        return None if self.commit else sentence_of(self.log)


def enqueue(workspace: Workspace, trials: Sequence[Trial], prefix: str) -> None:
    """Put every combination into DVC's queue. RegistryError with DVC's words where it refuses one."""
    commands = []
    for trial in trials:
        settings = [part for setting in trial.settings for part in ("-S", setting)]
        commands.append(["exp", "run", "--queue", "--name", _name(prefix, trial), *settings, TARGET])
    done = subprocess.run(
        [sys.executable, "-c", QUEUE],
        cwd=workspace.root,
        env=workspace.environment,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RegistryError(f"DVC does not queue the trials: {sentence_of(done.stdout + done.stderr)}")


def outcomes(workspace: Workspace, root: Path, trials: Sequence[Trial], prefix: str, jobs: int) -> Iterator[Outcome]:
    """Work the queue off, `jobs` trials at once, and give each trial as it ends.

    RegistryError where the workers end before the queue is empty; their log is named in it.
    """
    waiting = {_name(prefix, trial): trial for trial in trials}
    with _workers(workspace, root, min(jobs, len(trials))) as (processes, log):
        idle_since: float | None = None
        while waiting:
            for name, info, told in _ended(workspace):
                if name in waiting:
                    trial = waiting.pop(name)
                    commit = _commit(workspace, info)
                    yield Outcome(trial, commit, told, f"Running stage '{TARGET}'" in told)
            if not waiting:
                return
            idle = all(process.poll() is not None for process in processes)
            idle_since = (idle_since or time.monotonic()) if idle else None
            if idle_since is not None and time.monotonic() - idle_since > LOOK_SECONDS * 4:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise RegistryError(
                    f"DVC's queue stopped with {len(waiting)} trials to go ({said[-1] if said else 'without a word'}); "
                    "start the sweep again, and it goes on where it stopped"
                )
            time.sleep(LOOK_SECONDS)


@contextmanager
def _workers(workspace: Workspace, root: Path, count: int) -> Iterator[tuple[list[subprocess.Popen], Path]]:
    log = workspace.root / ".dvc/tmp/workers.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    leash = (root / LEASH).resolve()
    if not leash.is_file():
        raise RegistryError(f"{leash} is missing; run in a whole checkout of medtune")
    processes: list[subprocess.Popen] = []
    with log.open("ab") as out:
        try:
            for number in range(1, count + 1):
                node = f"medtune-sweep-{os.getpid()}-{number}@localhost"
                worker = [*DVC, "exp", "queue-worker", node]
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-I", "-S", str(leash), str(os.getpid()), *worker],
                        cwd=workspace.root,
                        env=workspace.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
            yield processes, log
        finally:
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)  # the leash takes the group down
            for process in processes:
                process.wait()


def _ended(workspace: Workspace) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name, DVC's record, log) of every experiment that is over and collected, or failed."""
    for file in sorted((workspace.root / RUNS).glob("*/*.run")):
        try:
            info = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # being written
            continue
        status = info.get("status", 0)
        process = _json(file.with_suffix(".json"))
        # a success counts once its commit is here; a failure once its process has ended, so that its log is whole
        failed = status in FAILURES or process.get("returncode") not in (None, 0)
        if status == FINISHED or (failed and process.get("returncode") is not None):
            log = file.with_suffix(".out")
            told = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            yield str(info.get("name")), info, told


def _commit(workspace: Workspace, info: dict[str, Any]) -> str | None:
    ref = info.get("result_ref")
    if not ref:
        return None
    found = workspace.git("for-each-ref", "--format=%(objectname)", str(ref))
    return found or None


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _name(prefix: str, trial: Trial) -> str:
    return f"{prefix}-{trial.id}"
