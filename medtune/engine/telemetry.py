"""What a person sees while the model trains: one line a logged step, with speed, memory and the time that is left."""

import sys
import time
from typing import TYPE_CHECKING

from transformers import TrainerCallback

if TYPE_CHECKING:
    from medtune.engine.guard import Watched

GIB = 2**30


class Progress(TrainerCallback):
    """Adds speed and memory to each log, and prints it. Put before any tracking callback.

    The keys: tokens_per_second (padding not counted), tflops (achieved TFLOP/s of model work on those tokens),
    matmul_share (of the ceiling, 0 to 1), peak_memory_gib (torch's allocator so far; on CUDA alone), padding_share (of
    what the collator handed on since the last log, 0 to 1; graphs fill rows up by some 1 % more). They are counted on
    the host: nothing here waits for a GPU.
    Where several ranks train together each has a Progress, and all but peak_memory_gib are figures of all of them.

    watched: the collator that counts what passes (without it, speed comes from trl's count, and padding is unknown).
    flops: floating-point operations a token (flops_per_token), 0 where unknown. ceiling: TFLOP/s of one device
    (matmul_ceiling).
    """

    def __init__(self, watched: "Watched | None" = None, flops: float = 0.0, ceiling: float = 0.0) -> None:
        self.watched, self.flops, self.ceiling = watched, flops, ceiling
        self.tokens = self.positions = 0
        self.trained = 0  # tokens since this start; a resumed run's count starts with those before it
        self.train_seconds = 0.0

    def tokens_per_second(self) -> float | None:
        """Over all steps of this process, padding and validation not counted; None before the first."""
        return self.trained / self.train_seconds if self.train_seconds else None

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step = state.global_step
        self.started = self.since = time.perf_counter()
        if self.ceiling:
            print(f"matmul ceiling, measured: {self.ceiling:.4g} TFLOP/s", flush=True)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            if logs and "eval_loss" in logs:
                print(
                    f"step {state.global_step}/{state.max_steps}  validation loss {logs['eval_loss']:.4f}", flush=True
                )
                self.since = time.perf_counter()  # the seconds of validation are no training
            return
        now = time.perf_counter()
        seconds, self.since = max(now - self.since, 1e-9), now
        self.train_seconds += seconds
        logs |= self._measures(logs, seconds, args.world_size if args else 1)
        done = state.global_step - self.first_step
        left = (now - self.started) / max(done, 1) * (state.max_steps - state.global_step)
        share = state.global_step / max(state.max_steps, 1)
        bar = f"[{'#' * int(20 * share):<20}] " if sys.stdout.isatty() else ""
        print(
            f"{bar}step {state.global_step}/{state.max_steps}  loss {float(logs['loss']):.4f}  "
            f"lr {logs['learning_rate']:.2e}  grad {float(logs.get('grad_norm', 0)):.2f}  "
            f"{_shown(logs)}  {int(left // 60)}:{int(left % 60):02d} left",
            flush=True,
        )

    def _measures(self, logs: dict, seconds: float, ranks: int) -> dict[str, float]:
        import torch

        # trl counts the tokens of all ranks as they pass through the loss, padding in a packed row included
        tokens, positions = (self.watched.tokens, self.watched.positions) if self.watched else (logs["num_tokens"], 0)
        if self.watched and ranks > 1:
            counts = torch.tensor([tokens, positions])
            torch.distributed.all_reduce(counts)  # on the host, by gloo
            tokens, positions = counts.tolist()
        new, computed = tokens - self.tokens, positions - self.positions
        self.tokens, self.positions = tokens, positions
        self.trained += new
        found = {"tokens_per_second": new / seconds}
        if self.flops:
            found["tflops"] = new * self.flops / seconds / 1e12
            if self.ceiling:
                found["matmul_share"] = found["tflops"] / (self.ceiling * ranks)
        if torch.cuda.is_initialized():
            found["peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
        if computed:
            found["padding_share"] = 1 - new / computed
        return found


def _shown(logs: dict) -> str:
    parts = [f"{logs['tokens_per_second']:.0f} tok/s"]
    if "tflops" in logs:
        share = f" ({logs['matmul_share']:.0%} of matmul)" if "matmul_share" in logs else ""
        parts.append(f"{logs['tflops']:.3g} TFLOP/s{share}")
    if "peak_memory_gib" in logs:
        parts.append(f"peak {logs['peak_memory_gib']:.1f} GiB")
    if logs.get("padding_share", 0) >= 0.005:
        parts.append(f"{logs['padding_share']:.0%} padding")
    return "  ".join(parts)
