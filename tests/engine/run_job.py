"""A training process to be killed: python -m engine.run_job BASE TOKENS FOLDER"""

import sys
import time
from pathlib import Path

from transformers import TrainerCallback

from engine.tiny import job
from medtune.engine.train import run

SETTINGS = {"max_steps": 8, "eval_steps": 2}


class Slow(TrainerCallback):
    """Leaves the other side time to kill between two steps."""

    def on_step_begin(self, args, state, control, **kwargs):
        print(f"first {state.global_step}", flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    run(job(*map(Path, sys.argv[1:4]), **SETTINGS), [Slow()])
