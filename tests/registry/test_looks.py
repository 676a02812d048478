"""The looks at a test set: counted in the ledger, idempotent, shared, kept through kills, and spent."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from medtune.registry import looks
from medtune.registry.ledger import Ledger, open_ledger, read_ledger
from medtune.registry.looks import read_looks, take_look, take_over

TEST = "ab" * 32
MODEL = "medgpt-ko"


@pytest.fixture
def root(tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MEDTUNE_LEDGER_URI", raising=False)
    return checkout(tmp_path / "checkout", fresh_store)


def checkout(root: Path, store: Path) -> Path:
    (root / "mlruns").mkdir(parents=True)
    shutil.copy(store, root / "mlruns/mlflow.db")
    return root


def take(root: Path, key: str, of: int = 3, alpha: float = 0.05, model: str = MODEL) -> bool:
    return take_look(root, open_ledger(root), model, TEST, key, version(key), None, alpha, of)


def version(key: str) -> str:
    return (key.encode().hex() * 64)[:64]


def left(root: Path, of: int = 3, alpha: float = 0.05) -> int:
    return read_looks(root, read_ledger(root), TEST, alpha, of).left


def looked(root: Path) -> list:
    ledger = read_ledger(root)
    return ledger.events(kinds={"looked"}) if ledger else []


def test_a_budget_is_spent_look_by_look(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert left(tmp_path / "empty") == 3
    assert list((tmp_path / "empty").iterdir()) == []  # reading makes nothing
    assert [take(root, key) for key in "abcd"] == [True, True, True, False]
    found = read_looks(root, read_ledger(root), TEST, 0.05, 3)
    assert (found.used, found.left, found.of) == (3, 0, 3)
    assert found.sentence == "test set abababababab: 3 of 3 looks used, 0 left; new rows make a new test set"
    events = looked(root)
    assert len(events) == 3  # a refused look is none
    assert (events[0].model, events[0].version) == (MODEL, version("a"))
    assert events[0].body == {"key": "a", "test": TEST, "champion": None, "alpha": pytest.approx(0.05 / 3)}
    assert take_look(root, open_ledger(root), MODEL, "cd" * 32, "d", version("d"), None, 0.05, 3)  # has its own
    assert open_ledger(root).verify() == 4


def test_the_same_decision_again_costs_nothing(root: Path) -> None:
    assert take(root, "a", of=1)
    before = looked(root)
    assert take(root, "a", of=1)
    assert looked(root) == before


def test_raising_the_looks_gives_back_nothing_that_was_spent(root: Path, tmp_path: Path, fresh_store: Path) -> None:
    assert [take(root, key, of=4) for key in "abcd"] == [True] * 4
    assert left(root, of=100) == 0  # the whole of alpha is spent
    assert left(root, of=4, alpha=0.1) == 2  # who doubles alpha says so in the policy
    half = checkout(tmp_path / "half", fresh_store)
    take(half, "a", of=2)
    assert left(half, of=20) == 10


def test_another_model_wears_the_same_rows_out(root: Path) -> None:
    """Two bases, two registered models, one test split: what one has seen of the rows the other's choice rests on."""
    assert take(root, "a", of=2)
    assert take(root, "b", of=2, model="medgpt-small")
    assert not take(root, "c", of=2)


def _take_one(root: Path, key: str, gate: Any, taken: Any) -> None:
    gate.wait()
    taken.put((key, take(root, key)))
    taken.close()
    taken.join_thread()  # the answer is on its way
    os._exit(0)  # the rest of a test process, with its threads and servers, is not this child's to take down


