"""MLflow's tables in PostgreSQL, straight and without a server: made once, and its passwords shown to nobody."""

import multiprocessing
import os
import traceback
from pathlib import Path

import pytest

from medtune.params.errors import RegistryError
from medtune.tracking.runs import candidate_run
from medtune.tracking.store import connect, open_store


def first_use(root: Path, name: str, gate, answers) -> None:
    try:
        gate.wait(120)
        client = connect(open_store(root))
        answers.put((name, client.create_experiment(name), len(client.search_experiments())))
        status = 0
    except BaseException as error:
        answers.put((name, None, repr(error)))
        status = 1
    answers.close()
    answers.join_thread()
    os._exit(status)


@pytest.mark.slow
def test_eight_processes_on_a_fresh_database(postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.create("eight"))
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(8), context.Queue()
    workers = [context.Process(target=first_use, args=(tmp_path, f"e{n}", gate, answers)) for n in range(8)]
    for worker in workers:
        worker.start()
    said = [answers.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 8, said
    assert len({number for _, number, _ in said}) == 8
    with psycopg.connect(postgres.uri("eight").replace("+psycopg", "")) as connection:
        assert connection.execute("select count(*) from experiments").fetchone() == (9,)
        assert connection.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)
    # any spelling of the address finds the same, made, store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri("eight").replace("+psycopg", ""))
    uri = open_store(tmp_path)
    assert uri == postgres.uri("eight")
    monkeypatch.chdir(tmp_path)
    run = connect(uri).get_run(candidate_run(uri, "direct", "a" * 64, "n"))
    assert run.info.artifact_uri.startswith((tmp_path / "mlruns/artifacts/runs/direct").as_uri())


@pytest.mark.parametrize("secret", ["s3cret-and-wrong", "s3c%40ret/wrong"])
def test_a_wrong_password(postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri("postgres", secret))
    with pytest.raises(RegistryError, match=r"refuses user or password.*PGPASSWORD") as told:
        open_store(tmp_path)
    assert "s3c" not in str(told.value)
    assert "s3c" not in "".join(traceback.format_exception(told.value))


def test_a_ledger_with_a_wrong_password(postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    from medtune.registry.ledger import open_ledger

    monkeypatch.setenv("MEDTUNE_LEDGER_URI", postgres.uri("postgres", "s3cret-and-wrong"))
    with pytest.raises((RegistryError, OperationalError), match="password") as told:
        open_ledger(tmp_path)
    assert "s3cret" not in "".join(traceback.format_exception(told.value))
