"""LoRA's variants and beginnings: each trains, reloads on the untouched base as what was trained, and merges."""

import dataclasses
import json
import shutil

import pytest
import torch
from datasets import load_from_disk
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.loftq_utils import _low_rank_decomposition
from transformers import TrainerCallback

from engine.tiny import RECORD, job, write_tokens
from medtune.engine.load import load_model
from medtune.engine.lora import attach, load_adapter, read_sidecar
from medtune.engine.merge import MergeJob
from medtune.engine.merge import run as merge
from medtune.engine.train import run as train
from medtune.params.errors import EngineError
from medtune.params.lora import Lora
from medtune.params.merge import Merge

CPU = torch.device("cpu")
FLOAT = RECORD | {"quantization": "none"}
# variant, init, quantisation of the base
KINDS = [
    ("rslora", "default", "nf4"),
    ("dora", "default", "nf4"),
    ("dora", "default", "none"),
    ("lora", "loftq", "nf4"),
    ("rslora", "loftq", "nf4"),
    ("lora", "pissa", "none"),
    ("rslora", "pissa", "none"),
]


@pytest.fixture(scope="module")
def tokens(tiny_base, tmp_path_factory):
    return write_tokens(tiny_base, tmp_path_factory.mktemp("tokens"))


def load(base, quantization):
    return load_model(base, quantization=quantization, device=CPU, dtype=torch.float32)


def logits(model, tokens):
    row = load_from_disk(tokens / "validation")[0]
    with torch.no_grad():
        return model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0]


class Last(TrainerCallback):
    """What the model answers at the end of training, while it still is the model that was trained."""

    def __init__(self, tokens):
        self.tokens, self.answer = tokens, None

    def on_train_end(self, args, state, control, model=None, **kwargs):
        model.eval()
        self.answer = logits(model, self.tokens)
        model.train()


def settings(base, tokens, folder, variant="lora", init="default", quantization="nf4", r=4, **train_settings):
    made = job(
        base,
        tokens,
        folder,
        lora={"variant": variant, "init": init, "r": r, "alpha": 8, "dropout": 0.0},
        **({"max_steps": 4, "save_steps": 2, "engine": "reference"} | train_settings),
    )
    record = RECORD if quantization == "nf4" else FLOAT
    return dataclasses.replace(
        made, quantization=made.quantization | {"quantization": quantization}, sidecar=made.sidecar | {"base": record}
    )


@pytest.mark.parametrize(("variant", "init", "quantization"), KINDS)
def test_trains_reloads_and_merges(tiny_base, tokens, tmp_path, variant, init, quantization):
    last = Last(tokens)
    figures = train(settings(tiny_base, tokens, tmp_path, variant, init, quantization), [last])
    assert figures["train_loss"] < figures["first_loss"]

    untouched = load(tiny_base, quantization)
    before = logits(untouched, tokens)
    again = logits(load_adapter(untouched, tmp_path / "adapter", RECORD["fingerprint"]), tokens)
    assert (before - last.answer).abs().max() > 0.05  # it did learn something
    torch.testing.assert_close(again, last.answer, atol=2e-5, rtol=1e-4)

    certificate = merge(
        MergeJob(
            base=tiny_base,
            fingerprint=RECORD["fingerprint"],
            quantization={"quantization": quantization, "double_quant": True, "quant_storage": "uint8"},
            adapter=tmp_path / "adapter",
            held_out=load_from_disk(tokens / "validation"),
            merge=Merge(
                dtype="float32", certificate_rows=2, into="original" if quantization == "none" else "dequantised"
            ),
            device="cpu",
            version="e" * 64,
            out=tmp_path / "merged",
        )
    )
    assert certificate["kl_max"] < 1e-6
    torch.testing.assert_close(
        logits(load_model(tmp_path / "merged", device=CPU, dtype=torch.float32), tokens),
        last.answer,
        atol=1e-4,
        rtol=1e-3,
    )


def lora(**changes):
    return Lora(**{"r": 4, "alpha": 8, "targets": "all-linear", **changes})


def layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def update(layer):
    return layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight


@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_loftq_begins_at_the_error_of_the_quantisation(tiny_base, variant):
    """Each product is that of peft's exact decomposition, the scaling counted; the whole stands nearer to the base."""
    from bitsandbytes.functional import dequantize_4bit

    plain = load(tiny_base, "none")
    originals = dict(plain.requires_grad_(False).named_modules())
    model = attach(load(tiny_base, "nf4"), lora(variant=variant, init="loftq"), 0, tiny_base)
    for name, layer in layers(model).items():
        frozen = layer.get_base_layer().weight
        error = originals[name.removeprefix("base_model.model.")].weight - dequantize_4bit(
            frozen.data, frozen.quant_state
        )
        best = _low_rank_decomposition(error.detach(), 4)
        exact = float((error - best["L"] @ best["R"]).norm())
        assert float((error - update(layer)).norm()) == pytest.approx(exact, rel=1e-3)
        assert exact < 0.97 * float(error.norm())


