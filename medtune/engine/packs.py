"""Packing: rows laid into bins of max_length tokens, none cut, none dropped (train.packing).

A bin counts as one sample of a batch, so that a step sees more rows than batch_size * gradient_accumulation: another
run than without packing, which is why the recipe has to ask for it. Rows of a bin still do not see each other: the
collator builds positions and borders from seq_lengths.
"""

from typing import TYPE_CHECKING

from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from datasets import Dataset

TOGETHER = 100_000  # rows that are packed at once: more fill their bins no better, and all must stand in memory


def pack(dataset: "Dataset", max_length: int, seed: int) -> "Dataset":
    """Bins of whole rows by trl's best-fit-decreasing packing (Ding et al. 2024, arXiv:2404.10830), in memory.

    Columns: input_ids and labels (lists of int, at most max_length long), seq_lengths (tokens of each row in the bin)
    and row_id (one a row). Bins come in an order shuffled by `seed`; packing alone would put the longest rows first.
    Raises EngineError where a row is longer than max_length, since trl would cut it.
    """
    import numpy as np
    from datasets import Dataset, Features, Sequence, Value
    from trl.data_utils import pack_dataset

    lengths = [len(ids) for ids in dataset["input_ids"]]
    for row, length in zip(dataset["row_id"], lengths, strict=True):
        if length > max_length:
            raise EngineError(
                f"row {row[:12]} has {length} tokens and tokenize.max_length is {max_length}; packing would cut it, "
                "run `dvc repro tokenize`"
            )
    # trl packs lists that are all equally long in a row: a row's number goes along once a token and tells what is where
    rows = Dataset.from_dict(
        {
            "input_ids": dataset["input_ids"],
            "labels": dataset["labels"],
            "row": [[number] * length for number, length in enumerate(lengths)],
        },
        features=Features(dict.fromkeys(("input_ids", "labels", "row"), Sequence(Value("int32")))),
    )
    # in memory: a map over a dataset of data/tokens would leave its cache beside the rows, in an out of DVC's
    packed = pack_dataset(rows, max_length, strategy="bfd", map_kwargs={"batch_size": TOGETHER, "keep_in_memory": True})
    names = dataset["row_id"]
    row_ids, seen = [], 0
    for numbers, sizes in zip(packed["row"], packed["seq_lengths"], strict=True):
        firsts = np.cumsum([0, *sizes[:-1]])
        row_ids.append([names[numbers[first]] for first in firsts])
        seen += sum(sizes)
    if seen != sum(lengths) or sum(map(len, row_ids)) != len(lengths):
        raise EngineError(
            f"packing took {len(lengths)} rows of {sum(lengths)} tokens and gave {sum(map(len, row_ids))} of {seen}; "
            "this trl packs otherwise than medtune/engine/packs.py expects: set train.packing: false"
        )
    bins = packed.remove_columns("row").add_column("row_id", row_ids)
    return bins.select(np.random.default_rng(seed).permutation(len(bins)), keep_in_memory=True)


def unpack(samples: list[dict]) -> list[dict]:
    """The rows of some bins, each as a sample again: for an engine that keeps samples apart by padding alone."""
    rows = []
    for sample in samples:
        start = 0
        for length in sample.get("seq_lengths") or [len(sample["input_ids"])]:
            rows.append({key: sample[key][start : start + length] for key in ("input_ids", "labels")})
            start += length
    return rows
