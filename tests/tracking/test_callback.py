"""The callback in a real Trainer: live points, no duplicates after a restart, and no harm from a store that is away."""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine.tiny import job, write_tokens
from servers.processes import free_port, start, wait_for
from transformers import Trainer, TrainerCallback, TrainingArguments

from medtune.engine.train import run as train_job
from medtune.params.errors import RegistryError
from medtune.tracking import callback as module
from medtune.tracking.callback import MlflowCallback
from medtune.tracking.holder import ENDED, SEEN, TRAINED, read_holder
from medtune.tracking.runs import Candidate, candidate_run, log_curve, send_unsent, unsent_file
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
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    with caplog.at_level(logging.WARNING, "medtune"):
        away = candidate("2", f"http://127.0.0.1:{free_port()}")
        trainer = train(tmp_path, MlflowCallback(away.uri, None, away, tmp_path), 3)
    assert trainer.state.global_step == 3
    said = [record.message for record in caplog.records if "MLflow does not take the figures" in record.message]
    assert len(said) == 1
    assert "register sends the rest" in caplog.text
    kept = [json.loads(line) for line in unsent_file(tmp_path, "2" * 64).read_text().splitlines()]
    assert [(key, step) for key, _, _, step in kept if key == "loss"] == [("loss", 1), ("loss", 2), ("loss", 3)]


def test_a_run_that_is_gone_does_not_stop_training(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    with caplog.at_level(logging.WARNING, "medtune"):
        trainer = train(tmp_path, MlflowCallback(uri, "0" * 32, root=tmp_path), 3)
    assert trainer.state.global_step == 3
    assert "training goes on" in caplog.text


def test_a_run_deleted_in_training_is_made_anew(uri: str, tmp_path: Path) -> None:
    wanted = candidate("3", uri)
    run = wanted.open()
    connect(uri).delete_run(run)
    train(tmp_path, MlflowCallback(uri, run, wanted, tmp_path), 3)
    assert wanted.open() != run
    assert steps_of(uri, wanted.open(), "loss") == [1, 2, 3]
    assert not unsent_file(tmp_path, wanted.digest).exists()


def test_signs_of_life_and_the_end_of_training(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was ended while we lived is ours again; what reached its last step says so."""
    monkeypatch.setattr(module, "BEAT", 0.05)
    wanted = candidate("4", uri)
    run, client = wanted.open(), connect(uri)
    first = read_holder(client.get_run(run).data.tags)
    assert first.pid == os.getpid()
    assert first.near
    client.set_tag(run, ENDED, "taken for dead")
    client.set_tag(run, SEEN, "2020-01-01T00:00:00+00:00")
    client.set_terminated(run, "KILLED")
    train(tmp_path, MlflowCallback(uri, run, wanted, tmp_path), 3)
    found = client.get_run(run)
    assert found.info.status == "RUNNING"
    assert ENDED not in found.data.tags
    assert read_holder(found.data.tags).seen >= first.seen
    assert TRAINED in found.data.tags


def candidate(digit: str, uri: str) -> Candidate:
    return Candidate(uri, "medtune", digit * 64, f"candidate {digit}")


class Server:
    """`mlflow server` behind a port of ours: `cut` refuses calls there and drops those under way, as a server that is
    killed does; `join` answers again. MLflow's own server takes many seconds to start, and starts once."""

    def __init__(self, folder: Path) -> None:
        own, self.port, self.log = free_port(), free_port(), folder / "server.log"
        self.own, self.uri = ("127.0.0.1", own), f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", open_store(folder)]
        command += ["--workers", "1", "--host", "127.0.0.1", "--port", str(own)]
        self.process = start(command, self.log)
        self.lines: list[socket.socket] = []
        self.door: socket.socket | None = None
        self.join()
        wait_for(self.answers, self.process, self.log)

    def answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200
        except OSError:
            return False

    def join(self) -> None:
        self.door = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._let_in, args=(self.door,), daemon=True).start()

    def cut(self) -> None:
        """Nothing comes through after this, also on connections that stand."""
        door, self.door = self.door, None
        for line in (door, *self.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
        self.lines.clear()

    def _let_in(self, door: socket.socket) -> None:
        while True:
            try:
                caller = door.accept()[0]
                other = socket.create_connection(self.own)
            except OSError:
                if self.door is not door:
                    return
                caller.close()  # the server does not listen yet
                continue
            self.lines += [caller, other]
            if self.door is not door:  # cut in this moment
                caller.close()
                other.close()
                return
            for pair in ((caller, other), (other, caller)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def server(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Server(fresh)
    yield made
    if made.door:
        made.cut()
    os.killpg(made.process.pid, signal.SIGKILL)
    made.process.wait()


class AtStep(TrainerCallback):
    """Does something at the end of a step, once."""

    def __init__(self, **actions) -> None:
        self.actions = {int(name[1:]): action for name, action in actions.items()}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.actions.pop(state.global_step, lambda: None)()


def test_a_server_that_goes_away_in_training(
    server: Server, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Away from step 2 to the end: training goes on, figures lie in a file, and register has them all, live ones too.
    Then away from step 2 to step 4: they arrive by themselves."""
    tokens = write_tokens(tiny_base, tmp_path / "tokens", train=12, validation=2)
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    wanted = candidate("5", server.uri)
    run = wanted.open_soon()
    live = MlflowCallback(server.uri, run, wanted, tmp_path)
    made = train_job(job(tiny_base, tokens, tmp_path / "a", max_steps=6), [AtStep(_2=server.cut), live])
    assert made["steps"] == 6
    kept = unsent_file(tmp_path, wanted.digest)
    assert kept.exists()

    server.join()
    written = {json.loads(line)[0] for line in kept.read_text().splitlines()}
    assert {"loss", "tflops", "tokens_per_second"} <= written
    with kept.open("a") as file:
        file.write('["loss", 1.0, 17')  # cut short by a kill
    assert send_unsent(server.uri, run, kept) > 0
    assert not kept.exists()
    history = [json.loads(line) for line in (tmp_path / "a/adapter/history.jsonl").read_text().splitlines()]
    log_curve(server.uri, run, history)
    logged = [line["step"] for line in history if "loss" in line]
    for key in ("loss", "learning_rate", "tflops", "tokens_per_second"):
        assert steps_of(server.uri, run, key) == logged, key
    assert send_unsent(server.uri, run, kept) == 0

    monkeypatch.setattr(module, "PATIENCE", 30.0)
    monkeypatch.setattr(module, "BACKOFF", (0.2, 0.5))
    again = candidate("6", server.uri)
    live = MlflowCallback(server.uri, again.open_soon(), again, tmp_path)
    steps = AtStep(_2=server.cut, _3=lambda: time.sleep(1), _4=server.join)
    with caplog.at_level(logging.WARNING, "medtune"):
        train_job(job(tiny_base, tokens, tmp_path / "b", max_steps=6), [steps, live])
    assert "MLflow answers again" in caplog.text
    assert steps_of(server.uri, again.open(), "tflops") == logged
    assert not unsent_file(tmp_path, again.digest).exists()


def test_a_store_that_is_away_at_the_start(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on without a run, and says so; one that refuses us is for a person to mend first."""
    away = candidate("7", f"http://127.0.0.1:{free_port()}")
    assert away.open_soon(attempts=2, wait=0.01) is None
    assert "training goes on without it" in capsys.readouterr().out
    with pytest.raises(RegistryError, match="64 hexadecimal digits"):
        Candidate(away.uri, "medtune", "none", "none").open_soon()
