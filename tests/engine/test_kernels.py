"""On a CUDA device: Triton kernels against their plain twins, attention against fp32, graphs against no graphs."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from engine.twins import (
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
from medtune.engine.fused import attention, plain
from medtune.engine.fused.attention import Segments
from medtune.engine.fused.weights import NARROWEST, base_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda", 0)
DTYPE = torch.bfloat16
ROUNDING = 1e-2  # of bf16, in the norm
T, D, F, H, K, HEAD = 70, 96, 200, 6, 2, 32  # no multiples of the kernels' tiles
LAYERS = 3


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, DTYPE)


def assert_near(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = ROUNDING) -> None:
    assert found.shape == wanted.shape
    found, wanted = found.cpu().float(), wanted.cpu().float()
    assert wanted.norm() > 0
    assert (found - wanted).norm() <= tolerance * wanted.norm()


@pytest.fixture(scope="module")
def kernels():
    from medtune.engine.fused import kernels

    return kernels


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("kernels") / "base", LAYERS, hidden=128)


@pytest.mark.parametrize("y", [None, 1])
def test_norm(kernels, y):
    h, weight, dx, dh = draw(T, D), 1 + draw(D, seed=2) / 4, draw(T, D, seed=3), draw(T, D, seed=4)
    y = None if y is None else draw(T, D, seed=1)
    found, wanted = (steps.add_norm(h, y, weight, 1e-5) for steps in (kernels, plain))
    for one, other in zip(found, wanted, strict=True):
        assert_near(one, other)
    assert torch.equal(found[0], wanted[0])  # the residual stream is rounded alike
    h, _, scale = wanted
    assert_near(kernels.norm_again(h, weight, scale), plain.norm_again(h, weight, scale))
    both = (steps.norm_backward(dx, h, weight, scale, dh) for steps in (kernels, plain))
    for one, other in zip(*both, strict=True):
        assert_near(one, other)


def test_rope(kernels):
    angles = torch.arange(T)[:, None] * torch.logspace(0, -3, HEAD // 2)[None]
    cos, sin = (part.repeat(1, 2).to(DEVICE, DTYPE) for part in (angles.cos(), angles.sin()))
    found, wanted = draw(T, (H + 2 * K) * HEAD), draw(T, (H + 2 * K) * HEAD)
    kernels.rope_(found, cos, sin, H, K)
    plain.rope_(wanted, cos, sin, H, K)
    assert_near(found, wanted)
    values = (H + K) * HEAD
    assert torch.equal(found[:, values:], draw(T, (H + 2 * K) * HEAD)[:, values:])  # values are not turned
    gradients = draw(T, H, HEAD, seed=1), draw(T, K, HEAD, seed=2), draw(T, K, HEAD, seed=3)
    assert_near(kernels.rope_backward(*gradients, cos, sin), plain.rope_backward(*gradients, cos, sin))
    views = [
        wide[:, : wide.shape[1] // 2] for wide in (draw(T, 2 * n, HEAD, seed=n + i) for i, n in enumerate((H, K, K)))
    ]
    turned = [g.transpose(0, 1).contiguous().transpose(0, 1) for g in gradients]  # head by head, as some kernels give
    for strided in (views, turned):
        assert_near(kernels.rope_backward(*strided, cos, sin), plain.rope_backward(*strided, cos, sin))


RANKS = [(0, 0), (4, 4), (0, 5), (16, 16), (24, 40)]  # of gate and up; the last is beyond what is summed rank by rank


def width_of(rank: int) -> int:
    return max(NARROWEST, 1 << (rank - 1).bit_length())


def low_and_b(ranks: tuple[int, int]) -> tuple:
    """Inputs times A of gate and up, and their B as a group holds it: block by block, its padding zero."""
    gate, up = ranks
    if not gate + up:
        return None, None, ranks
    width = width_of(gate + up)
    b = torch.zeros(2 * F, width, device=DEVICE, dtype=DTYPE)
    b[:F, :gate] = draw(F, gate, seed=2) / width**0.5
    b[F:, gate : gate + up] = draw(F, up, seed=3) / width**0.5
    return draw(T, width, seed=1), b, ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_swiglu(kernels, ranks):
    gate_up = draw(T, 2 * F)
    found, wanted = (steps.swiglu(gate_up, *low_and_b(ranks)) for steps in (kernels, plain))
    assert_near(found, wanted)
    assert torch.equal(gate_up, draw(T, 2 * F))  # the adapter's part is not left in it
    if sum(ranks):
        assert (wanted - plain.swiglu(gate_up)).float().norm() > 0.1 * wanted.float().norm()


@pytest.mark.parametrize("rank", [0, 4, 16, 40])
@pytest.mark.parametrize("ranks", RANKS)
def test_swiglu_backward_in_place(kernels, ranks, rank):
    above = (None, None, 0)
    if rank:
        a = torch.zeros(width_of(rank), F, device=DEVICE, dtype=DTYPE)
        a[:rank] = draw(rank, F, seed=4) / rank**0.5
        above = (draw(T, width_of(rank), seed=6), a, rank)
    results = []
    for steps in (kernels, plain):
        dact, gate_up = draw(T, F, seed=5), draw(T, 2 * F)
        steps.swiglu_backward_(dact, gate_up, *low_and_b(ranks), *above)
        results.append((dact, gate_up))
    for found, wanted in zip(*results, strict=True):
        assert_near(found, wanted)


def test_dropout(kernels):
    """Its draws are its own; what they are drawn for is the same."""
    x, p = draw(512, D), 0.25
    seed = torch.tensor([7], device=DEVICE, dtype=torch.int32)
    found = kernels.dropout(x, p, seed)
    kept = found != 0
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=0.01)
    assert_near(found[kept], x[kept] / (1 - p))
    assert torch.equal(found, kernels.dropout(x, p, seed))
    assert not torch.equal(found, kernels.dropout(x, p, seed + 1))
    # a row filled up at its end, as in a graph, has the same draws before it
    assert torch.equal(kernels.dropout(x[:100], p, seed), found[:100])


def test_attention_is_that_of_fp32_on_a_cpu():
    lengths = (5, 1, 64)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    qkv, dout = draw(sum(lengths), (H + 2 * K) * HEAD), draw(sum(lengths), H, HEAD, seed=1)
    results = []
    for device, dtype in ((DEVICE, DTYPE), (torch.device("cpu"), torch.float32)):
        segments = Segments(starts.to(device, torch.int32), tuple(starts.tolist()), max(lengths))
        parts = qkv.to(device, dtype).split([n * HEAD for n in (H, K, K)], -1)  # strided, as a layer has them
        q, k, v = (part.unflatten(-1, (-1, HEAD)) for part in parts)
        out, kept = attention.forward(q, k, v, segments)
        results.append((out, *attention.backward(dout.to(device, dtype), q, k, v, kept, segments)))
    for found, wanted in zip(*results, strict=True):
        assert_near(found, wanted, 2 * ROUNDING)


def test_resident_weights_are_what_bitsandbytes_gives(base):
    model = adapted(base, "nf4", DEVICE, DTYPE)
    layers = model.get_base_model().model.layers
    parts = [("self_attn", f"{n}_proj") for n in "qkvo"] + [("mlp", f"{n}_proj") for n in ("gate", "up", "down")]

    def weights():
        return [base_of(getattr(getattr(layer, part), name)).weight for layer in layers for part, name in parts]

    wanted = [dequantize_4bit(weight.data, weight.quant_state) for weight in weights()]
    packed_too = fuse(adapted(base, "nf4", DEVICE, DTYPE), DTYPE, resident=False)
    fused = fuse(model, DTYPE)
    for found, expected in zip(weights(), wanted, strict=True):
        assert expected.dtype == DTYPE
        assert torch.equal(found, expected)
    for resident, dequantised in zip(fused.groups, packed_too.groups, strict=True):
        assert torch.equal(resident.weight(), dequantised.weight())


@pytest.mark.parametrize("resident", [True, False])
def test_fused_layers_in_bf16_are_near_transformers_in_fp32(base, resident):
    """All of bf16's rounding, forward and back, lies between them: a mistake shows, a rounding does not."""
    own = adapted(base, "nf4", DEVICE, torch.float32)
    wanted = loss_and_gradients(own, own_loss(own, samples()))
    model = adapted(base, "nf4", DEVICE, DTYPE)
    fuse(model, DTYPE, resident, recomputed=1)
    assert_same(loss_and_gradients(model, packed_loss(model, packed(device=DEVICE))), wanted, 0.1)


