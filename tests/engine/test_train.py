"""Training on the tiny base: learns, equal to the bit, killed and gone on with, refuses what it cannot do."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainerCallback

from engine.run_job import SETTINGS as KILLED
from engine.tiny import RECORD, job, write_tokens
from medtune.engine.checkpoint import is_complete, last_checkpoint, mark_complete, mark_done, prune_done
from medtune.engine.load import load_model
from medtune.engine.lora import check_targets, load_adapter, read_sidecar
from medtune.engine.preflight import check_space
from medtune.engine.train import run
from medtune.params.errors import EngineError

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tokens(tiny_base, tmp_path_factory):
    return write_tokens(tiny_base, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def trained(tiny_base, tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, run(job(tiny_base, tokens, folder, eval_steps=2))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_learns_and_tells(trained):
    folder, figures = trained
    assert sorted(digests(folder / "adapter")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "history.jsonl",
        "medtune.json",
    ]
    assert figures["steps"] == 6
    assert figures["train_loss"] < figures["first_loss"]
    assert figures["tokens_per_second"] > 0
    history = [json.loads(line) for line in (folder / "adapter/history.jsonl").read_text().splitlines()]
    assert [h["step"] for h in history if "loss" in h] == [1, 2, 3, 4, 5, 6]
    assert [h["step"] for h in history if "eval_loss" in h] == [2, 4, 6]
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert str(folder) not in (folder / "adapter/adapter_config.json").read_text()


def test_two_runs_are_equal_to_the_bit(trained, tiny_base, tokens, tmp_path):
    run(job(tiny_base, tokens, tmp_path, eval_steps=2))
    assert digests(tmp_path / "adapter") == digests(trained[0] / "adapter")


def test_another_seed_is_another_adapter(trained, tiny_base, tokens, tmp_path):
    run(job(tiny_base, tokens, tmp_path, eval_steps=2, seed=7))
    ours, theirs = digests(tmp_path / "adapter"), digests(trained[0] / "adapter")
    assert ours["adapter_model.safetensors"] != theirs["adapter_model.safetensors"]


def test_killed_and_gone_on_with_is_equal_to_the_bit(tiny_base, tokens, tmp_path):
    """A process that is killed at any step; what goes on, and what was never killed, are other processes than that."""
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "engine.run_job", str(tiny_base), str(tokens), str(killed)]
    env = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    kill_at = random.randint(3, 7)  # steps begin at 0; a checkpoint is written after every second one
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent, env=env) as process:
        for line in process.stdout:
            if line.strip() == f"first {kill_at}":
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "adapter").exists()
    first = run(job(tiny_base, tokens, killed, **KILLED))["resumed_from_step"]
    assert 0 < first <= kill_at, f"killed at {kill_at}, went on at {first}"
    run(job(tiny_base, tokens, tmp_path / "whole", **KILLED))
    assert digests(killed / "adapter") == digests(tmp_path / "whole/adapter")


def test_a_finished_candidate_is_not_trained_on(trained, tiny_base, tokens, tmp_path):
    """Started from its last checkpoint, the trainer would take a step more than the recipe asks."""
    folder, first = trained
    before = digests(folder / "adapter")
    shutil.rmtree(folder / "adapter")
    again = run(job(tiny_base, tokens, folder, eval_steps=2))
    assert digests(folder / "adapter") == before
    assert (again["steps"], again["tokens_per_second"]) == (6, first["tokens_per_second"])
    # killed between the last checkpoint and the adapter
    (folder / "checkpoints" / ("c" * 64) / "done.json").unlink()
    shutil.rmtree(folder / "adapter")
    run(job(tiny_base, tokens, folder, eval_steps=2))
    assert digests(folder / "adapter") == before


def test_a_finished_best_is_found_again(tiny_base, tokens, tmp_path):
    settings = {"eval_steps": 2, "keep": "best", "learning_rate": 0.5, "max_steps": 8}
    first = run(job(tiny_base, tokens, tmp_path, **settings))
    before = digests(tmp_path / "adapter")
    again = run(job(tiny_base, tokens, tmp_path, **settings))
    assert digests(tmp_path / "adapter") == before
    assert again["kept_step"] == first["kept_step"]


class StopAt(TrainerCallback):
    """Ends the process's training as a kill would, but without the wait."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise SystemExit


def test_patience_goes_on_counting_after_a_kill(tiny_base, tokens, tmp_path):
    settings = {"eval_steps": 2, "keep": "best", "early_stopping_patience": 2, "learning_rate": 5.0, "max_steps": 40}
    whole = run(job(tiny_base, tokens, tmp_path / "whole", **settings))
    assert 4 < whole["steps"] < 40
    with pytest.raises(SystemExit):  # between the last two validations
        run(job(tiny_base, tokens, tmp_path / "killed", **settings), [StopAt(whole["steps"] - 1)])
    killed = run(job(tiny_base, tokens, tmp_path / "killed", **settings))
    assert killed["resumed_from_step"] == whole["steps"] - 2
    assert killed["steps"] == whole["steps"]
    assert digests(tmp_path / "killed/adapter") == digests(tmp_path / "whole/adapter")


