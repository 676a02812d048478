"""`kill -9` on a real `dvc repro`: the stage that it started ends too, also behind a shell that lives on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGE = """
import os, time
from pathlib import Path
from stages.stage import run_stage

def main():
    Path("pid.tmp").write_text(str(os.getpid()))
    Path("pid.tmp").rename("pid")
    time.sleep(600)

run_stage(main)
"""


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])  # bash makes place for its last command, dash stays
def test_a_killed_dvc_leaves_no_stage(tmp_path: Path, shell: str) -> None:
    if not Path(shell).exists():
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "slow.py").write_text(STAGE)
    command = f"env A=1 {sys.executable} slow.py" + ("; true" if shell == "/bin/sh" else "")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"slow": {"cmd": command}}}))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SHELL": shell}
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, env=environment, check=True)
    process = subprocess.Popen([*dvc, "repro"], cwd=tmp_path, env=environment, start_new_session=True)
    stage = None
    try:
        stage = psutil.Process(int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())))
        between = [one.pid for one in stage.parents()].index(process.pid)
        assert bool(between) == (shell == "/bin/sh")
        time.sleep(1.5)  # the watch looks, and leaves a stage alone whose dvc lives
        assert not ended(stage)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: ended(stage))
    finally:
        if process.poll() is None:
            process.kill()
        if stage is not None and not ended(stage):
            stage.kill()


def ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(done, seconds: float = 60) -> object:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found
