"""Fused layers against transformers' own: loss, every gradient, the weights that they hold, and their coming off."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from engine.twins import (
    LENGTHS,
    adapted,
    adapter,
    assert_same,
    fuse,
    loss_and_gradients,
    own_loss,
    packed,
    packed_loss,
    samples,
    write_base,
)
from medtune.engine.fused.layer import WIDEST
from medtune.engine.fused.weights import base_of, is_packed

LAYERS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("fused") / "base", LAYERS)


@pytest.mark.parametrize(
    ("quantization", "resident", "recomputed", "lora"),
    [
        ("nf4", True, 0, {}),
        ("nf4", False, 0, {}),
        ("nf4", False, 1, {}),
        ("nf4", False, LAYERS, {}),
        ("nf4", True, 2, {"targets": ["q_proj", "k_proj", "v_proj"]}),
        ("nf4", False, LAYERS, {"targets": ["o_proj", "up_proj"], "variant": "rslora"}),
        ("none", True, 0, {"targets": ["v_proj", "down_proj"], "variant": "rslora", "alpha": 3}),
        ("none", True, LAYERS, {"targets": ["k_proj", "gate_proj"], "r": 5}),
        ("none", True, 1, {"r": 1}),
        ("nf4", False, 1, {"r": WIDEST // 2 + 8}),  # gate and up together are too wide, down is not
        ("none", True, 0, {"r": WIDEST + 8}),
    ],
)
def test_loss_and_gradients_are_those_of_transformers(base, quantization, resident, recomputed, lora):
    model = adapted(base, quantization, **lora)
    wanted = loss_and_gradients(model, own_loss(model, samples()))
    fused = fuse(model, resident=resident, recomputed=recomputed)
    widths = {group.width for group in fused.groups}
    assert (max(widths) > WIDEST) == (lora.get("r", 0) > WIDEST // 2)
    assert_same(loss_and_gradients(model, packed_loss(model, packed())), wanted, 1e-4)
    with torch.no_grad():
        assert float(packed_loss(model, packed())) == pytest.approx(wanted[0], rel=1e-4)


def test_a_second_step_sees_the_moved_adapter(base):
    """The copies in the compute precision are made anew, also when a weight was written behind autograd's back."""
    model = adapted(base, "nf4")
    fuse(model)
    first = float(packed_loss(model, packed()).detach())
    for weight in adapter(model).values():
        weight.data.mul_(3)
    moved = loss_and_gradients(model, packed_loss(model, packed()))
    assert abs(moved[0] - first) > 1e-3 * first
    fresh = adapted(base, "nf4")
    for weight in adapter(fresh).values():
        weight.data.mul_(3)
    assert_same(moved, loss_and_gradients(fresh, own_loss(fresh, samples())), 1e-4)


def test_recomputation_changes_nothing(base):
    model = adapted(base, "nf4")
    fused = fuse(model)
    kept = loss_and_gradients(model, packed_loss(model, packed()))
    fused.recompute(LAYERS)
    again = loss_and_gradients(model, packed_loss(model, packed()))
    assert again[0] == kept[0]
    for name, gradient in kept[1].items():
        torch.testing.assert_close(again[1][name], gradient, rtol=1e-5, atol=1e-8)