def test_pissa_is_pefts_and_begins_as_the_base(tiny_base, tokens):
    model = attach(load(tiny_base, "none"), lora(init="pissa"), 0, tiny_base)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa", task_type="CAUSAL_LM"
    )
    pefts = layers(get_peft_model(load(tiny_base, "none"), config))
    for name, layer in layers(model).items():
        exact, base = update(pefts[name]), layer.get_base_layer().weight + update(layer)
        assert float((update(layer) - exact).norm()) < 0.02 * float(exact.norm())
        torch.testing.assert_close(base, pefts[name].get_base_layer().weight + exact, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits(model, tokens), logits(load(tiny_base, "none"), tokens), atol=1e-5, rtol=1e-4)


def test_pissa_goes_on_after_a_kill_as_if_nothing_had_been(tiny_base, tokens, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise SystemExit

    whole = settings(tiny_base, tokens, tmp_path / "whole", "lora", "pissa", "none")
    killed = settings(tiny_base, tokens, tmp_path / "killed", "lora", "pissa", "none")
    train(whole)
    with pytest.raises(SystemExit):
        train(killed, [Stop()])
    assert train(killed)["resumed_from_step"] == 2
    assert train(killed)["resumed_from_step"] == 4  # finished: taken from the last checkpoint
    first, second = (
        (tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert first == second


@pytest.mark.parametrize(
    ("init", "quantization", "sentence"), [("loftq", "none", "not quantised"), ("pissa", "nf4", "NF4")]
)
def test_a_beginning_that_the_base_cannot_have_is_refused(tiny_base, init, quantization, sentence):
    with pytest.raises(EngineError, match=sentence):
        attach(load(tiny_base, quantization), lora(init=init), 0, tiny_base)


def test_a_rank_above_the_weights_is_refused(tiny_base):
    with pytest.raises(EngineError, match=r"lora.r is 200 .* rank of 64 or less"):
        attach(load(tiny_base, "none"), lora(r=200, init="pissa"), 0, tiny_base)


@pytest.fixture(scope="module")
def first(tiny_base, tokens, tmp_path_factory):
    """An adapter to go on from, and what its model answered."""
    folder, last = tmp_path_factory.mktemp("first"), Last(tokens)
    figures = train(settings(tiny_base, tokens, folder, max_steps=10, save_steps=10, learning_rate=0.05), [last])
    return folder / "adapter", figures, last.answer


def test_training_goes_on_from_an_adapter(tiny_base, tokens, tmp_path, first):
    class First(TrainerCallback):
        answer = None

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            model.eval()
            self.answer = logits(model, tokens)
            model.train()

    adapter, figures, answer = first
    begun = First()
    more = dataclasses.replace(settings(tiny_base, tokens, tmp_path), init=adapter)
    again = train(more, [begun])
    torch.testing.assert_close(begun.answer, answer, atol=1e-5, rtol=1e-4)
    assert again["first_loss"] < figures["first_loss"] - 0.1
    assert read_sidecar(tmp_path / "adapter")["base"] == RECORD


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"r": 8}, r"has rank 4 and lora.r is 8; set lora.r: 4 and lora.alpha: 8"),
        ({"alpha": 16}, r"scales its update by 2 and .* give 4"),
        ({"variant": "rslora"}, r"scales its update by 2 and .* give 4"),
        ({"variant": "dora"}, r"is no DoRA; write lora.variant: lora"),
        ({"targets": ["q_proj"]}, r"only that adapter has one at .*; write lora.targets: \[down_proj, gate_proj"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(tiny_base, tokens, tmp_path, first, recipe, sentence):
    made = settings(tiny_base, tokens, tmp_path)
    made = dataclasses.replace(made, init=first[0], lora=made.lora.model_copy(update=recipe))
    with pytest.raises(EngineError, match=sentence):
        train(made)
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_of_another_base_is_refused(tiny_base, tokens, tmp_path, first):
    moved = shutil.copytree(first[0], tmp_path / "moved")
    sidecar = json.loads((moved / "medtune.json").read_text())
    sidecar["base"] = sidecar["base"] | {"fingerprint": "0" * 64}
    (moved / "medtune.json").write_text(json.dumps(sidecar))
    with pytest.raises(EngineError, match=r"train.init: .*000000000000.*ffffffffffff"):
        train(dataclasses.replace(settings(tiny_base, tokens, tmp_path), init=moved))
