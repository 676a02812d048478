"""Whole runs by the fast engine: the same learning as by the reference engine, in whatever pieces memory allows."""

import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, Trainer, TrainerCallback, TrainingArguments

from engine.families import write_family
from engine.tiny import job
from engine.uneven import write_uneven_tokens
from medtune.engine.choice import choose, likely_longest_step
from medtune.engine.fast import FlatOptimizer
from medtune.engine.memory import GIB
from medtune.engine.shapes import read_shape
from medtune.engine.train import run
from medtune.params.errors import EngineError

ROWS = 27  # three steps of eight and one of three an epoch
STEPS = 12


@pytest.fixture(scope="module")
def tokens(tiny_base, tmp_path_factory):
    return write_uneven_tokens(tiny_base, tmp_path_factory.mktemp("uneven"), ROWS)


def make(base, tokens, folder, lora=None, **train):
    settings = {"gradient_accumulation": 4, "max_steps": STEPS, "eval_steps": 6, "save_steps": 100}
    settings |= {"optimizer": "adamw_torch", "learning_rate": 2e-3}
    return job(base, tokens, folder, {"dropout": 0.0} | (lora or {}), **(settings | train))


class Seen(TrainerCallback):
    """The rows that training collates, in order: of each sample its name, or the names of a bin."""

    def __init__(self):
        self.rows, self.calls = [], 0

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        watched = train_dataloader.collate_fn
        collate = watched.collator

        def note(samples):
            if not watched.paused:
                self.calls += 1
                self.rows += [sample["row_id"] for sample in samples]
            return collate(samples)

        watched.collator = note


def history(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "adapter/history.jsonl").read_text().splitlines()]


def losses(folder) -> list[float]:
    return [entry["loss"] for entry in history(folder) if "loss" in entry]


