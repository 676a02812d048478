"""A probe before the first step: does a packed sample see its neighbour?

The common mistake (an all-ones mask over a packed row) leaks in silence: the loss even falls faster. So it is asked of
the very model that will train.
"""

from typing import TYPE_CHECKING

from medtune.engine.packing import PackingCollator
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def leak(model: "PreTrainedModel", batch: "dict[str, torch.Tensor | int]", start: int, recorded: bool = False) -> float:
    """How far the logits from position `start` of a packed row move, at most, when the tokens before it change.

    batch: what the model's forward takes. recorded: as in training, where the layers may be CUDA graphs. Zero where
    samples are apart; the model's own arithmetic is the same in both calls, so that not even rounding differs.
    """
    import torch

    ids = batch["input_ids"]
    other = ids.clone()
    other[:, :start] = (ids[:, :start] + 1) % model.config.vocab_size
    was_training = model.training
    model.eval()
    with torch.set_grad_enabled(recorded):
        first, second = (
            model(**{**batch, "input_ids": x}, use_cache=False).logits[0, start:].detach().clone() for x in (ids, other)
        )
    model.train(was_training)
    return float((first.float() - second.float()).abs().max())


def check_samples_apart(model: "PreTrainedModel", device: "torch.device", recorded: bool = False) -> None:
    """EngineError where a change of one sample moves the logits of the next in the same row, or does nothing at all.

    recorded: ask the layers as training runs them, graphs and their filling included.
    """
    vocabulary = model.config.vocab_size
    lengths = (13, 21)
    samples = [{"input_ids": [7 * (n + 1) * i % vocabulary for i in range(n)]} for n in lengths]
    batch = PackingCollator()([sample | {"labels": sample["input_ids"]} for sample in samples])
    batch.pop("labels")
    batch = {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}
    moved = leak(model, batch, lengths[0], recorded)
    if moved:
        raise EngineError(
            f"packed samples see each other: changing one moved the logits of the next by {moved:.3g}; "
            "set train.engine: reference, and tell us your versions of torch and transformers"
        )
    if not leak(model, batch, lengths[0] - 1, recorded):
        raise EngineError(
            "the probe for leaks between packed samples is blind here: changing a sample does not even move its own "
            "logits; set train.engine: reference"
        )
