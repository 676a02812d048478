"""The arithmetic of memory against real tensors: what bitsandbytes stores, autograd keeps and an optimizer holds."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, GPTNeoConfig, LlamaConfig

from medtune.engine.load import load_model
from medtune.engine.lora import attach
from medtune.engine.memory import (
    GIB,
    adapter_sizes,
    estimate,
    fast_activations,
    nf4_bytes,
    reference_activations,
)
from medtune.engine.shapes import read_shape
from medtune.params.base import Base
from medtune.params.lora import Lora
from medtune.params.train import Train

CPU = torch.device("cpu")
LORA = Lora(r=4, alpha=8, targets="all-linear")
NF4 = Base(source="path", id="x", quantization="nf4")
PLAIN = Base(source="path", id="x", quantization="none")
TRAIN = Train(batch_size=8, max_steps=1, learning_rate=1e-4)
REFERENCE = Train(batch_size=8, max_steps=1, learning_rate=1e-4, engine="reference")
SOLAR = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=48, num_attention_heads=32,
    num_key_value_heads=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory) -> Path:
    """Large enough that what is not counted (biases of a kilobyte, code books) does not decide."""
    from conftest import write_tiny_base

    return write_tiny_base(tmp_path_factory.mktemp("wide") / "base", hidden=256, layers=3)


def stored(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("double_quant", [True, False])
def test_weights_are_those_that_bitsandbytes_stores(wide_base, double_quant):
    from bitsandbytes.nn import Linear4bit

    shape = read_shape(AutoConfig.from_pretrained(wide_base))
    model = load_model(wide_base, quantization="nf4", double_quant=double_quant, device=CPU, dtype=torch.float32)
    packed = 0
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            tensors = [module.weight.data, state.absmax, state.code]
            if double_quant:
                tensors += [state.state2.absmax, state.state2.code, state.offset]
            packed += sum(map(stored, tensors))
    assert shape.layers * nf4_bytes(shape.linears, double_quant) == packed
    plain = sum(
        w.numel() for m in model.modules() if not isinstance(m, Linear4bit) for w in m.parameters(recurse=False)
    )
    assert shape.plain == plain


def test_shape_of_an_architecture_with_other_names():
    shape = read_shape(
        GPTNeoConfig(num_layers=2, attention_types=[[["global", "local"], 1]], hidden_size=64, num_heads=4)
    )
    assert [linear.name for linear in shape.linears] == ["k_proj", "v_proj", "q_proj", "out_proj", "c_fc", "c_proj"]
    assert (shape.ffn, shape.head, shape.llama) == (256, 0, False)


def kept_by_autograd(model, tokens: int, autocast: bool) -> int:
    """Bytes of distinct storages that the backward of one forward pass waits for, weights left out."""
    weights = {w.untyped_storage().data_ptr() for w in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(0, 300, (2, tokens // 2))
    mask = torch.ones_like(ids)
    mask[1, -5:] = 0  # some padding, or transformers leaves the mask out
    # peft asks for CUDA's autocast, wherever it computes, and would cast inputs to fp32 first
    torch.set_autocast_enabled("cuda", autocast)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        out = model.base_model.model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        total = sum(storage.nbytes() for storage in kept.values())
    torch.set_autocast_enabled("cuda", False)
    out.float().sum().backward()
    return total


@pytest.mark.parametrize("autocast", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("base", [NF4, PLAIN], ids=["nf4", "plain"])
def test_reference_activations_are_those_that_autograd_keeps(tmp_path, base, dropout, autocast):
    from conftest import write_tiny_base

    found = []
    lora = Lora(r=4, alpha=8, targets="all-linear", dropout=dropout)
    for layers in (1, 3):  # the difference is that of two layers
        path = write_tiny_base(tmp_path / f"{layers}", hidden=256, layers=layers)
        dtype = torch.bfloat16 if autocast else torch.float32
        model = load_model(path, quantization=base.quantization, device=CPU, dtype=dtype)
        model = attach(model, lora, 0).train()
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        found.append(kept_by_autograd(model, 256, autocast))
    shape = read_shape(AutoConfig.from_pretrained(path))
    expected = reference_activations(shape, lora, base, 128, 2 if autocast else 4)
    if dropout and autocast:  # a CPU's masks are numbers (of fp32, where peft casts the input), a GPU's are bytes
        expected += (1 if base is NF4 else 3) * sum(linear.inputs for linear in shape.linears)
    assert (found[1] - found[0]) / 2 / 256 == pytest.approx(expected, rel=0.06)


def test_fast_activations_are_those_that_a_fused_layer_keeps(wide_base):
    from medtune.engine.fused.backbone import Fused
    from medtune.engine.fused.layer import Run
    from medtune.engine.packing import PackingCollator

    model = attach(load_model(wide_base, quantization="nf4", device=CPU, dtype=torch.float32), LORA, 0)
    fused = Fused(model.base_model.model, torch.float32)
    fused.install()
    samples = [{"input_ids": list(range(n)), "labels": list(range(n))} for n in (60, 70, 70)]
    batch = PackingCollator()(samples)
    batch.pop("labels")
    out = model.base_model.model.model(**batch).last_hidden_state
    nodes, found = [out.grad_fn], []
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == f"{Run.__name__}Backward":
            flat = [t for x in node.saved for t in (x if isinstance(x, tuple) else (x,)) if isinstance(t, torch.Tensor)]
            found.append(sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in flat}.values()))
        nodes += [n for n, _ in node.next_functions]
    assert len(found) == 3
    shape = read_shape(AutoConfig.from_pretrained(wide_base))
    expected = 200 * fast_activations(shape, LORA, NF4, 70, 4)
    assert found[1] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit"])
def test_optimizer_state_is_what_it_holds_after_a_step(wide_base, optimizer):
    import bitsandbytes as bnb

    shape = read_shape(AutoConfig.from_pretrained(wide_base))
    lora = Lora(r=32, alpha=8, targets=["q_proj", "down_proj"])
    model = attach(load_model(wide_base, device=CPU, dtype=torch.float32), lora, 0)
    weights = [w for w in model.parameters() if w.requires_grad]
    assert sorted(w.numel() for w in weights) == sorted(adapter_sizes(shape, lora))
    chosen = (bnb.optim.AdamW8bit if "8bit" in optimizer else torch.optim.AdamW)(weights, lr=1e-3)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    chosen.step()
    held = {
        t.data_ptr(): stored(t)
        for state in chosen.state.values()
        for key, t in state.items()
        if isinstance(t, torch.Tensor) and key != "step" and not key.startswith("qmap")
    }
    train = Train(batch_size=1, max_steps=1, learning_rate=1e-4, optimizer=optimizer, engine="reference")
    found = estimate(shape, lora, train, NF4, 256, 128, cuda=False)
    assert found.optimizer == sum(held.values())


def test_the_paged_optimizer_of_the_fast_engine_is_outside_of_torch():
    """One flat weight: bitsandbytes pages what has 100,000 elements or more."""
    shape = read_shape(SOLAR)
    count = sum(adapter_sizes(shape, LORA))
    assert count == 15_728_640
    assert estimate(shape, LORA, TRAIN, NF4, 2560, 512).paged == 2 * count
    assert estimate(shape, LORA, REFERENCE, NF4, 2560, 512).paged == 0


def test_measured_peaks():
    """KULLM3's shape on one H100, within 15%."""
    shape = read_shape(SOLAR)
    assert shape.quantised == 10_468_982_784
    lora = Lora(r=4, alpha=8, targets="all-linear")
    nf4 = estimate(shape, lora, TRAIN, NF4, 2560, 512)
    resident = estimate(shape, lora, TRAIN, NF4, 2560, 512, residency="bf16")
    small = estimate(shape, lora, TRAIN, NF4, 2560, 512, recomputed=48, offload=True)
    assert nf4.weights / GIB == pytest.approx(5.5, rel=0.05)
    assert small.peak < nf4.peak < resident.peak
    assert resident.weights - nf4.weights == 2 * shape.quantised - 48 * nf4_bytes(shape.linears, True)
    # between none and all recomputed, a layer more is a layer's activations less
    halves = [estimate(shape, lora, TRAIN, NF4, 2560, 512, recomputed=k).peak for k in range(49)]
    assert halves[:47] == sorted(halves[:47], reverse=True)
    # measured on an H100: the fast rows of benchmarks/RESULTS.md, planned for their longest step
    for measured, way in (
        (36.05, {"residency": "bf16"}),
        (21.21, {"recomputed": 2}),
        (6.71, {"recomputed": 48, "offload": True}),
    ):
        assert estimate(shape, lora, TRAIN, NF4, 3602, 512, **way).peak / GIB == pytest.approx(measured, rel=0.15)
    # transformers' own layers, eight rows padded to 512, measured at 31.8 GiB with 301 tokens a row on average
    assert estimate(shape, lora, REFERENCE, NF4, 8 * 301, 512).peak / GIB == pytest.approx(31.8, rel=0.15)


def test_seventy_billion_over_two_gpus():
    """Measured with FSDP2 on two H100s: about 20 GiB resident and 29 at the peak, 2,048 tokens a GPU, checkpointing."""
    config = LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8,
    )  # fmt: skip
    shape = read_shape(config)
    train = Train(batch_size=4, max_steps=1, learning_rate=1e-4, optimizer="adamw_torch", sharding="fsdp")
    base = Base(source="path", id="x", quantization="nf4", quant_storage="bfloat16")
    lora = Lora(r=16, alpha=16, targets="all-linear")
    found = estimate(shape, lora, train, base, 2048, 512, recomputed=80, shards=2)
    assert (found.weights + found.adapters + found.optimizer) / GIB == pytest.approx(20, rel=0.05)
    assert found.peak / GIB == pytest.approx(25.31, rel=0.15)  # benchmarks.sharded; 29 by a script without the Trainer