def test_keep_best_takes_the_lowest_validation_loss(tiny_base, tokens, tmp_path):
    figures = run(job(tiny_base, tokens, tmp_path, eval_steps=2, keep="best", learning_rate=0.5, max_steps=8))
    history = [json.loads(line) for line in (tmp_path / "adapter/history.jsonl").read_text().splitlines()]
    best = min((h["eval_loss"], h["step"]) for h in history if "eval_loss" in h)
    assert (figures["validation_loss"], figures["kept_step"]) == best


def test_early_stopping_ends_before_the_last_step(tiny_base, tokens, tmp_path):
    settings = {"eval_steps": 2, "keep": "best", "early_stopping_patience": 1, "learning_rate": 5.0, "max_steps": 40}
    figures = run(job(tiny_base, tokens, tmp_path, **settings))
    assert figures["steps"] < 40


def test_a_loss_that_is_no_number_saves_nothing(tiny_base, tokens, tmp_path):
    with pytest.raises(EngineError, match=r"the loss of step 2 is NaN; training stopped.*learning_rate"):
        run(job(tiny_base, tokens, tmp_path, learning_rate=1e30, max_grad_norm=1e30))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_variants_train(tiny_base, tokens, tmp_path, variant):
    figures = run(job(tiny_base, tokens, tmp_path, lora={"variant": variant, "dropout": 0.0}, max_steps=3))
    assert figures["train_loss"] > 0
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()


def test_unknown_target_is_named_with_the_nearest(tiny_base):
    import torch

    model = load_model(tiny_base, device=torch.device("cpu"), dtype=torch.float32)
    check_targets(["q_proj", "down_proj"], model)
    with pytest.raises(EngineError, match=r"no linear layer 'query_proj'; did you mean '[kq]_proj'"):
        check_targets(["query_proj"], model)
    with pytest.raises(EngineError, match="lm_head"):
        check_targets(["lm_head"], model)


def test_adapter_is_refused_on_another_base(trained, tiny_base):
    import torch

    folder = trained[0] / "adapter"
    assert read_sidecar(folder)["base"]["id"] == "tiny"
    model = load_model(tiny_base, quantization="nf4", device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(EngineError, match=r"ffffffffffff.*000000000000"):
        load_adapter(model, folder, "0" * 64)
    load_adapter(model, folder, RECORD["fingerprint"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"device": "cuda"}, "no CUDA device"),
        ({"dtype": "float16"}, "does not train on a CPU"),
        ({"sharding": "fsdp"}, "sharding"),
    ],
)
def test_preflight_refuses_before_any_work(tiny_base, tokens, tmp_path, settings, sentence):
    import torch

    if settings == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(EngineError, match=sentence):
        run(job(tiny_base, tokens, tmp_path, **settings))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "sentence"),
    [
        ("tokenize", "max_length", 16, r"max_length is 16, and the template chat alone takes \d+ tokens; raise it to"),
        ("tokenize", "max_length", 4096, "holds 1024 positions"),
        ("lora", "targets", ["qqq"], "no linear layer 'qqq'"),
        ("train", "dtype", "float16", "does not train on a CPU"),
        ("train", "dtype", "bfloat16", "neither avx512_bf16 nor amx_bf16"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_with_the_base_at_hand(
    tiny_base, monkeypatch, section, key, value, sentence
):
    from medtune.engine import device
    from medtune.engine.fit import check_recipe
    from medtune.params.recipe import load_recipe

    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: False)  # a CPU of another year
    recipe = load_recipe(TESTS.parent / "params.yaml")
    parts = {"tokenize": recipe.tokenize, "lora": recipe.lora, "train": recipe.train}
    parts["train"] = parts["train"].model_copy(update={"device": "cpu"})
    check_recipe(tiny_base, *parts.values())
    parts[section] = parts[section].model_copy(update={key: value})
    with pytest.raises(EngineError, match=sentence):
        check_recipe(tiny_base, *parts.values())


def test_no_space_names_the_bytes(tmp_path):
    with pytest.raises(EngineError, match=r"a model needs .*\(1152921504606846976 bytes\)"):
        check_space(tmp_path, 2**60, "a model")


def test_half_written_checkpoint_never_counts(tmp_path):
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}/weights").write_text("x" * step)
    mark_complete(tmp_path / "checkpoint-2")
    mark_complete(tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4/weights").write_text("x")  # cut short
    assert not is_complete(tmp_path / "checkpoint-4")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]


def test_only_finished_candidates_are_pruned(tmp_path):
    for name in ("done", "interrupted", "ours"):
        (tmp_path / name).mkdir()
    mark_done(tmp_path / "done", {})
    mark_done(tmp_path / "ours", {})
    assert prune_done(tmp_path, keep="ours") == ["done"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["interrupted", "ours"]
