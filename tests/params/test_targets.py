"""The LoRA targets of every shipped recipe exist in its architecture. By config alone: no weight is loaded."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoConfig, LlamaConfig

from medtune.engine.lora import check_targets, linear_names
from medtune.params import recipes

ROOT = Path(__file__).resolve().parents[2]
# The shapes, in two layers. Names of modules do not depend on sizes, so that these can be small.
LLAMA = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128)
NEO = GPTNeoConfig(
    hidden_size=64, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], vocab_size=128
)
ARCHITECTURE = {
    "sample": LLAMA,
    "kullm3": LLAMA,
    "llama3.1-8b-lora": LLAMA,
    "llama3-70b-fsdp": LLAMA,
    "llama2-7b-qlora": LLAMA,
    "gpt-neo-1.3b-lora": NEO,
}


def test_no_recipe_is_forgotten():
    assert set(ARCHITECTURE) == {p.stem for p in (ROOT / "recipes").glob("*.yaml")}


@pytest.mark.parametrize("name", ARCHITECTURE)
def test_targets_exist(name):
    recipe = recipes.check(ROOT / "recipes" / f"{name}.yaml")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(ARCHITECTURE[name])
    check_targets(recipe.lora.targets, model)
    if isinstance(recipe.lora.targets, list):
        assert set(recipe.lora.targets) <= linear_names(model)


def test_the_architectures_differ():
    with torch.device("meta"):
        names = [linear_names(AutoModelForCausalLM.from_config(config)) for config in (LLAMA, NEO)]
    assert "o_proj" in names[0] - names[1]
    assert "out_proj" in names[1] - names[0]
