"""What a person sees while the model trains: one line a logged step, with speed and the time that is left."""

import sys
import time

from transformers import TrainerCallback


class Progress(TrainerCallback):
    """Adds tokens_per_second (padding not counted) to each log, and prints it. Put before any tracking callback."""

    def __init__(self) -> None:
        self.tokens = 0
        self.train_seconds = 0.0

    def tokens_per_second(self) -> float | None:
        """Over all steps of this process, padding and validation not counted; None before the first."""
        return self.tokens / self.train_seconds if self.train_seconds else None

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step = state.global_step
        self.started = self.since = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            if logs and "eval_loss" in logs:
                print(
                    f"step {state.global_step}/{state.max_steps}  validation loss {logs['eval_loss']:.4f}", flush=True
                )
                self.since = time.perf_counter()  # the seconds of validation are no training
            return
        now = time.perf_counter()
        # trl counts the tokens of this process as they pass through the loss
        tokens, self.tokens = logs["num_tokens"] - self.tokens, logs["num_tokens"]
        logs["tokens_per_second"] = tokens / max(now - self.since, 1e-9)
        self.train_seconds += now - self.since
        self.since = now
        done = state.global_step - self.first_step
        left = (now - self.started) / max(done, 1) * (state.max_steps - state.global_step)
        share = state.global_step / max(state.max_steps, 1)
        bar = f"[{'#' * int(20 * share):<20}] " if sys.stdout.isatty() else ""
        print(
            f"{bar}step {state.global_step}/{state.max_steps}  loss {float(logs['loss']):.4f}  "
            f"lr {logs['learning_rate']:.2e}  grad {float(logs.get('grad_norm', 0)):.2f}  "
            f"{logs['tokens_per_second']:.0f} tok/s  {int(left // 60)}:{int(left % 60):02d} left",
            flush=True,
        )
