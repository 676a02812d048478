"""Scores of reference answers by teacher forcing: how surprised a model is by what a doctor said, row by row."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED
from medtune.engine.batching import PaddingCollator

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
    Rows go through in batches of similar length.
    """
    import torch
    import torch.nn.functional as F

    device = next(model.parameters()).device
    collator = PaddingCollator(pad_id)
    order = sorted(range(len(dataset)), key=lambda i: -len(dataset[i]["input_ids"]))
    scores: list[dict | None] = [None] * len(dataset)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        samples = [dataset[i] for i in indices]
        batch = {name: tensor.to(device) for name, tensor in collator(samples).items()}
        labels = batch.pop("labels")
        # Logits are only needed from the first trained token on: the prompt is a good part of a batch
        first = int((labels != IGNORED).int().argmax(dim=1).min())
        keep = labels.shape[1] - first + 1
        with torch.inference_mode():
            logits = model(**batch, use_cache=False, logits_to_keep=keep).logits[:, -keep:-1].float()
        targets = labels[:, first:]
        nll = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        choice = logits.argmax(dim=-1)
        for n, i in enumerate(indices):
            trained = (targets[n] != IGNORED).nonzero().flatten()
            last = int(trained[-1])
            scores[i] = {
                "row_id": samples[n]["row_id"],
                "cluster": samples[n]["cluster"],
                "nll": float(nll[n].sum()),
                "tokens": len(trained),
                "chars": samples[n]["chars"],
                "eos_after_reference": bool(choice[n, last] == targets[n, last]),
            }
        if progress:
            progress(min(start + batch_size, len(order)), len(order))
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