def step(model, lengths: tuple[int, ...]) -> tuple:
    torch.manual_seed(sum(lengths))  # of dropout
    return loss_and_gradients(model, packed_loss(model, packed(lengths, DEVICE)))


@pytest.mark.parametrize(
    ("resident", "recomputed", "lora"),
    [(True, 0, {}), (False, 0, {}), (False, 1, {}), (False, LAYERS, {"dropout": 0.2}), (True, 0, {"dropout": 0.2})],
)
def test_graphs_give_what_the_layers_give_without(base, resident, recomputed, lora):
    """Two lengths in turns, the adapter moving between: what a graph has recorded must not be what it was then."""
    model = adapted(base, "nf4", DEVICE, DTYPE, **lora).train()
    fused = fuse(model, DTYPE, resident, recomputed)
    fused.record(192)
    graphs = fused.graphs
    for _ in range(2):
        for lengths in ((7, 1, 22), (60, 100)):
            fused.graphs = None
            wanted = step(model, lengths)
            fused.graphs = graphs
            assert_same(step(model, lengths), wanted, 2 * ROUNDING)
        for weight in adapter(model).values():
            weight.data.mul_(1.5)
    assert [key[0] for key in graphs.made] == [192, 64]  # rows filled up to 64s, the longest first


def test_a_graph_overwritten_before_its_backward_says_so(base):
    model = adapted(base, "nf4", DEVICE, DTYPE).train()
    fused = fuse(model, DTYPE)
    fused.record(64)
    first = packed_loss(model, packed(device=DEVICE))
    packed_loss(model, packed(device=DEVICE))
    with pytest.raises(RuntimeError, match="backward comes first"):
        first.backward()


def test_inputs_on_the_host_change_nothing(base):
    """Buffers grow with the rows, and are used again for shorter ones."""
    model = adapted(base, "nf4", DEVICE, DTYPE).train()
    fused = fuse(model, DTYPE, resident=False)
    fused.recompute(LAYERS)
    turns = ((7, 1, 22), (60, 100), (30,), (7, 1, 22))
    wanted = [step(model, lengths) for lengths in turns]
    fused.recompute(LAYERS, offload=True)
    for lengths, expected in zip(turns, wanted, strict=True):
        assert_same(step(model, lengths), expected, ROUNDING)
