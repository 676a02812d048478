"""One store, made once, however many ask for it at the same time and from wherever."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from medtune.params.errors import RegistryError
from medtune.tracking.store import connect, open_store


@pytest.fixture(autouse=True)
def no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def first_use(root: Path, name: str, gate, answers) -> None:
    """What eight terminals do at once on a fresh checkout."""
    try:
        gate.wait(60)
        client = connect(open_store(root))
        answers.put((name, client.create_experiment(name), len(client.search_experiments())))
        status = 0
    except BaseException as error:
        answers.put((name, None, repr(error)))
        status = 1
    answers.close()
    answers.join_thread()
    os._exit(status)  # a forked test runner must not run its own exit handlers (under xdist they fail)


@pytest.mark.slow
def test_eight_processes_on_a_fresh_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(8), context.Queue()
    workers = [context.Process(target=first_use, args=(tmp_path, f"e{n}", gate, answers)) for n in range(8)]
    for worker in workers:
        worker.start()
    said = [answers.get(timeout=240) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 8, said
    assert len({number for _, number, _ in said}) == 8
    left = sorted(path.name for path in (tmp_path / "mlruns").iterdir())
    assert left == ["mlflow.db", "mlflow.db.lock"]
    # nobody may have found, or made, half a database
    with sqlite3.connect(tmp_path / "mlruns/mlflow.db") as database:
        assert database.execute("select count(*) from experiments").fetchone()[0] == 9


def test_the_uri_holds_from_any_directory(tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)
    uri = open_store()
    monkeypatch.chdir(tmp_path)
    assert uri == f"sqlite:///{fresh}/mlruns/mlflow.db"
    assert [e.name for e in connect(uri).search_experiments()] == ["Default"]
    assert list(tmp_path.iterdir()) == []  # MLflow makes an mlruns of its own where it is let


def test_default_artifacts_lie_beside_the_database(fresh: Path) -> None:
    location = connect(open_store(fresh)).get_experiment("0").artifact_location
    assert location == (fresh / "mlruns/artifacts/0").as_uri()


def test_environment_wins(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert open_store(tmp_path) == "http://127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{fresh}/mlruns/mlflow.db")
    assert open_store(tmp_path) == f"sqlite:///{fresh}/mlruns/mlflow.db"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/mlflow.db").touch()  # what a SQLite client leaves that looks too early
    (tmp_path / "mlruns/.mlflow.db.making-1").write_bytes(b"half")  # and what a kill leaves
    assert len(connect(open_store(tmp_path)).search_experiments()) == 1
    assert not (tmp_path / "mlruns/.mlflow.db.making-1").exists()


def test_a_path_that_is_no_url(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"path with '\?'"):
        open_store(tmp_path / "what?")


def test_nothing_is_sent_and_no_pickle_opened(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from medtune.tracking.store import harden_environment, open_store\n"
        "harden_environment()\n"
        "import mlflow; from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION as p\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled(), p.get())"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DO_NOT"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
