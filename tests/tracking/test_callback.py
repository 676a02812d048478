"""The callback in a real Trainer: live points, no duplicates after a restart, and no harm from a store that is away."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from medtune.tracking.callback import MlflowCallback
from medtune.tracking.runs import candidate_run
from medtune.tracking.store import connect, open_store


class Line(torch.nn.Module):
    """One weight; quick enough to train a hundred steps in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict:
        out = self.layer(x)
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}


def train(folder: Path, callback: MlflowCallback, steps: int, resume: bool = False) -> Trainer:
    rows = [{"x": torch.tensor([float(n)]), "labels": torch.tensor([2.0 * n])} for n in range(8)]
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        logging_steps=1,
        save_steps=5,
        eval_steps=5,
        eval_strategy="steps",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        learning_rate=1e-2,
        lr_scheduler_type="constant",  # the same losses whatever number of steps is planned
    )
    trainer = Trainer(Line(), arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture
def uri(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store(fresh)


def steps_of(uri: str, run: str, key: str) -> list[int]:
    return sorted(point.step for point in connect(uri).get_metric_history(run, key))


def test_points_arrive_once_also_after_a_restart(uri: str, tmp_path: Path) -> None:
    run = candidate_run(uri, "medtune", "1" * 64, "a")
    train(tmp_path, MlflowCallback(uri, run), 7)
    # killed after step 7, goes on from the checkpoint of step 5: steps 6 and 7 come again
    (tmp_path / "checkpoint-7").rename(tmp_path / "gone")
    trainer = train(tmp_path, MlflowCallback(uri, run), 10, resume=True)
    assert [line["step"] for line in trainer.state.log_history if "loss" in line][-1] == 10
    for key in ("loss", "learning_rate", "grad_norm"):
        assert steps_of(uri, run, key) == list(range(1, 11)), key
    assert steps_of(uri, run, "eval_loss") == [5, 7, 10]  # the Trainer also evaluates at its end


def test_speed_from_trl_token_counts() -> None:
    callback = MlflowCallback("sqlite:///nowhere", "r")
    callback._last = (0.0, 100.0)
    assert callback._with_speed({"num_tokens": 300.0})["tokens_per_second"] > 0
    assert "tokens_per_second" not in callback._with_speed({"num_tokens": 300.0})  # nothing since
    assert callback._with_speed({"tokens_per_second": 5.0, "num_tokens": 900.0})["tokens_per_second"] == 5.0


def test_a_store_that_is_away_does_not_stop_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING, "medtune"):
        trainer = train(tmp_path, MlflowCallback("http://127.0.0.1:9", "0" * 32), 3)
    assert trainer.state.global_step == 3
    said = [record.message for record in caplog.records if "MLflow does not take the curve" in record.message]
    assert len(said) == 1


def test_a_run_that_is_gone_does_not_stop_training(uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medtune"):
        trainer = train(tmp_path, MlflowCallback(uri, "0" * 32), 3)
    assert trainer.state.global_step == 3
    assert "training goes on" in caplog.text
