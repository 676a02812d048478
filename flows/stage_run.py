"""One stage as a subprocess: `dvc repro --single-item STAGE`, its lines passed on as they come."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from flows.graph import DVC
from medtune.params.errors import UserError

Outcome = Literal["ran", "unchanged", "restored"]

PROGRESS_SECONDS = 15.0  # a progress bar redraws ten times a second; a log wants it now and then
# DVC's advice after every stage; the flow's end gives it once
ADVICE = ("To track the changes with git", "To enable auto staging", "Use `dvc push`", "\tgit add", "\tdvc config")
ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "TQDM_DISABLE": "1",  # a log wants lines; the stages print their own progress
}


class StageFailed(UserError):
    """A stage ended with an error; the text is its own sentence."""


def run_stage(
    stage: str, root: Path, log: Callable[[str], None], force: bool = False, keep_open: tuple[int, ...] = ()
) -> Outcome:
    """Run one stage; every line of it goes to `log`. StageFailed carries the stage's sentence.

    "unchanged": DVC found nothing to do; "restored": its run cache had the outs. The stage, with all that it starts,
    lives in a process group that ends when this process does (flows/leash.py). `keep_open`: descriptors that stay open
    until that group is gone.
    """
    command = [*DVC, "repro", "--single-item", *(["--force"] if force else []), stage]
    leash = Path(__file__).with_name("leash.py")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(leash), str(os.getpid()), *command],
        cwd=root,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=keep_open,
    )
    seen = []
    try:
        for line in lines_of(process.stdout):
            if line.strip() and not line.startswith(ADVICE):
                log(line)
                seen.append(line)
        process.wait()
    finally:
        if process.poll() is None:  # cancelled, or our own failure: the stage must not go on alone
            process.send_signal(signal.SIGTERM)
            process.wait()
        process.stdout.close()
    if process.returncode:
        raise StageFailed(sentence(stage, seen))
    if any(line.startswith(f"Stage '{stage}' didn't change") for line in seen):
        return "unchanged"
    return "restored" if any(line.startswith(f"Stage '{stage}' is cached") for line in seen) else "ran"


def lines_of(stream: IO[bytes], progress_seconds: float = PROGRESS_SECONDS) -> Iterator[str]:
    """Lines as they arrive. Of what a progress bar redraws (ends in a carriage return) one now and then."""
    pending, last = b"", time.monotonic()
    while chunk := os.read(stream.fileno(), 65536):
        *complete, pending = re.split(rb"(?<=[\r\n])", pending + chunk)
        for part in complete:
            text = part.decode("utf-8", "replace").rstrip("\r\n")
            if part.endswith(b"\n"):
                yield text
            elif time.monotonic() - last >= progress_seconds:
                last = time.monotonic()
                yield text
    if pending:
        yield pending.decode("utf-8", "replace")


def sentence(stage: str, lines: list[str]) -> str:
    """What the stage said about its failure: from its last `error:` on; else its last line, else what DVC said."""
    own = [n for n, line in enumerate(lines) if line.startswith("error: ")]
    dvc = next((n for n, line in enumerate(lines) if line.startswith("ERROR: ")), len(lines))
    if own:
        return "\n".join(lines[own[-1] : max(dvc, own[-1] + 1)]).removeprefix("error: ")
    said = lines[:dvc]
    started = any(line.startswith("Running stage") for line in said)
    if started and said and not said[-1].startswith("> "):
        return f"{said[-1]} (the lines above it are in the log)"
    return " ".join(line.removeprefix("ERROR: ") for line in lines[dvc:]) or f"{stage} ended without a word"


def _environment() -> dict[str, str]:
    """Ours, with this very Python first on the path, for `python` in dvc.yaml's commands."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    return ENVIRONMENT | os.environ | {"PATH": path, "MEDTUNE_PATH": f"{here}{os.pathsep}"}