def test_dropout_is_drawn_again_the_same_where_layers_are_recomputed(base):
    """Gradients by dropout's own mask: a layer that draws another in backward would give others."""
    found = []
    for recomputed in (0, LAYERS):
        model = adapted(base, "none", dropout=0.3).train()
        fuse(model, recomputed=recomputed)
        torch.manual_seed(4)
        found.append(loss_and_gradients(model, packed_loss(model, packed())))
    assert_same(found[1], found[0], 1e-5)
    model.eval()
    with torch.no_grad():
        assert abs(float(packed_loss(model, packed())) - found[0][0]) > 1e-4  # none in validation


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "up_proj"]])
def test_gradients_under_dropout_are_slopes_of_the_loss(base, targets):
    """Central differences along each weight's gradient: peft's own masks are other draws, so there is no twin here."""
    model = adapted(base, "none", dropout=0.4, targets=targets).train()
    fuse(model, torch.float32)

    def loss():
        torch.manual_seed(5)
        return packed_loss(model, packed())

    _, gradients = loss_and_gradients(model, loss())
    weights = adapter(model)
    for kind in ("lora_A", "lora_B"):
        names = [name for name in weights if kind in name]
        slope = sum(float(gradients[name].square().sum()) for name in names)
        step, ends = 1e-3 / slope**0.5, []
        for sign in (1, -2):
            for name in names:
                weights[name].data += sign * step * gradients[name]
            with torch.no_grad():
                ends.append(float(loss()))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=2e-2)


def test_backward_runs_once(base):
    model = adapted(base, "none")
    fuse(model)
    loss = packed_loss(model, packed())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="runs once"):
        loss.backward()


def test_any_other_call_goes_the_models_own_way_and_close_restores_it(base):
    model = adapted(base, "none")
    ids = torch.tensor([sample["input_ids"] for sample in samples((9, 9))])
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    packed_inputs = {key: value for key, value in packed().items() if key != "labels"}
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).logits
        own = model(**packed_inputs)
        fused = fuse(model)
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, wanted, rtol=0, atol=0)
        assert own.past_key_values is not None  # the fused layers make none
        assert model(**packed_inputs).past_key_values is None
        fused.close()
        assert model(**packed_inputs).past_key_values is not None
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_resident_weights_are_what_bitsandbytes_gives_and_there_is_one_copy(base, quantization, dtype):
    model = adapted(base, quantization, dtype=dtype, targets=["q_proj", "v_proj", "down_proj"])
    linears = [f"layers.{n}.{part}" for n in range(LAYERS) for part in PARTS]

    def weight(name):
        return base_of(model.get_base_model().model.get_submodule(name)).weight

    def plain(found):
        return dequantize_4bit(found.data, found.quant_state).to(dtype) if quantization == "nf4" else found.clone()

    wanted = {name: plain(weight(name)) for name in linears}
    fused = fuse(model, dtype)
    rooms = {group.resident.untyped_storage().data_ptr() for group in fused.groups}
    assert len(rooms) == 4 * LAYERS
    for name in linears:
        assert torch.equal(weight(name), wanted[name]), name
        assert weight(name).untyped_storage().data_ptr() in rooms, f"{name} has a copy of its own"
        assert not weight(name).requires_grad
    assert not any(is_packed(m) for m in model.modules() if isinstance(getattr(m, "weight", None), torch.nn.Parameter))
    sizes = [group.weight().numel() for group in fused.groups]
    assert sum(sizes) == sum(found.numel() for found in wanted.values())


def test_packed_weights_stay_packed_and_share_one_scratch(base):
    model = adapted(base, "nf4")
    fused = fuse(model, resident=False)
    assert all(group.packed and group.resident is None for group in fused.groups)
    assert fused.scratch.size == max(group.out_size * group.in_size for group in fused.groups)
    for group in fused.groups:
        wanted = torch.cat(
            [dequantize_4bit(base_of(m).weight.data, base_of(m).weight.quant_state) for m in group.modules]
        )
        assert torch.equal(group.weight(), wanted)


def test_one_sample_alone_is_the_first_of_a_row(base):
    """What stands behind a sample in the row changes nothing of it."""
    model = adapted(base, "nf4")
    fuse(model)
    with torch.no_grad():
        row = packed(LENGTHS)
        alone = packed(LENGTHS[:1])
        row.pop("labels"), alone.pop("labels")
        torch.testing.assert_close(model(**row).logits[:, : LENGTHS[0]], model(**alone).logits, rtol=1e-5, atol=1e-5)


PARTS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
