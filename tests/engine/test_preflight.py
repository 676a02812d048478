"""The label contract held on real batches of both collators; a collator with a defect is caught, and the row named."""

import pytest
import torch
from datasets import Dataset, load_from_disk

from engine.tiny import write_tokens
from medtune.engine.batching import PaddingCollator
from medtune.engine.guard import Watched
from medtune.engine.packing import PackingCollator
from medtune.engine.preflight import check_batches
from medtune.params.errors import EngineError


@pytest.fixture(scope="module")
def rows(tiny_base, tmp_path_factory):
    return load_from_disk(write_tokens(tiny_base, tmp_path_factory.mktemp("tokens")) / "train")


@pytest.mark.parametrize("collator", [PaddingCollator(0), PackingCollator(), Watched(PackingCollator())])
def test_sound_collators_pass(rows, collator):
    check_batches(rows, collator, 5)
    if isinstance(collator, Watched):
        assert not collator.waiting


def test_bins_of_several_rows_pass():
    bins = Dataset.from_list(
        [
            {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8], "seq_lengths": [2, 2], "row_ids": ["a", "b"]},
            {"input_ids": [9, 10], "labels": [-100, 10], "seq_lengths": [2], "row_ids": ["c"]},
        ]
    )
    check_batches(bins, PackingCollator(), 2)


def damage(key: str, change):
    """A packing collator whose batches have one tensor changed."""

    def collate(samples: list[dict]) -> dict:
        batch = PackingCollator()(samples)
        batch[key] = change(batch[key].clone())
        return batch

    return collate


def padded_wrong(samples: list[dict]) -> dict:
    batch = PaddingCollator(0)(samples)
    batch["labels"][batch["attention_mask"] == 0] = 0  # the padding is trained on
    return batch


def shifted(labels: torch.Tensor) -> torch.Tensor:
    return torch.roll(labels, 1)


def all_one_sample(positions: torch.Tensor) -> torch.Tensor:
    return torch.arange(positions.shape[1])[None]


def later_boundary(bounds: torch.Tensor) -> torch.Tensor:
    bounds[1] += 1
    return bounds


def first_token_trained(labels: torch.Tensor) -> torch.Tensor:
    labels[0, 0] = 5
    return labels


@pytest.mark.parametrize(
    "collator",
    [
        padded_wrong,
        damage("labels", shifted),
        damage("position_ids", all_one_sample),
        damage("cu_seq_lens_q", later_boundary),
        damage("labels", first_token_trained),
    ],
    ids=["padding trained", "labels shifted", "no boundaries", "other boundaries", "first token trained"],
)
def test_a_defect_is_caught(rows, collator):
    with pytest.raises(EngineError, match=r"row [0-9a-f]{12} leaves the collator changed.*defect of medtune/engine"):
        check_batches(rows, collator, 4)
