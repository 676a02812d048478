"""The ledger: append-only, chained, one writer at a time, and what it tells of it when somebody wrote past it."""

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry_checkout import digest

from medtune.params.errors import RegistryError
from medtune.registry.ledger import TABLE, Ledger, ledger_uri, open_ledger, read_ledger
from medtune.registry.promotion import Conflict, crown
from medtune.registry.standing import champion, previous_champions, resolve, standings

MODEL = "medgpt-ko"


@pytest.fixture
def root(tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MEDTUNE_LEDGER_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/mlflow.db").write_bytes(fresh_store.read_bytes())
    return tmp_path


def add(ledger: Ledger, name: str, number: int, decision: str | None = "approved") -> str:
    version = digest(f"version {name}")
    ledger.append("registered", MODEL, version, {"numbers": {"merged": number, "adapter": number}, "manifest": "m"})
    if decision:
        ledger.append(decision, MODEL, version, {"key": "k", "against": None})
    return version


def edit(root: Path, statement: str) -> None:
    """Past the triggers, as somebody with the database file can."""
    with sqlite3.connect(root / "mlruns/mlflow.db") as database:
        for verb in ("UPDATE", "DELETE"):
            database.execute(f"DROP TRIGGER IF EXISTS {TABLE}_no_{verb}")
        database.execute(statement)


def test_events_come_back_as_they_were_appended(root: Path) -> None:
    ledger = open_ledger(root)
    first = ledger.append(
        "registered", MODEL, digest("a"), {"이유": "첫 번째", "nested": {"n": [1, 2.5, None]}}, "지민"
    )
    second = ledger.append("approved", MODEL, digest("a"))
    assert ledger.events() == [first, second]
    assert (first.seq, second.seq, second.previous) == (1, 2, first.digest)
    assert first.body["이유"] == "첫 번째"
    assert first.actor == "지민"
    assert [event.body for event in ledger.events(bodies=False)] == [{}, {}]
    assert ledger.events(kinds={"approved"}) == [second]
    assert ledger.events("another") == []
    assert ledger.events(until=first.at) == [first]
    assert ledger.verify() == 2
    assert read_ledger(root).events() == [first, second]


def test_a_reader_makes_nothing(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_unknown_kinds_and_huge_bodies_are_refused(root: Path) -> None:
    ledger = open_ledger(root)
    with pytest.raises(RegistryError, match="no event 'crowned'"):
        ledger.append("crowned", MODEL)
    with pytest.raises(RegistryError, match="characters"):
        ledger.append("waiver", MODEL, body={"reason": "x" * 4_000_001})
    assert ledger.events() == []


def test_update_and_delete_are_refused_by_the_database(root: Path) -> None:
    open_ledger(root).append("registered", MODEL, digest("a"))
    for statement in (f"UPDATE {TABLE} SET actor = 'x'", f"DELETE FROM {TABLE}"):
        with sqlite3.connect(root / "mlruns/mlflow.db") as database, pytest.raises(sqlite3.IntegrityError):
            database.execute(statement)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE {} SET body = replace(body, 'ok', 'no') WHERE seq = 2", "row 2 .*was edited"),
        ("UPDATE {} SET actor = 'somebody' WHERE seq = 1", "row 1 .*was edited"),
        ("UPDATE {} SET body = '{{' WHERE seq = 2", "row 2 was edited"),
        ("DELETE FROM {} WHERE seq = 2", "row 2 is missing"),
        ("DELETE FROM {} WHERE seq = 1", "row 1 is missing"),
        ("DELETE FROM {} WHERE seq = 3", "only 2 rows: rows were cut off"),
        ("UPDATE {} SET schema_version = 9 WHERE seq = 3", "row 3 has schema 9"),
    ],
)
def test_what_somebody_wrote_past_it_is_found(root: Path, statement: str, told: str) -> None:
    ledger = open_ledger(root)
    for number in range(3):
        ledger.append("waiver", MODEL, digest("a"), {"reason": f"ok {number}"})
    assert ledger.verify() == 3
    edit(root, statement.format(TABLE))
    with pytest.raises(RegistryError, match=told):
        ledger.verify()


