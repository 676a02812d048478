"""Merging on the tiny base: true to what was trained, by every target, whole or not at all."""

import json
import weakref

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.tiny import RECORD, job, write_tokens
from medtune.corpus.template import dress, prompt_ids
from medtune.engine.load import load_model, load_tokenizer
from medtune.engine.merge import MergeJob, compare, dequantise
from medtune.engine.merge import run as merge
from medtune.engine.train import run as train
from medtune.params.merge import Merge

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokens(tiny_base, tmp_path_factory):
    return write_tokens(tiny_base, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def adapters(tiny_base, tokens, tmp_path_factory):
    made = {}
    for variant in ("lora", "dora"):
        folder = tmp_path_factory.mktemp(variant)
        lora = {"variant": variant, "dropout": 0.0, "alpha": 64}
        train(job(tiny_base, tokens, folder, lora=lora, learning_rate=0.05, max_steps=8))
        made[variant] = folder / "adapter"
    return made


def merge_job(tiny_base, tokens, adapter, out, **settings) -> MergeJob:
    return MergeJob(
        base=tiny_base,
        fingerprint=RECORD["fingerprint"],
        quantization={key: RECORD[key] for key in ("quantization", "double_quant", "quant_storage")},
        adapter=adapter,
        held_out=load_from_disk(tokens / "validation"),
        merge=Merge(**({"dtype": "float32", "certificate_rows": 4} | settings)),
        device="cpu",
        version="e" * 64,
        out=out,
    )


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_dequantised_merge_is_the_model_that_was_trained(tiny_base, tokens, adapters, tmp_path, variant):
    certificate = merge(merge_job(tiny_base, tokens, adapters[variant], tmp_path / "merged"))
    assert certificate["kl_mean"] < 1e-6
    assert certificate["max_logit_difference"] < 1e-3
    assert certificate["top1_agreement"] == 1.0
    assert certificate["rows"] == 4
    assert json.loads((tmp_path / "merged/certificate.json").read_text())["kl_mean"] == certificate["kl_mean"]


def test_the_report_says_time_and_memory_and_the_certificate_does_not(tiny_base, tokens, adapters, tmp_path):
    """They are the run's, not the model's: equal models must have equal files."""
    report = merge(merge_job(tiny_base, tokens, adapters["lora"], tmp_path / "merged"))
    assert report["peak_memory_bytes"] > 50 * 2**20  # python and torch alone are more
    assert report["seconds"] > 0
    written = json.loads((tmp_path / "merged/certificate.json").read_text())
    assert set(report) - set(written) == {"bytes", "seconds", "peak_memory_bytes"}


@pytest.mark.parametrize("storage", ["uint8", "bfloat16"])
def test_dequantising_frees_each_layer_and_changes_no_bit(tiny_base, storage):
    """A model that keeps its NF4 layers until the last is dequantised needs both whole: 27 GB at 10.7 B."""
    settings = {"quantization": "nf4", "quant_storage": storage, "device": CPU, "dtype": torch.float32}
    expected = load_model(tiny_base, **settings).dequantize().state_dict()
    model = load_model(tiny_base, **settings)
    layers = [weakref.ref(module) for module in model.modules() if isinstance(module, Linear4bit)]
    standing = []
    setter = type(model).set_submodule

    class Watched(type(model)):
        def set_submodule(self, *args, **kwargs):
            standing.append(sum(layer() is not None for layer in layers))
            return setter(self, *args, **kwargs)

    model.__class__ = Watched
    found = dequantise(model).state_dict()
    assert standing == list(range(len(layers), 0, -1))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not hasattr(model.config, "quantization_config")


def test_other_targets_are_further_away_and_say_so(tiny_base, tokens, adapters, tmp_path):
    kl = {
        into: merge(merge_job(tiny_base, tokens, adapters["lora"], tmp_path / into, into=into))["kl_mean"]
        for into in ("dequantised", "original", "quantised")
    }
    assert kl["dequantised"] * 100 < kl["original"]
    assert kl["dequantised"] * 100 < kl["quantised"]


def test_merged_directory_stands_alone(tiny_base, tokens, adapters, tmp_path):
    out = tmp_path / "merged"
    merge(merge_job(tiny_base, tokens, adapters["lora"], out, dtype="bfloat16", max_shard_size="1MB"))
    assert not (tmp_path / "merged.tmp").exists()
    assert list(out.glob("*.safetensors"))
    assert not [*out.glob("*.bin"), *out.glob("*.pt"), *out.glob("*.pkl")]
    config = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(tiny_base) not in (out / "config.json").read_text()
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    settings = model.generation_config
    assert (settings.temperature, settings.top_k, settings.top_p, settings.repetition_penalty) == (0.2, 50, 0.92, 1.2)
    question = [{"role": "user", "content": "머리가 아파요."}]
    ours = dress(load_tokenizer(tiny_base), "chat", None)
    theirs = AutoTokenizer.from_pretrained(out).apply_chat_template(
        question, add_generation_prompt=True, return_dict=False
    )
    assert theirs == prompt_ids(question, ours)


def test_nf4_weights_stay_as_they_are_after_evaluation(tiny_base):
    """bitsandbytes repacks NF4 weights on some CPUs at the first evaluation and rounds their scales to bf16."""
    model = load_model(tiny_base, quantization="nf4", device=CPU, dtype=torch.float32)
    layer = model.model.layers[0].mlp.up_proj
    before = layer.weight.data.clone(), layer.weight.quant_state.absmax.clone()
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1, 2, 3]]))
    assert torch.equal(layer.weight.data, before[0])
    assert torch.equal(layer.weight.quant_state.absmax, before[1])


def test_compare_knows_equal_from_different():
    a = [torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])]
    assert compare(a, a) == {
        "kl_mean": 0.0, "kl_max": 0.0, "max_logit_difference": 0.0, "top1_agreement": 1.0, "rows": 1, "tokens": 2
    }  # fmt: skip
    other = compare(a, [torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 3.0]])])
    assert other["top1_agreement"] == 0.5
    assert other["max_logit_difference"] == 3.0
    # KL of softmax(3,1,0) to its reverse: sum p_i (l_i - l_reversed_i) = (p_0 - p_2) * 3
    p = torch.softmax(torch.tensor([3.0, 1.0, 0.0]), -1)
    assert other["kl_max"] == pytest.approx(float((p[0] - p[2]) * 3), rel=1e-5)
