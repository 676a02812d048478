"""A training process to be killed: python tests/engine/run_job.py BASE TOKENS FOLDER [SECONDS_PER_STEP]"""

import sys
import time
from pathlib import Path

from transformers import TrainerCallback

from engine.tiny import job
from medtune.engine.train import run


class Slow(TrainerCallback):
    """Leaves the other side time to kill between two steps."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_step_begin(self, args, state, control, **kwargs):
        print(f"first {state.global_step}", flush=True)
        time.sleep(self.seconds)


if __name__ == "__main__":
    base, tokens, folder = map(Path, sys.argv[1:4])
    wait = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    figures = run(job(base, tokens, folder, max_steps=8, eval_steps=2), [Slow(wait)])
    print(f"resumed from {figures['resumed_from_step']}")