def test_a_rewritten_chain_is_found_by_the_checkout_that_saw_it(root: Path, tmp_path: Path) -> None:
    """Whoever recomputes every digest makes a sound chain, and another last row than the one that was seen."""
    ledger = open_ledger(root)
    for number in range(2):
        ledger.append("waiver", MODEL, digest("a"), {"reason": f"{number}"})
    forged = tmp_path / "forged"
    (forged / "mlruns").mkdir(parents=True)
    other = open_ledger(forged)
    for number in range(2):
        other.append("waiver", MODEL, digest("a"), {"reason": f"forged {number}"})
    assert other.verify() == 2
    (root / "mlruns/mlflow.db").write_bytes((forged / "mlruns/mlflow.db").read_bytes())
    with pytest.raises(RegistryError, match="another one in its place"):
        open_ledger(root).verify()


def test_eight_writers_on_a_fresh_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{tmp_path}/of/its/own/ledger.db")
    start = threading.Barrier(8)

    def write(writer: int) -> None:
        start.wait()
        ledger = open_ledger(tmp_path)
        for number in range(5):
            ledger.append("waiver", MODEL, body={"writer": writer, "number": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    ledger = open_ledger(tmp_path)
    assert ledger.verify() == 40
    assert {(e.body["writer"], e.body["number"]) for e in ledger.events()} == {
        (w, n) for w in range(8) for n in range(5)
    }


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MEDTUNE_LEDGER_URI", raising=False)
    assert ledger_uri(tmp_path) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    with pytest.raises(RegistryError, match="set MEDTUNE_LEDGER_URI"):
        ledger_uri(tmp_path)
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", "postgresql://medtune@db/mlflow")
    assert ledger_uri(tmp_path) == "postgresql+psycopg://medtune@db/mlflow"
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", "mysql://medtune@db/mlflow")
    with pytest.raises(RegistryError, match="SQLite or PostgreSQL"):
        ledger_uri(tmp_path)


def test_champion_of_any_moment(root: Path) -> None:
    ledger = open_ledger(root)
    a, b = add(ledger, "a", 1), add(ledger, "b", 2)
    assert champion(ledger, MODEL) is None
    of = standings(ledger, MODEL)
    first = crown(ledger, MODEL, "promoted", of[a], None, {"by": "x"}, "x")
    second = crown(ledger, MODEL, "promoted", of[b], a, {"by": "x"}, "x")
    assert champion(ledger, MODEL) == second
    assert champion(ledger, MODEL, first.at) == first
    assert champion(ledger, MODEL, "2020-01-01") is None
    assert previous_champions(ledger, MODEL) == [a]


def test_the_loser_of_a_race_is_told_who_won(root: Path) -> None:
    ledger = open_ledger(root)
    a, b, c = (add(ledger, name, number) for number, name in enumerate("abc", start=1))
    of = standings(ledger, MODEL)
    crown(ledger, MODEL, "promoted", of[a], None, {}, "x")
    winner = crown(ledger, MODEL, "promoted", of[b], a, {}, "지민")
    with pytest.raises(Conflict, match=rf"version 2 \({b[:12]}\) became champion at .*made so by 지민") as caught:
        crown(ledger, MODEL, "promoted", of[c], a, {}, "x")
    assert caught.value.winner == winner
    assert champion(ledger, MODEL) == winner


def test_versions_are_named_by_number_or_digest(root: Path) -> None:
    ledger = open_ledger(root)
    with pytest.raises(RegistryError, match="no version yet"):
        resolve(ledger, MODEL, "1")
    a, b = add(ledger, "a", 1), add(ledger, "b", 2)
    assert resolve(ledger, MODEL, "2").version == b
    assert resolve(ledger, MODEL, "v1").version == a
    assert resolve(ledger, MODEL, a[:6]).version == a
    assert resolve(ledger, MODEL, a.upper()).version == a
    for text in ("3", a[:5], "x", "", "1; DROP TABLE", "../1", "９"):
        with pytest.raises(RegistryError, match="has no version"):
            resolve(ledger, MODEL, text)


def test_bodies_are_plain_json_in_the_table(root: Path) -> None:
    """What another tool reads with plain SQL."""
    open_ledger(root).append("waiver", MODEL, digest("a"), {"reason": "허가"})
    with sqlite3.connect(root / "mlruns/mlflow.db") as database:
        (row,) = database.execute(f"SELECT schema_version, event, body FROM {TABLE}")
    assert row[:2] == (1, "waiver")
    assert json.loads(row[2]) == {"reason": "허가"}