def adapter_digest(folder) -> str:
    return hashlib.sha256((folder / "adapter/adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def fast_run(tiny_base, tokens, tmp_path_factory):
    folder, seen = tmp_path_factory.mktemp("fast"), Seen()
    return folder, run(make(tiny_base, tokens, folder), [seen]), seen


def test_the_same_learning_as_the_reference_engine(fast_run, tiny_base, tokens, tmp_path):
    folder, figures, seen = fast_run
    also = Seen()
    reference = run(make(tiny_base, tokens, tmp_path, engine="reference"), [also])
    assert (figures["engine"], reference["engine"]) == ("fast", "reference")
    assert seen.rows == also.rows
    assert len(seen.rows) == 3 * ROWS
    assert (seen.calls, also.calls) == (STEPS, 3 * 14)  # a step in one row, or in batches of two
    assert losses(folder) == pytest.approx(losses(tmp_path), rel=1e-4)
    assert losses(folder)[-1] < losses(folder)[0] - 0.1
    assert (figures["steps"], figures["epochs"]) == (reference["steps"], reference["epochs"]) == (STEPS, 3)
    for key in ("validation_loss", "best_validation_loss"):
        assert figures[key] == pytest.approx(reference[key], rel=1e-4)
    norms = [[entry["grad_norm"] for entry in history(f) if "grad_norm" in entry] for f in (folder, tmp_path)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_bins_of_rows_teach_the_same_in_both_engines(tiny_base, tokens, tmp_path):
    seen = {}
    for engine in ("fast", "reference"):
        seen[engine] = Seen()
        made = make(tiny_base, tokens, tmp_path / engine, engine=engine, packing=True, max_steps=3, eval_steps=None)
        run(made, [seen[engine]])
    assert seen["fast"].rows == seen["reference"].rows
    assert max(map(len, seen["fast"].rows)) > 1
    assert losses(tmp_path / "fast") == pytest.approx(losses(tmp_path / "reference"), rel=1e-4)


def test_a_broken_step_of_bins_names_its_rows(tiny_base, tokens, tmp_path):
    settings = {"packing": True, "learning_rate": 1e30, "max_grad_norm": 1e30, "eval_steps": None}
    with pytest.raises(EngineError, match=r"the loss of step 2 is NaN.* Its rows: (0{12}, ){8,}0{12}\. "):  # of 8 bins
        run(make(tiny_base, tokens, tmp_path, **settings))
    assert not (tmp_path / "adapter").exists()


def test_dropout_trains_the_same_twice(fast_run, tiny_base, tokens, tmp_path):
    folder, _, _ = fast_run
    for name in ("one", "two"):
        found = run(make(tiny_base, tokens, tmp_path / name, {"dropout": 0.3}))
    assert found["engine"] == "fast"
    assert adapter_digest(tmp_path / "one") == adapter_digest(tmp_path / "two")
    assert losses(tmp_path / "one")[-1] < losses(tmp_path / "one")[0] - 0.1
    assert losses(tmp_path / "one")[0] == pytest.approx(losses(folder)[0], rel=1e-6)  # B is zero yet
    assert abs(losses(tmp_path / "one")[-1] - losses(folder)[-1]) > 1e-5


class StopAt(TrainerCallback):
    """Ends training as a kill would: in the middle of a step's work, with nothing saved on the way out."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise SystemExit


@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "adamw_torch"])
def test_killed_and_gone_on_with_is_equal_to_the_bit(tiny_base, tokens, tmp_path, optimizer):
    """With dropout, whose draws hang on the generator; in the second epoch, over a border of epochs."""
    settings = {"optimizer": optimizer, "save_steps": 3, "max_steps": 10}
    run(make(tiny_base, tokens, tmp_path / "whole", {"dropout": 0.2}, **settings))
    with pytest.raises(SystemExit):
        run(make(tiny_base, tokens, tmp_path / "killed", {"dropout": 0.2}, **settings), [StopAt(8)])
    assert not (tmp_path / "killed/adapter").exists()
    figures = run(make(tiny_base, tokens, tmp_path / "killed", {"dropout": 0.2}, **settings))
    assert (figures["engine"], figures["resumed_from_step"]) == ("fast", 6)
    assert adapter_digest(tmp_path / "killed") == adapter_digest(tmp_path / "whole")
    assert history(tmp_path / "killed") == history(tmp_path / "whole")


def smallest_limit(made, allowed) -> float:
    """GiB, to the kibibyte: the smallest memory for which a way is chosen that `allowed` says yes to."""
    from datasets import load_from_disk

    lengths = [len(ids) for ids in load_from_disk(made.tokens / "train")["input_ids"]]
    shape = read_shape(AutoConfig.from_pretrained(made.base))
    samples = made.train.batch_size * made.train.gradient_accumulation

    def fits(limit):
        try:
            found = choose(
                shape, made.lora, made.train, SimpleNamespace(**made.quantization),
                likely_longest_step(lengths, samples), limit, lengths=lengths, longest=max(lengths), cuda=False,
            )  # fmt: skip
        except EngineError:
            return False
        return allowed(found)

    low, high = GIB, 4 * GIB
    while high - low > 1024:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high / GIB


@pytest.mark.parametrize(
    ("allowed", "recomputed", "calls"),
    [
        (lambda choice: choice.split == 1 and choice.recomputed_layers < 2, 1, STEPS),
        (lambda choice: choice.split == 1, 2, STEPS),
        (lambda choice: True, 2, 3 * ROWS),  # sample by sample
    ],
)
def test_less_memory_gives_the_same_losses(fast_run, tiny_base, tokens, tmp_path, allowed, recomputed, calls):
    folder, figures, _ = fast_run
    assert (figures["recomputed_layers"], figures["base_residency"]) == (0, "bf16")
    made, seen = make(tiny_base, tokens, tmp_path), Seen()
    limit = smallest_limit(made, allowed)
    found = run(make(tiny_base, tokens, tmp_path, memory_limit_gib=limit), [seen])
    assert (found["recomputed_layers"], found["base_residency"]) == (recomputed, "nf4")
    assert seen.calls == calls
    assert losses(tmp_path) == pytest.approx(losses(folder), rel=1e-4)
    assert found["validation_loss"] == pytest.approx(figures["validation_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "lora", "why"),
    [
        ("biased", {}, "its linear layers have biases"),
        pytest.param(
            "neo",
            {},
            "gpt_neo has other layers",
        ),
        pytest.param(
            "chat",
            {"variant": "dora"},
            "DoRA",
        ),
    ],
)
def test_what_the_fused_layers_cannot_compute_is_trained_by_the_reference_engine(tmp_path, capsys, name, lora, why):
    """A Llama whose feed-forward has biases; GPT-Neo; DoRA. Each time it is said, and why."""
    from transformers import LlamaForCausalLM

    base = write_family(tmp_path / "base", "neo" if name == "neo" else "chat")
    chat = base if name != "neo" else write_family(tmp_path / "chat", "chat")
    if name == "biased":
        config = AutoConfig.from_pretrained(base)
        config.mlp_bias = True
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(base)
    tokens = write_uneven_tokens(chat, tmp_path / "tokens", 8)
    figures = run(make(base, tokens, tmp_path, lora, max_steps=2, eval_steps=None))
    assert figures["engine"] == "reference"
    told = capsys.readouterr().out
    assert "the reference engine trains this one" in told
    assert why in told


def test_one_flat_weight_steps_as_separate_ones_do(tmp_path):
    """Elementwise optimizers: to the bit. The weights stay what the model computes with: views of the flat one."""

    class Flat(FlatOptimizer, Trainer):
        pass

    def build():
        torch.manual_seed(6)
        model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3, bias=False))
        model[0].bias.requires_grad = False  # frozen: not the optimizer's
        return model

    model, twin = build(), build()
    args = TrainingArguments(
        str(tmp_path), optim="adamw_torch", learning_rate=1e-2, weight_decay=0.1, use_cpu=True, report_to=[]
    )
    optimizer = Flat(model=model, args=args).create_optimizer()
    assert [weight.numel() for group in optimizer.param_groups for weight in group["params"]] == [5 * 7 + 7 * 3]
    separate = [weight for weight in twin.parameters() if weight.requires_grad]
    plain = torch.optim.AdamW(separate, lr=1e-2, weight_decay=0.1)
    generator = torch.Generator().manual_seed(7)
    before = model[0].weight.detach().clone()
    for _ in range(5):
        x = torch.randn(4, 5, generator=generator)
        for each, step in ((model, optimizer), (twin, plain)):
            each.zero_grad()
            each(x).square().sum().backward()
            step.step()
    assert not torch.equal(model[0].weight, before)
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(found, wanted)
    flat = optimizer.param_groups[0]["params"][0]
    assert flat.grad is None  # let go of after each step
    assert model[1].weight.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


def test_eight_bit_moments_are_those_of_separate_weights(tmp_path):
    """bitsandbytes: blocks of 256 values, and fp32 moments for weights under 4,096 values. To the bit, both kinds."""
    import bitsandbytes

    class Flat(FlatOptimizer, Trainer):
        pass

    def build():
        torch.manual_seed(8)
        sizes = [(64, 96), (96, 64), (64, 16), (16, 300)]  # two large, one small, one of 4,800: not whole blocks
        return torch.nn.Sequential(*[torch.nn.Linear(a, b, bias=False) for a, b in sizes])

    model, twin = build(), build()
    args = TrainingArguments(str(tmp_path), optim="adamw_8bit", learning_rate=1e-2, use_cpu=True, report_to=[])
    optimizer = Flat(model=model, args=args).create_optimizer()
    assert [weight.numel() for weight in optimizer.param_groups[0]["params"]] == [2 * 6144, 1024, 4800]
    plain = bitsandbytes.optim.AdamW8bit(list(twin.parameters()), lr=1e-2, weight_decay=0.0)
    generator = torch.Generator().manual_seed(9)
    for _ in range(4):
        x = torch.randn(4, 64, generator=generator)
        for each, step in ((model, optimizer), (twin, plain)):
            each.zero_grad()
            each(x).square().sum().backward()
            step.step()
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_memory_that_runs_out_before_the_first_step_is_a_sentence_too(tiny_base, tokens, tmp_path, monkeypatch):
    """On a GPU the longest step is recorded while the layers are prepared."""
    from medtune.engine.fused.backbone import Fused

    def exhausted(self, packed):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Fused, "make_resident", exhausted)
    with pytest.raises(EngineError, match=r"out of memory; .* set train\."):
        run(make(tiny_base, tokens, tmp_path))
    assert not (tmp_path / "adapter").exists()


def test_rows_are_uneven(tokens):
    """The runs above would prove little with rows of one length."""
    from datasets import load_from_disk

    lengths = [len(ids) for ids in load_from_disk(tokens / "train")["input_ids"]]
    assert len(set(lengths)) > ROWS // 2
    assert max(lengths) > 3 * min(lengths)
