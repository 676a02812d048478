"""What can be known to fail before training starts: batches that break the label contract, a disk that is too small."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED
from medtune.engine.batching import PaddingCollator
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from datasets import Dataset

GIB = 2**30


def check_batches(dataset: "Dataset", collator: PaddingCollator, batch_size: int) -> None:
    """Put every row through the collator and hold the label contract on the tensors that the model will see."""
    for start in range(0, len(dataset), batch_size):
        rows = dataset[start : start + batch_size]
        samples = [{"input_ids": i, "labels": t} for i, t in zip(rows["input_ids"], rows["labels"], strict=True)]
        batch = collator(samples)
        for n, sample in enumerate(samples):
            length = len(sample["input_ids"])
            clean = (
                (batch["labels"][n, length:] == IGNORED).all()
                and batch["attention_mask"][n].sum() == length
                and batch["labels"][n, :length].tolist() == list(sample["labels"])
            )
            if not clean:
                raise EngineError(
                    f"row {rows['row_id'][n][:12]} leaves the collator with other labels than it has, or with trained "
                    "padding; this is a defect of medtune/engine/batching.py"
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
