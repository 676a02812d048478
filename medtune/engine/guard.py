"""Training that has lost its numbers stops at once, and says on which rows.

    collator = Watched(collator)                      # remembers which rows each batch holds
    class Trainer(Guarded, SFTTrainer): ...           # looks at the loss and at the gradient norm of every step
    Trainer(..., data_collator=collator)

A NaN does not stop a trainer by itself: every weight of the adapter becomes NaN, the next checkpoint is "complete", and
the last good one is deleted two checkpoints later. Here nothing is saved once a number is not finite.

What it costs on CUDA: nothing is waited for. Loss and gradient norm are copied to pinned memory and read one forward
pass later, by when they have long arrived; before a checkpoint, a validation and the end they are waited for.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch

SHOWN = 16  # row ids in the message; a packed step may hold hundreds


@dataclass(frozen=True)
class Batch:
    """One batch as the collator made it: its rows, its tokens, and the positions that the model computes for it."""

    row_ids: tuple[str, ...]
    tokens: int
    positions: int


class Watched:
    """A collator that remembers what it collated, in order, until the trainer has consumed it.

    The trainer fetches all batches of a step at once and accelerate one more ahead, so that batches wait here between
    the collator and the model; with the order of both the same, a queue is all it takes. It needs
    dataloader_num_workers 0: a collator in another process would remember there.
    """

    def __init__(self, collator: Callable[[list[dict]], dict[str, "torch.Tensor"]]):
        self.collator = collator
        self.waiting: deque[Batch] = deque()
        self.paused = False  # validation goes through the same collator
        self.tokens = 0  # consumed by training so far, padding not counted
        self.positions = 0  # computed by the model for them, padding counted

    def __getattr__(self, name: str) -> Any:  # whatever else the collator offers
        if name == "collator":  # while it is unpickled or copied there is none yet
            raise AttributeError(name)
        return getattr(self.collator, name)

    def __call__(self, samples: list[dict]) -> dict[str, "torch.Tensor"]:
        batch = self.collator(samples)
        if not self.paused:
            tokens = sum(len(sample["input_ids"]) for sample in samples)
            self.waiting.append(Batch(tuple(_row_ids(samples)), tokens, batch["input_ids"].numel()))
        return batch

    def consume(self) -> Batch | None:
        """The batch that the model sees next; None where the dataloader did not go through this collator."""
        if not self.waiting:
            return None
        batch = self.waiting.popleft()
        self.tokens += batch.tokens
        self.positions += batch.positions
        return batch


def _row_ids(samples: list[dict]) -> list[str]:
    """The rows of a batch. A bin of packed rows names several (row_ids), and a row without a name is passed over."""
    found = []
    for sample in samples:
        if "row_ids" in sample:
            found += sample["row_ids"]
        elif "row_id" in sample:
            found += [sample["row_id"]] if isinstance(sample["row_id"], str) else sample["row_id"]
    return found


def broken(what: str, value: float, step: int, row_ids: tuple[str, ...] | list[str]) -> EngineError:
    """The sentence for a loss or a gradient norm that is not finite."""
    shown = ", ".join(row[:12] for row in row_ids[:SHOWN]) or "not known"
    more = f" and {len(row_ids) - SHOWN} more" if len(row_ids) > SHOWN else ""
    named = "NaN" if math.isnan(value) else "infinite"
    return EngineError(
        f"the {what} of step {step} is {named}; training stopped, and the last checkpoint before it is kept. Its rows: "
        f"{shown}{more}. Look at them in data/valid/rows.jsonl (row_id), or lower train.learning_rate, and run again: "
        "the same recipe goes on from that checkpoint, a changed one starts anew"
    )


class Guarded:
    """Mixin before trl's SFTTrainer: raises EngineError at the first loss or gradient norm that is not finite.

    The step that is named counts from 1, as the log does. Gradients under a gradient scaler (float16) may overflow by
    design, and the scaler skips such a step; there only the loss is judged.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._batch_rows: tuple[str, ...] = ()  # rows that the model sees now
        self._step_rows: list[str] = []  # rows of the optimizer step so far
        # what, step, rows, number on the host, event after which it is there
        self._pending: list[tuple[str, int, tuple[str, ...] | list[str], Any, Any]] = []

    def training_step(self, model: Any, inputs: dict, num_items_in_batch: Any = None) -> "torch.Tensor":
        batch = self.data_collator.consume() if isinstance(self.data_collator, Watched) else None
        self._batch_rows = batch.row_ids if batch else ()
        self._step_rows += self._batch_rows
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model: Any, inputs: dict, *args: Any, **kwargs: Any) -> Any:
        training = model.training
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if training:
            self.settle()  # first: a step that is over broke before this one did
            loss = (result[0] if isinstance(result, tuple) else result).detach()
            self._pending.append(("loss", self.state.global_step + 1, self._batch_rows, *_to_host(loss)))
            if loss.device.type != "cuda":
                self.settle()
        return result

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        rows, self._step_rows = self._step_rows, []
        if norm is not None and getattr(self.accelerator, "scaler", None) is None:
            self._pending.append(("gradient norm", self.state.global_step + 1, rows, *_to_host(norm)))
        return norm

    def settle(self) -> None:
        """Judge the numbers that were not read yet, in the order of their making."""
        pending, self._pending = self._pending, []
        for what, step, rows, number, event in pending:
            if event is not None:
                event.synchronize()
            if not math.isfinite(number := float(number)):
                raise broken(what, number, step, rows)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # everything that lasts happens in here: the log (which reads the norm anyway), the checkpoint, the validation
        control = self.control
        if control.should_log or control.should_save or control.should_evaluate or control.should_training_stop:
            self.settle()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        watched = self.data_collator if isinstance(self.data_collator, Watched) else None
        if watched:
            watched.paused = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            if watched:
                watched.paused = False


def _to_host(norm: Any) -> tuple[Any, Any]:
    """A number on its way to the host: (number or pinned tensor, the event to wait for or None)."""
    import torch

    if not isinstance(norm, torch.Tensor):
        return norm, None
    if hasattr(norm, "full_tensor"):  # sharded
        norm = norm.full_tensor()
    if norm.device.type != "cuda":
        return norm.detach(), None
    host = torch.empty((), dtype=norm.dtype, pin_memory=True)
    host.copy_(norm.detach(), non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
