"""Samples of a step laid end to end in one row: no padding, and each sample's positions start at zero."""

from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED

if TYPE_CHECKING:
    import torch


class PackingCollator:
    """Samples to one row of T tokens: input_ids, position_ids, labels (1, T), boundaries cu_seq_lens_q/k
    (samples + 1,) int32 and max_length_q/k, by the names that transformers gives them; target_positions (targets,):
    those whose next token is a target, found here because on a GPU the host would wait for them.

    A sample may itself be a bin of several rows (column seq_lengths); each of them counts as a sample here.
    """

    def __call__(self, samples: list[dict]) -> "dict[str, torch.Tensor | int]":
        import torch

        lengths = [n for sample in samples for n in sample.get("seq_lengths") or [len(sample["input_ids"])]]
        bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        labels = torch.cat([torch.as_tensor(sample["labels"]) for sample in samples])
        labels[bounds[:-1].long()] = IGNORED  # nothing predicts a first token, least of all the sample before it
        targets = (labels[1:] != IGNORED).nonzero()[:, 0]
        return {
            "input_ids": torch.cat([torch.as_tensor(sample["input_ids"]) for sample in samples])[None],
            "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
            "labels": labels[None],
            "target_positions": targets,
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
        }
