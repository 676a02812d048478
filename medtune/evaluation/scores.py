"""Scores of reference answers by teacher forcing: how surprised a model is by what a doctor said, row by row."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED
from medtune.engine.batching import PaddingCollator
from medtune.params.errors import EvaluationError

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel


def score_rows(
    model: "PreTrainedModel | PeftModel",
    dataset: "Dataset",
    batch_size: int,
    pad_id: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict]:
    """One dict a row, in the dataset's order.

    row_id, cluster; nll: negative log-likelihood of the answer and its EOS in nats, summed; tokens: how many that is;
    chars: characters of the answer; eos_after_reference: whether EOS is the model's first choice where the answer ends.
    Rows go through in batches of similar length; where the GPU's memory runs out, half as many go at once.
    EvaluationError where one row alone does not fit.
    """
    order = sorted(range(len(dataset)), key=lambda i: -len(dataset[i]["input_ids"]))
    scores: list[dict | None] = [None] * len(dataset)
    start = 0
    while start < len(order):
        indices = order[start : start + batch_size]
        found = _batch(model, [dataset[i] for i in indices], pad_id)
        if found is None:
            if batch_size == 1:
                raise EvaluationError(
                    f"the GPU has no room to score one row of {len(dataset[indices[0]]['input_ids'])} tokens; lower "
                    "tokenize.max_length, or free the GPU"
                )
            batch_size = max(1, len(indices) // 2)
            print(f"the GPU's memory ran out with {len(indices)} rows at once; going on with {batch_size}")
            continue
        for i, score in zip(indices, found, strict=True):
            scores[i] = score
        start += len(indices)
        if progress:
            progress(start, len(order))
    return scores


def _batch(model: "PreTrainedModel | PeftModel", samples: list[dict], pad_id: int) -> list[dict] | None:
    """Scores of one batch; None where the GPU's memory ran out."""
    import torch

    try:
        return _scored(model, samples, pad_id)
    except torch.cuda.OutOfMemoryError:
        pass  # outside of the handler, which holds the frames and so the batch's tensors
    torch.cuda.empty_cache()
    return None


def _scored(model: "PreTrainedModel | PeftModel", samples: list[dict], pad_id: int) -> list[dict]:
    import torch
    import torch.nn.functional as F

    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in PaddingCollator(pad_id)(samples).items()}
    labels = batch.pop("labels")
    # Logits are only needed from the first trained token on: the prompt is a good part of a batch
    first = int((labels != IGNORED).int().argmax(dim=1).min())
    keep = labels.shape[1] - first + 1
    with torch.inference_mode():
        logits = model(**batch, use_cache=False, logits_to_keep=keep).logits[:, -keep:-1]
    scores = []
    for sample, row, targets in zip(samples, logits, labels[:, first:], strict=True):
        trained = (targets != IGNORED).nonzero().flatten()
        # one row in fp32 at a time: of a large vocabulary, a batch of them would be the most memory of all
        wide, targets = row[trained].float(), targets[trained]
        scores.append(
            {
                "row_id": sample["row_id"],
                "cluster": sample["cluster"],
                "nll": float(F.cross_entropy(wide, targets, reduction="sum")),
                "tokens": len(trained),
                "chars": sample["chars"],
                "eos_after_reference": bool(wide[-1].argmax() == targets[-1]),
            }
        )
    return scores


def summarise(scores: list[dict]) -> dict:
    """Figures over all rows: nll_per_char and nll_per_token (nats), bits_per_char, eos_after_reference (share)."""
    import math

    nll, chars, tokens = (sum(s[key] for s in scores) for key in ("nll", "chars", "tokens"))
    return {
        "nll_per_char": nll / chars,
        "nll_per_token": nll / tokens,
        "bits_per_char": nll / chars / math.log(2),  # comparable between tokenizers, as nll_per_token is not
        "eos_after_reference": sum(s["eos_after_reference"] for s in scores) / len(scores),
    }
