"""Rows of packed samples: their borders, and the probe that asks the model whether it keeps them apart."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from engine.twins import CPU, adapted, fuse, packed, samples, write_base
from medtune.engine.leaks import check_samples_apart, leak
from medtune.engine.packing import PackingCollator
from medtune.params.errors import EngineError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("packing") / "base", layers=2)


def test_a_row_of_samples():
    made = [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
        {"input_ids": [4], "labels": [4]},
        {"input_ids": [5, 6], "labels": [5, 6]},
    ]
    row = PackingCollator()(made)
    assert row["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert row["labels"].tolist() == [[-100, 2, 3, -100, -100, 6]]  # no sample's last token predicts the next's first
    for key in ("cu_seq_lens_q", "cu_seq_lens_k"):
        assert row[key].tolist() == [0, 3, 4, 6]
        assert row[key].dtype == torch.int32
    assert (row["max_length_q"], row["max_length_k"]) == (3, 3)
    assert made[1]["labels"] == [4]  # what it was given is not changed


def test_rows_of_a_bin_are_samples_of_their_own():
    rows = samples((4, 3, 5))
    binned = {
        "input_ids": rows[0]["input_ids"] + rows[1]["input_ids"],
        "labels": rows[0]["labels"] + rows[1]["labels"],
        "seq_lengths": [4, 3],
    }
    found, wanted = PackingCollator()([binned, rows[2]]), PackingCollator()(rows)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)), key


def test_fused_layers_pass_the_probe(base):
    for quantization in ("nf4", "none"):
        model = adapted(base, quantization).train()
        fuse(model)
        check_samples_apart(model.get_base_model(), CPU)
        assert model.training  # the probe leaves it as it was


def all_ones(row: dict) -> dict:
    """The common mistake: a padding mask that says nothing, where the samples' borders should be."""
    kept = {key: row[key] for key in ("input_ids", "position_ids")}
    return kept | {"attention_mask": torch.ones_like(row["input_ids"])}


def test_an_all_ones_mask_over_a_packed_row_is_caught(base):
    model = adapted(base, "nf4").get_base_model()
    row = packed((13, 21))
    row.pop("labels")
    assert leak(model, all_ones(row), 13) > 1e-4
    backbone, own = model.model, model.model.forward
    backbone.forward = lambda **row: own(**all_ones(row), use_cache=False)
    with pytest.raises(EngineError, match=r"packed samples see each other: changing one moved the logits .* by \d"):
        check_samples_apart(model, CPU)
    backbone.forward = own
    fuse_again = adapted(base, "nf4")
    fuse(fuse_again)
    assert leak(fuse_again.get_base_model(), row, 13) == 0


def test_a_probe_that_sees_nothing_does_not_pass(base):
    """A forward that does not look at its input leaks nothing, and is no proof of anything."""
    model = adapted(base, "none").get_base_model()
    hidden = torch.ones(1, 34, model.config.hidden_size)
    model.model.forward = lambda **_: BaseModelOutputWithPast(last_hidden_state=hidden)
    with pytest.raises(EngineError, match="blind"):
        check_samples_apart(model, CPU)
