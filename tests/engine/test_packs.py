"""Packing: every row is in the bins exactly once, whole, with its labels; the same seed gives the same bins."""

import pytest
from datasets import Dataset

from medtune.engine.packs import pack, unpack
from medtune.params.errors import EngineError


def rows(count=200, longest=60) -> Dataset:
    lengths = [2 + (n * 37) % (longest - 1) for n in range(count)]
    assert max(lengths) == longest
    ids = [[1000 * n + i for i in range(length)] for n, length in enumerate(lengths)]
    labels = [[-100 if i < length // 2 else 1000 * n + i for i in range(length)] for n, length in enumerate(lengths)]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "row_id": [f"{n:064x}" for n in range(count)]})


def test_every_row_is_there_once_and_whole():
    dataset = rows()
    bins = pack(dataset, 60, seed=0)
    assert set(bins.column_names) == {"input_ids", "labels", "seq_lengths", "row_id"}
    found = {}
    for b in bins:
        assert len(b["input_ids"]) == len(b["labels"]) == sum(b["seq_lengths"]) <= 60
        at = 0
        for name, length in zip(b["row_id"], b["seq_lengths"], strict=True):
            assert name not in found
            found[name] = b["input_ids"][at : at + length], b["labels"][at : at + length]
            at += length
    assert found == {row["row_id"]: (row["input_ids"], row["labels"]) for row in dataset}
    assert sorted(row["input_ids"] for row in unpack(list(bins))) == sorted(dataset["input_ids"])
    assert sorted(row["labels"] for row in unpack(list(bins))) == sorted(dataset["labels"])
    assert unpack([dataset[0]]) == [{key: dataset[0][key] for key in ("input_ids", "labels")}]  # a row that is no bin
    tokens = sum(map(len, dataset["input_ids"]))
    assert tokens / (60 * len(bins)) > 0.95  # and they fill the bins


def test_bins_follow_the_seed_and_leave_nothing_on_disk(tmp_path):
    rows().save_to_disk(tmp_path / "train")
    files = sorted(tmp_path.rglob("*"))
    dataset = Dataset.load_from_disk(str(tmp_path / "train"))
    first, again, other = (pack(dataset, 64, seed)["row_id"][:] for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(map(tuple, first)) == sorted(map(tuple, other))
    assert sorted(tmp_path.rglob("*")) == files


def test_a_row_that_would_be_cut_is_refused():
    with pytest.raises(EngineError, match=r"row 000000000\d+ has 60 tokens and tokenize.max_length is 59"):
        pack(rows(), 59, seed=0)
