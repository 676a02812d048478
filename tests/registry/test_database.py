"""One way to speak to SQLite and PostgreSQL: the same statements, the same results, errors that are sentences."""

import sqlite3
from pathlib import Path

import pytest
from servers.conftest import postgres  # noqa: F401 - a fixture

from medtune.params.errors import RegistryError
from medtune.registry.database import Unanswered, engine


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'a.db'}"
    # as people write it: the driver is ours to choose
    made = request.getfixturevalue("postgres").create(f"database_{tmp_path.name.lower()}"[:60])
    return made.replace("postgresql+psycopg:", "postgresql:")


def ask(uri: str, statement: str) -> None:
    with engine(uri).connect() as connection:
        connection.execute(statement)


def test_statements(uri: str) -> None:
    with engine(uri).connect() as connection:
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, word TEXT)")
        for n, word in enumerate(("하나", "둘: :x", "100 %s", "it's"), start=1):
            assert connection.execute("INSERT INTO t VALUES (:n, :word)", {"n": n, "word": word}).rowcount == 1
        connection.execute("BEGIN")
        assert connection.execute("UPDATE t SET word = 'x' WHERE n > :n", {"n": 1}).rowcount == 3
        connection.execute("ROLLBACK")
    with engine(uri).connect() as connection:  # each statement outside a transaction was kept
        rows = connection.execute("SELECT n, word FROM t WHERE n IN (:a, :b, :c) ORDER BY n", {"a": 2, "b": 3, "c": 4})
        assert [tuple(row) for row in rows] == [(2, "둘: :x"), (3, "100 %s"), (4, "it's")]
        assert connection.execute("SELECT n FROM t WHERE word = :word", {"word": "하나"}).first()[0] == 1
        assert connection.execute("SELECT n FROM t WHERE n = 9").first() is None


def test_a_table_that_is_missing(uri: str) -> None:
    with pytest.raises(Unanswered, match=r"does not answer as it should: .*nothing") as caught:
        ask(uri, "SELECT 1 FROM nothing")
    assert "medtune:pg-" not in str(caught.value)


def test_what_a_caller_raises_comes_through(uri: str) -> None:
    def fail() -> None:
        with engine(uri).connect() as connection:
            connection.execute("SELECT 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_constraint_is_the_callers_business(tmp_path: Path) -> None:
    with engine(f"sqlite:///{tmp_path / 'a.db'}").connect() as connection:
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO t VALUES (1)")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database, and long enough to be read as one " * 50)
    with pytest.raises(Unanswered, match=r"a\.db does not answer as it should: file is not a database"):
        ask(f"sqlite:///{tmp_path / 'a.db'}", "SELECT 1 FROM t")
    with pytest.raises(Unanswered, match="cannot be opened"), engine("sqlite:////no/such/folder/a.db").connect():
        pass


def test_a_server_that_is_away_tells_no_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(Unanswered) as caught, engine("postgresql://medtune:geheim@127.0.0.1:1/a").connect():
        pass
    assert "geheim" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("uri", ["postgresql://me:geheim@host:port/a", "oracel://me:geheim@host/a", "geheim"])
def test_an_address_that_is_none_is_a_sentence_without_its_password(uri: str) -> None:
    with pytest.raises(RegistryError, match="of the database cannot be read; write it as postgresql://") as caught:
        ask(uri, "SELECT 1")
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None
