"""A sharded training, started as a stage is: python -m engine.run_sharded BASE TOKENS SETTINGS (JSON) FOLDER

It starts its ranks itself. Rank 0 prints `first N` before each step, `counted SHARE` after it (the tokens that the
logged speed stands for, of those that trl counted) and the figures as JSON in the end. DIE=N ends rank 1 by SIGKILL
before step N, DIE=start fails it by a sentence before it has loaded anything.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from medtune.engine.launch import launch, rank_sentences, started_here
from medtune.engine.ranks import rank
from medtune.params.errors import EngineError
from medtune.params.train import Train
from stages.stage import run_stage

SENTENCE = "the disk of this rank is full; free some space"


def main() -> None:
    settings = json.loads(sys.argv[3])
    train = Train(**{"batch_size": 2, "max_steps": 6, "learning_rate": 1e-3, "sharding": "fsdp", "device": "cpu"})
    if started_here(train):
        launch("engine.run_sharded", train, sys.argv[1:])
        return
    die = os.environ.get("DIE", "-1")
    with rank_sentences():
        if die == "start":
            if rank() == 1:
                raise EngineError(SENTENCE)
            time.sleep(300)
        base, tokens, folder = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[4])
        figures = trained(base, tokens, folder, settings, int(die))
        if rank() == 0:
            print(json.dumps(figures), flush=True)


def trained(base: Path, tokens: Path, folder: Path, settings: dict, die: int) -> dict:
    import psutil
    from transformers import TrainerCallback

    from engine.tiny import sharded_job
    from medtune.engine.train import run

    class Steps(TrainerCallback):
        since, tokens = 0.0, 0

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                now = time.perf_counter()
                if self.tokens:
                    counted = logs["tokens_per_second"] * (now - self.since) / (logs["num_tokens"] - self.tokens)
                    print(f"counted {counted:.2f}", flush=True)
                self.since, self.tokens = now, logs["num_tokens"]

        def on_step_begin(self, args, state, control, **kwargs):
            print(f"first {state.global_step}", flush=True)
            if state.global_step == die:
                me = psutil.Process()
                for other in me.parent().children():
                    if other != me and "engine.run_sharded" in other.cmdline():
                        other.send_signal(signal.SIGKILL)

    return run(sharded_job(base, tokens, folder, **settings), [Steps()])


if __name__ == "__main__":
    run_stage(main)
