"""Batches of samples, padded to the right. Padding is known by length alone, since a pad token may be EOS."""

from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED
from medtune.engine.packs import unpack

if TYPE_CHECKING:
    import torch


class PaddingCollator:
    """Samples to tensors input_ids, attention_mask, labels: each (rows, longest row). Rows of a bin stand apart."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, samples: list[dict]) -> dict[str, "torch.Tensor"]:
        import torch

        samples = unpack(samples)
        longest = max(len(sample["input_ids"]) for sample in samples)
        shape = (len(samples), longest)
        input_ids = torch.full(shape, self.pad_id, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        for row, sample in enumerate(samples):
            length = len(sample["input_ids"])
            input_ids[row, :length] = torch.as_tensor(sample["input_ids"])
            labels[row, :length] = torch.as_tensor(sample["labels"])
            attention_mask[row, :length] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
