"""What `auto` chooses for a memory size, what it refuses, and what is said when memory runs out all the same."""

import random

import pytest
import torch
from transformers import LlamaConfig

from medtune.engine.choice import (
    available_ram,
    choose,
    explain_oom,
    is_oom,
    likely_longest_step,
    limit_bytes,
    longest_step,
)
from medtune.engine.memory import GIB
from medtune.engine.shapes import read_shape
from medtune.params.base import Base
from medtune.params.errors import EngineError
from medtune.params.lora import Lora
from medtune.params.train import Train

LORA = Lora(r=4, alpha=8, targets="all-linear")
NF4 = Base(source="path", id="x", quantization="nf4")
PLAIN = Base(source="path", id="x", quantization="none")


@pytest.fixture(scope="module")
def solar():
    return read_shape(
        LlamaConfig(
            vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=48, num_attention_heads=32,
            num_key_value_heads=8,
        )
    )  # fmt: skip


def train(**settings: object) -> Train:
    return Train(**({"batch_size": 2, "gradient_accumulation": 4, "max_steps": 1, "learning_rate": 1e-4} | settings))


def chosen(solar, gib: float, base: Base = NF4, **settings: object):
    return choose(solar, LORA, train(**settings), base, 4096, int(gib * GIB), longest=512)


def test_the_order_of_auto(solar):
    """Fastest first, and less of it with every GiB that is missing."""
    big, middle, small, least = (chosen(solar, gib) for gib in (80, 40, 16, 8))
    assert (big.residency, big.recomputed_layers, big.offload_inputs, big.split) == ("bf16", 0, False, 1)
    assert (middle.residency, middle.recomputed_layers) == ("nf4", 0)
    assert "16 bit would take 14" in middle.reason
    assert (small.residency, small.offload_inputs) == ("nf4", False)
    assert 0 < small.recomputed_layers < 48
    assert (least.recomputed_layers, least.offload_inputs, least.split) == (48, True, 1)
    for gib in range(8, 60):
        found = chosen(solar, gib)
        assert found.estimate.total <= gib * GIB


def test_as_few_layers_as_memory_asks(solar):
    from medtune.engine.memory import estimate

    found = chosen(solar, 16)
    one_fewer = estimate(solar, LORA, train(), NF4, 4096, 512, recomputed=found.recomputed_layers - 1)
    assert one_fewer.total > 0.96 * 16 * GIB >= found.estimate.total


def test_what_the_recipe_fixes_is_kept(solar):
    assert chosen(solar, 80, base_residency="nf4").residency == "nf4"
    assert chosen(solar, 80, activation_checkpointing=True).recomputed_layers == 48
    split = chosen(solar, 12, activation_checkpointing=False)
    assert split.recomputed_layers == 0
    assert split.split > 1
    assert chosen(solar, 80, PLAIN).residency == "bf16"
    assert chosen(solar, 24, PLAIN).recomputed_layers > 0
    with pytest.raises(EngineError, match=r"set train\.base_residency: auto"):
        chosen(solar, 16, base_residency="bf16")
    with pytest.raises(EngineError, match=r"set base\.quantization: nf4 "):
        chosen(solar, 16, PLAIN)
    with pytest.raises(EngineError, match=r"needs at least 7\.\d GiB.*the GPU has 5\.0: .*tokenize.max_length"):
        chosen(solar, 5)


def test_the_reference_engine_recomputes_all_or_nothing(solar):
    settings = {"engine": "reference", "batch_size": 8, "gradient_accumulation": 1}
    assert chosen(solar, 80, **settings).recomputed_layers == 0
    assert chosen(solar, 24, **settings).recomputed_layers == 48
    with pytest.raises(EngineError, match=r"train\.activation_checkpointing: true"):
        chosen(solar, 24, **settings, activation_checkpointing=False)
    with pytest.raises(EngineError, match=r"lower train\.batch_size from 8 to 4"):
        chosen(solar, 6, **settings)


def test_micro_batches_are_counted_by_the_longest_samples(solar):
    lengths = [512, 512, *[64] * 100]
    tokens = longest_step(lengths, 8)
    assert tokens == 512 + 512 + 6 * 64
    settings = train(activation_checkpointing=False, base_residency="nf4")
    found = choose(solar, LORA, settings, NF4, tokens, 11 * GIB, lengths=lengths)
    assert found.split > 1
    assert found.estimate.tokens == longest_step(lengths, -(-8 // found.split))


def test_the_longest_step():
    assert longest_step([3, 9, 5], 2) == 14
    assert longest_step([3, 9, 5], 2, padded=True) == 18
    assert longest_step([3], 8) == 3
    assert longest_step([], 8) == 0


def test_a_shuffled_run_stays_below_the_likely_longest_step():
    draw = random.Random(1)
    lengths = [min(512, int(draw.lognormvariate(5.6, 0.45))) for _ in range(5000)]
    likely, bound = likely_longest_step(lengths, 8), longest_step(lengths, 8)
    seen = max(sum(draw.sample(lengths, 8)) for _ in range(5000))
    assert seen <= likely < 0.95 * bound
    assert likely_longest_step([3, 9, 5], 8) == 17


def test_limits(tmp_path):
    assert limit_bytes(torch.device("cpu"), train(memory_limit_gib=0.25)) == GIB // 4
    assert GIB // 4 < limit_bytes(torch.device("cpu"), train()) == pytest.approx(available_ram(), rel=0.2)
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 100 kB\nMemAvailable:   77 kB\n")
    assert available_ram(told) == 77 * 1024
    assert available_ram(tmp_path / "none") > GIB  # what the machine has


def test_memory_that_runs_out_is_explained(solar):
    """A real allocation that cannot succeed, on the CPU."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_oom(error.value)
    assert is_oom(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_oom(RuntimeError("shapes do not match"))
    found = chosen(solar, 40)
    said = str(explain_oom(error.value, found, solar, train(), NF4, 512))
    assert said.startswith("out of memory; 2")
    assert "train.memory_limit_gib: 34.0" in said
    assert "train.activation_checkpointing" in said
    least = str(explain_oom(error.value, chosen(solar, 8), solar, train(), NF4, 512))
    assert "memory_limit_gib" not in least
    assert "tokenize.max_length" in least
