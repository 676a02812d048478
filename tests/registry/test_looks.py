"""The looks at a test set: counted, idempotent, kept through kills, and spent."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from medtune.registry.looks import read_looks, take_look

TEST = "ab" * 32


def take(root: Path, key: str, of: int = 3, alpha: float = 0.05) -> bool:
    return take_look(root, TEST, key, f"version of {key}", None, alpha, of)


def file(root: Path) -> Path:
    return root / "mlruns/looks" / f"{TEST}.jsonl"


def left(root: Path, of: int = 3, alpha: float = 0.05) -> int:
    return read_looks(root, TEST, alpha, of).left


def test_a_budget_is_spent_look_by_look(tmp_path: Path) -> None:
    assert left(tmp_path) == 3
    assert list(tmp_path.iterdir()) == []  # reading makes nothing
    assert [take(tmp_path, key) for key in "abcd"] == [True, True, True, False]
    looks = read_looks(tmp_path, TEST, 0.05, 3)
    assert (looks.used, looks.left, looks.of) == (3, 0, 3)
    assert looks.sentence == "test set abababababab: 3 of 3 looks used, 0 left; new rows make a new test set"
    assert len(file(tmp_path).read_text().splitlines()) == 3  # a refused look is none
    line = json.loads(file(tmp_path).read_text().splitlines()[0])
    assert (line["key"], line["version"], line["champion"]) == ("a", "version of a", None)
    assert line["alpha"] == pytest.approx(0.05 / 3)
    assert take_look(tmp_path, "cd" * 32, "d", "v", None, 0.05, 3)  # another test set has its own


def test_the_same_decision_again_costs_nothing(tmp_path: Path) -> None:
    assert take(tmp_path, "a", of=1)
    before = file(tmp_path).read_bytes()
    assert take(tmp_path, "a", of=1)
    assert file(tmp_path).read_bytes() == before


def test_raising_the_looks_gives_back_nothing_that_was_spent(tmp_path: Path) -> None:
    assert [take(tmp_path, key, of=4) for key in "abcd"] == [True] * 4
    assert left(tmp_path, of=100) == 0  # the whole of alpha is spent
    assert left(tmp_path, of=4, alpha=0.1) == 2  # who doubles alpha says so in the policy
    (tmp_path / "half").mkdir()
    take(tmp_path / "half", "a", of=2)
    assert left(tmp_path / "half", of=20) == 10


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_line_is_no_look_and_is_written_over(tmp_path: Path, cut: int) -> None:
    take(tmp_path, "a")
    whole = file(tmp_path).read_bytes()
    take(tmp_path, "b")
    file(tmp_path).write_bytes(file(tmp_path).read_bytes()[: len(whole) + cut])
    assert left(tmp_path) == 2
    assert take(tmp_path, "b")
    assert [json.loads(line)["key"] for line in file(tmp_path).read_text().splitlines()] == ["a", "b"]


def test_a_damaged_line_counts(tmp_path: Path) -> None:
    for key in "ab":
        take(tmp_path, key)
    first, second = file(tmp_path).read_text().splitlines()
    file(tmp_path).write_text(f"{first[:30]}\n{second}\n")
    assert left(tmp_path) == 1
    file(tmp_path).write_text('{"key": "a", "alpha": -5}\nnull\n')
    assert left(tmp_path) == 1


def _die_after_writing(root: Path) -> None:
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    take(root, "a")


def test_a_kill_after_the_line_is_written_gives_no_free_look(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_die_after_writing, args=(tmp_path,))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert left(tmp_path) == 2
    assert take(tmp_path, "a")
    assert left(tmp_path) == 2