def test_two_checkouts_share_one_budget_and_race_for_its_last_looks(
    tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (checkout(tmp_path / name, fresh_store) for name in ("one", "other"))
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{tmp_path / 'ledger.db'}")
    context = multiprocessing.get_context("fork")
    gate, taken = context.Event(), context.Queue()
    keys = "abcdefgh"
    processes = [
        context.Process(target=_take_one, args=((one, other)[n % 2], key, gate, taken)) for n, key in enumerate(keys)
    ]
    for process in processes:
        process.start()
    gate.set()
    answers = dict(taken.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sum(answers.values()) == 3
    assert {event.body["key"] for event in looked(one)} == {key for key, took in answers.items() if took}
    assert looked(one) == looked(other)
    assert (left(one), left(other)) == (0, 0)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_after_the_commit(root: Path) -> None:
    take(root, "a")
    _die()


def _die_before_the_commit(root: Path) -> None:
    looks._budget = _die  # counted inside the transaction, before anything is written
    take(root, "a")


def _die_before_the_rename(root: Path) -> None:
    replace = os.replace
    os.replace = lambda source, target: _die() if str(target).endswith(".moved") else replace(source, target)
    take_over(root, open_ledger(root), MODEL)


def _die_between_two_lines(root: Path) -> None:
    append, calls = Ledger.append, []

    def second(self: Ledger, *arguments: object, **named: object) -> object:
        calls.append(1)
        return append(self, *arguments, **named) if len(calls) < 2 else _die()

    Ledger.append = second
    take_over(root, open_ledger(root), MODEL)


def killed(target: object, root: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=target, args=(root,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def test_a_kill_after_the_look_is_written_gives_no_free_one(root: Path) -> None:
    open_ledger(root)
    killed(_die_after_the_commit, root)
    assert left(root) == 2
    assert take(root, "a")
    assert left(root) == 2


def test_a_kill_before_it_is_written_costs_nothing_and_blocks_nobody(root: Path) -> None:
    open_ledger(root)
    killed(_die_before_the_commit, root)
    assert left(root) == 3
    assert take(root, "b")
    assert open_ledger(root).verify() == 1


# Looks of before the ledger


def old(root: Path, text: str, test: str = TEST) -> Path:
    path = root / "mlruns/looks" / f"{test}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def line(key: str, **other: object) -> str:
    kept = {"schema": 1, "key": key, "version": version(key), "champion": None, "alpha": 0.05 / 3, "at": "2026-10-01"}
    return json.dumps({**kept, **other}) + "\n"


def test_looks_of_old_files_are_taken_over_once(root: Path) -> None:
    path = old(root, line("a") + line("b", champion="cd" * 32))
    other = old(root, line("x"), "ef" * 32)
    assert left(root) == 1  # counted where they lie
    assert looked(root) == []
    assert take(root, "a")  # known: the same decision again
    assert [(event.body["key"], event.body["at"], event.version) for event in looked(root)] == [
        ("a", "2026-10-01", version("a")),
        ("b", "2026-10-01", version("b")),
        ("x", "2026-10-01", version("x")),
    ]
    assert looked(root)[1].body["champion"] == "cd" * 32
    assert not path.exists()
    assert not other.exists()
    assert len(list(path.parent.glob("*.jsonl.moved"))) == 2
    assert left(root) == 1
    assert [take(root, key) for key in "cd"] == [True, False]
    assert take_over(root, open_ledger(root), MODEL) == 0


def test_two_checkouts_bring_their_looks_together(
    tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (checkout(tmp_path / name, fresh_store) for name in ("one", "other"))
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{tmp_path / 'ledger.db'}")
    old(one, line("a") + line("b"))
    old(other, line("b") + line("c"))  # the same decision in both is one look
    assert take(one, "a")
    assert (left(one), left(other)) == (1, 0)
    assert not take(other, "d")
    assert left(one) == 0


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_line_is_no_look(root: Path, cut: int) -> None:
    old(root, line("a") + line("b")[:cut])
    assert left(root) == 2
    assert take_over(root, open_ledger(root), MODEL) == 1
    assert left(root) == 2


def test_a_damaged_line_counts(root: Path) -> None:
    old(root, f"{line('a')[:30]}\n{line('b')}")
    assert left(root) == 1
    assert take_over(root, open_ledger(root), MODEL) == 2
    assert left(root) == 1
    old(root, '{"key": "c", "alpha": -5}\nnull\n', "cd" * 32)
    assert read_looks(root, read_ledger(root), "cd" * 32, 0.05, 3).left == 1
    assert take_over(root, open_ledger(root), MODEL) == 2
    assert read_looks(root, read_ledger(root), "cd" * 32, 0.05, 3).left == 1


@pytest.mark.parametrize("kill", [_die_before_the_rename, _die_between_two_lines])
def test_a_kill_while_taking_over_doubles_and_loses_nothing(root: Path, kill: object) -> None:
    open_ledger(root)
    old(root, line("a") + line("b"))
    killed(kill, root)
    assert left(root) == 1
    take_over(root, open_ledger(root), MODEL)
    assert sorted(event.body["key"] for event in looked(root)) == ["a", "b"]
    assert left(root) == 1
