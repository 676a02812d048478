"""Speed, memory and padding as the log tells them: counted right, printed, and sent to MLflow."""

import shutil
import time

import pytest
import torch
from registry_checkout import fresh_store  # noqa: F401 - a fixture
from transformers import TrainerCallback, TrainerControl, TrainerState

from engine.test_guard import splits, trainer_of  # noqa: F401 - a fixture
from medtune.engine.batching import PaddingCollator
from medtune.engine.flops import base_parameters, flops_per_token, matmul_ceiling
from medtune.engine.guard import Watched
from medtune.engine.load import load_model
from medtune.engine.lora import attach
from medtune.engine.telemetry import Progress
from medtune.params.lora import Lora

CPU = torch.device("cpu")


def test_base_parameters_are_counted_by_what_they_stand_for(tiny_base):
    from transformers import AutoModelForCausalLM

    whole = sum(w.numel() for w in AutoModelForCausalLM.from_pretrained(tiny_base).parameters())
    for quantization in ("nf4", "none"):
        model = load_model(tiny_base, quantization=quantization, device=CPU, dtype=torch.float32)
        model = attach(model, Lora(r=4, alpha=8, targets="all-linear"), 0)
        assert base_parameters(model) == whole


def test_flops_weigh_recomputation():
    assert flops_per_token(10) == 40
    assert flops_per_token(10, 1.0) == 60
    assert flops_per_token(10, 0.25) == 45


def test_the_ceiling_is_measured_in_less_than_a_second_and_draws_no_random_number():
    state = torch.random.get_rng_state()
    began = time.perf_counter()
    ceiling = matmul_ceiling(CPU, torch.float32)
    assert 0.001 < ceiling < 100
    assert time.perf_counter() - began < 5  # under load; about 0.1 s on a machine of one's own
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_real_run_logs_what_passed(tiny_base, splits, tmp_path, capsys):  # noqa: F811
    parameters = 106_944
    trainer = trainer_of(tiny_base, splits, tmp_path, logging_steps=2, max_steps=4, save_steps=100)
    watched = trainer.data_collator
    progress = Progress(watched, flops_per_token(parameters), ceiling=0.05)

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    seen: list[dict] = []
    trainer.add_callback(progress)
    trainer.add_callback(Tracker())
    trainer.train()
    logs = [entry for entry in seen if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        assert entry["tflops"] == pytest.approx(entry["tokens_per_second"] * 4 * parameters / 1e12)
        assert entry["matmul_share"] == pytest.approx(entry["tflops"] / 0.05)
        assert 0 <= entry["padding_share"] < 0.5
        assert "peak_memory_gib" not in entry  # no GPU
    assert progress.trained == watched.tokens == logs[-1]["num_tokens"]
    printed = capsys.readouterr().out
    assert "matmul ceiling, measured: 0.05 TFLOP/s" in printed
    assert "TFLOP/s (" in printed
    assert "tok/s" in printed


def test_padding_is_a_share_of_what_was_computed(capsys):
    watched = Watched(PaddingCollator(0))
    progress = Progress(watched)
    state, control = TrainerState(global_step=0, max_steps=2), TrainerControl()
    progress.on_train_begin(None, state, control)
    shares = []
    for lengths in ((10, 30), (20, 20)):
        watched([{"input_ids": [0] * n, "labels": [0] * n} for n in lengths])
        watched.consume()
        state.global_step += 1
        progress.on_log(None, state, control, logs=(logs := {"loss": 1.0, "learning_rate": 1.0}))
        shares.append(logs["padding_share"])
    assert shares == [pytest.approx(20 / 60), 0]
    first, second = capsys.readouterr().out.splitlines()
    assert "33% padding" in first
    assert "padding" not in second


def test_all_of_it_reaches_mlflow(fresh_store, tmp_path, monkeypatch):  # noqa: F811
    from medtune.tracking.callback import LIVE, MlflowCallback
    from medtune.tracking.runs import candidate_run
    from medtune.tracking.store import connect, open_store

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(fresh_store, tmp_path / "mlruns")
    uri = open_store(tmp_path)
    run = candidate_run(uri, "medtune", "1" * 64, "a")
    callback, progress = MlflowCallback(uri, run), Progress(ceiling=1.0, flops=4.0)
    state, control = TrainerState(global_step=1, max_steps=1, is_world_process_zero=True), TrainerControl()
    watched = progress.watched = Watched(lambda samples: {"input_ids": torch.zeros(1, 9)})
    for each in (progress, callback):
        each.on_train_begin(None, state, control)
    watched([{"input_ids": [1, 2, 3]}])
    watched.consume()
    logs = {"loss": 1.0, "learning_rate": 1e-3, "grad_norm": 1.0}
    for each in (progress, callback):
        each.on_log(None, state, control, logs=logs)
    callback.on_train_end(None, state, control)
    metrics = connect(uri).get_run(run).data.metrics
    assert set(metrics) == set(LIVE) - {"eval_loss", "peak_memory_gib"}
    assert metrics["padding_share"] == pytest.approx(2 / 3)
