"""Runs, curves and artifacts against a real `mlflow server` with passwords, PostgreSQL and an S3 store behind it."""

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from medtune.params.errors import RegistryError
from medtune.tracking.runs import candidate_run, finish, log_curve, log_record
from medtune.tracking.store import connect, open_store

ROOT = Path(__file__).resolve().parents[2]
LIST = "/api/2.0/mlflow/experiments/search?max_results=1"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_nobody_comes_in_without_a_password(mlflow_server) -> None:
    assert mlflow_server.get(LIST) == 200
    assert mlflow_server.get(LIST, password="") == 401
    assert mlflow_server.get(LIST, password="wrong") == 401
    assert mlflow_server.get("/api/2.0/mlflow-artifacts/artifacts?path=", password="") == 401


def test_run_curve_and_artifacts(server_environment, store, tmp_path: Path) -> None:
    from medtune.tracking.callback import MlflowCallback

    uri = open_store(tmp_path)
    assert uri == server_environment["MLFLOW_TRACKING_URI"]
    run_id = candidate_run(uri, "http", digest("curve"), "candidate", {"medtune.git": "abc"})
    callback = MlflowCallback(uri, run_id)
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    callback.on_train_begin(None, state, None)
    for state.global_step in (1, 2):
        callback.on_log(None, state, None, {"loss": 3.0 / state.global_step, "learning_rate": 1e-3})
    callback.on_train_end(None, state, None)
    history = [{"step": n, "loss": 3.0 / n, "learning_rate": 1e-3} for n in (1, 2, 3)]
    assert log_curve(uri, run_id, history) == 2  # step 3 alone: the live points are there
    params = tmp_path / "params.yaml"
    params.write_text("a: 1\n")
    for _ in range(2):
        log_record(uri, run_id, {"lora.rank": 8}, {"evaluate.nll": 1.5}, {params: ""}, {})
    finish(uri, run_id)
    run = connect(uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lora.rank": "8"}
    assert run.data.metrics["loss"] == 1.0
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert list(store.keys(run_id)) == [f"{run.info.experiment_id}/{run_id}/artifacts/params.yaml"]
    assert list(tmp_path.iterdir()) == [params]  # nothing of the store is here


@pytest.mark.parametrize("hosts", [1, 5])
def test_five_processes_open_one_run(server_environment, tmp_path: Path, hosts: int) -> None:
    """On one host the lock keeps them apart. On five (five temporary folders) they find out afterwards."""
    name = f"race-{hosts}"
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(5), context.Queue()

    def work(number: int) -> None:
        import tempfile

        tempfile.tempdir = str(tmp_path / str(number % hosts))
        Path(tempfile.tempdir).mkdir(exist_ok=True)
        open_run(name, gate, answers, tmp_path)

    workers = [context.Process(target=work, args=(n,)) for n in range(5)]
    for worker in workers:
        worker.start()
    said = [answers.get(timeout=240) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 5, said
    uri = open_store(tmp_path)
    client = connect(uri)
    experiment = client.get_experiment_by_name(name).experiment_id
    left = {run.info.run_id for run in client.search_runs([experiment])}
    again = candidate_run(uri, name, digest(name), "candidate")
    assert left == {again}
    if hosts == 1:
        assert set(said) == {again}
    else:
        assert again in said


def open_run(name: str, gate, answers, root: Path) -> None:
    try:
        gate.wait(120)
        answers.put(candidate_run(open_store(root), name, digest(name), "candidate"))
        status = 0
    except BaseException as error:
        answers.put(repr(error))
        status = 1
    answers.close()
    answers.join_thread()
    os._exit(status)


def test_a_wrong_password_is_a_sentence(server_environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret-and-wrong")
    with pytest.raises(RegistryError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as told:
        candidate_run(open_store(tmp_path), "http", digest("no"), "candidate")
    assert "s3cret" not in str(told.value)


def test_a_password_in_the_address(server_environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = server_environment["MLFLOW_TRACKING_PASSWORD"]
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    address = server_environment["MLFLOW_TRACKING_URI"].replace("://", f"://admin:{password}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    uri = open_store(tmp_path)
    assert password not in uri
    assert password not in os.environ["MLFLOW_TRACKING_URI"]
    assert connect(uri).search_experiments()


GONE = """
import json, os, sys
from medtune.tracking.secrets import guard_output; guard_output()
import mlflow
from medtune.tracking.runs import candidate_run
from medtune.tracking.store import connect, open_store

for mode, address in json.loads(os.environ["CASES"]):
    if os.fork():
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 1
        continue
    os.environ["MLFLOW_TRACKING_URI"] = address
    uri = open_store()
    print(uri)
    if mode == "raw": connect(uri).search_experiments()
    candidate_run(uri, "e", "a" * 64, "n")
"""


def test_a_server_that_is_gone() -> None:
    """Whatever the way out, sentence or traceback, no password stands in it. A process for each, MLflow loaded once."""
    cases = (
        ("sentence", "http://me:s3cret-pw@127.0.0.1:9"),
        ("raw", "http://me:s3cret-pw@127.0.0.1:9"),
        ("raw", "http://s3cret-pw@127.0.0.1:9"),
        ("sentence", "postgresql+psycopg://me:s3cret-pw@127.0.0.1:9/db"),
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
    environment |= {"CASES": json.dumps(cases), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    command = [sys.executable, "-u", "-c", GONE]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "s3cret" not in done.stdout + done.stderr
    assert done.stderr.count("Traceback") >= len(cases), done.stderr[-2000:]
    told = re.findall(r"RegistryError: the tracking store (\S+) does not answer", done.stderr)
    assert {address.partition(":")[0] for address in told} == {"http", "postgresql+psycopg"}, done.stderr[-2000:]
    assert done.stderr.count("MlflowException") >= 2  # the raw ones, with all that they drag along
