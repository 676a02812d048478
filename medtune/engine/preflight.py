"""What can be known to fail before training starts: batches that break the label contract, a disk that is too small."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

GIB = 2**30


def check_batches(dataset: "Dataset", collator: Callable[[list[dict]], dict], batch_size: int) -> None:
    """Put every row through the collator and hold the label contract on the tensors that the model will see.

    collator: one that pads (attention_mask) or one that lays samples end to end in a row (position_ids, which restart
    at each sample). A sample may be a bin of several rows (seq_lengths). Raises EngineError naming the row.
    """
    collator = getattr(collator, "collator", collator)  # one that counts must not count these
    for start in range(0, len(dataset), batch_size):
        columns = dataset[start : start + batch_size]
        samples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        batch = collator(samples)
        pieces, rest_is_masked = _pieces(batch)
        expected = [piece for sample in samples for piece in _rows_of(sample)]
        if len(pieces) != len(expected) or not rest_is_masked:
            raise _defect(samples[0], f"{len(expected)} samples become {len(pieces)}, or padding is trained on")
        for (ids, labels), (sample, want_ids, want_labels) in zip(pieces, expected, strict=True):
            # nothing predicts a first token, so that a collator may mask it; in a row of several samples it must
            if ids != want_ids or labels[1:] != want_labels[1:] or labels[0] not in (want_labels[0], IGNORED):
                raise _defect(sample, "its tokens or its labels are others there")


def _pieces(batch: dict[str, "torch.Tensor"]) -> tuple[list[tuple[list[int], list[int]]], bool]:
    """(input_ids, labels) of each sample of a batch as the model tells them apart; and whether all else is masked."""
    ids, labels = batch["input_ids"], batch["labels"]
    if "attention_mask" in batch:
        kept = batch["attention_mask"].bool()
        rows = zip(ids, labels, kept, strict=True)
        return [(i[k].tolist(), t[k].tolist()) for i, t, k in rows], bool((labels[~kept] == IGNORED).all())
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], ids.shape[1]]
    if "cu_seq_lens_q" in batch and batch["cu_seq_lens_q"].tolist() != [*starts, ids.shape[1]]:
        return [], False  # attention would see other boundaries than positions do
    first_masked = bool((labels[0, starts] == IGNORED).all())
    return [(ids[0, s:e].tolist(), labels[0, s:e].tolist()) for s, e in zip(starts, ends, strict=True)], first_masked


def _rows_of(sample: dict) -> list[tuple[dict, list[int], list[int]]]:
    """A sample, or each row of a bin: (sample, input_ids, labels)."""
    start, rows = 0, []
    for length in sample.get("seq_lengths") or [len(sample["input_ids"])]:
        end = start + length
        rows.append((sample, list(sample["input_ids"][start:end]), list(sample["labels"][start:end])))
        start = end
    return rows


def _defect(sample: dict, what: str) -> EngineError:
    row = sample.get("row_id") or next(iter(sample.get("row_ids") or []), "of no name")
    return EngineError(
        f"row {row[:12]} leaves the collator changed: {what}; this is a defect of medtune/engine (batching.py or "
        "packing.py)"
    )


def check_space(folder: Path, needed: int, what: str) -> None:
    """EngineError where the disk under `folder` has less than `needed` bytes free; both are named."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EngineError(
            f"{what} needs {needed / GIB:.2f} GiB ({needed} bytes) under {folder}, and {free / GIB:.2f} GiB are free; "
            "free some space (`dvc gc --workspace` drops old versions from DVC's cache)"
        )
