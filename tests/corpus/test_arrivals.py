"""Rows keep the place in which they were first seen."""

import random
from pathlib import Path

import pytest

from medtune.corpus.arrivals import arrival_hash, in_order, read_journal, write_journal
from medtune.params.errors import CorpusError


def rows(*names: str) -> list[tuple[str, dict]]:
    return [(f"a.jsonl:{line}", {"instruction": name, "output": "답"}) for line, name in enumerate(names, 1)]


def names(ordered: list[tuple[str, dict]]) -> list[str]:
    return [row["instruction"] for _, row in ordered]


def test_first_run_keeps_the_order_of_the_files() -> None:
    ordered, new = in_order(rows("다", "가", "나"), [])
    assert names(ordered) == ["다", "가", "나"]
    assert len(new) == 3


def test_old_rows_keep_their_place_whatever_is_inserted() -> None:
    _, journal = in_order(rows("다", "가", "나"), [])
    ordered, new = in_order(rows("새1", "나", "새2", "다", "가"), journal)
    assert names(ordered) == ["다", "가", "나", "새1", "새2"]
    assert names(in_order(rows("가", "새2", "나", "다", "새1"), journal + new)[0]) == ["다", "가", "나", "새1", "새2"]


def test_rows_that_left_and_came_back_keep_their_place() -> None:
    _, journal = in_order(rows("가", "나", "다"), [])
    ordered, new = in_order(rows("라", "다", "가"), journal)
    assert names(ordered) == ["가", "다", "라"]
    assert names(in_order(rows("나", "라", "다", "가"), journal + new)[0]) == ["가", "나", "다", "라"]


def test_repeats_stay_each_in_its_own_place() -> None:
    ordered, journal = in_order(rows("가", "나", "가"), [])
    assert names(ordered) == ["가", "나", "가"]
    assert len(journal) == 3
    ordered, new = in_order(rows("가", "가", "가", "나"), journal)
    assert names(ordered) == ["가", "나", "가", "가"]
    assert len(new) == 1


def test_any_history_of_additions_and_shuffles_keeps_the_order() -> None:
    draw = random.Random(7)
    journal: list[str] = []
    known: list[str] = []
    for _ in range(30):
        known += [f"{len(known) + n}" for n in range(draw.randrange(4))]
        now = draw.sample(known, draw.randrange(len(known) + 1))
        before = names(in_order(rows(*known), journal)[0])
        ordered, new = in_order(rows(*now), journal)
        journal += new
        old = [name for name in before if name in now and arrival_hash(rows(name)[0][1]) not in new]
        assert names(ordered)[: len(old)] == old


def test_hash_sees_the_text_and_not_its_form() -> None:
    assert arrival_hash({"a": "가  나\n", "b": None}) == arrival_hash({"b": None, "a": "\u1100\u1161 나"})
    assert arrival_hash({"a": "가"}) != arrival_hash({"b": "가"})
    assert arrival_hash({"m": [{"v": "가"}]}) != arrival_hash({"m": [{"v": "나"}]})
    assert len(arrival_hash({"a": "\ud83d"})) == 32


def test_journal_is_read_back_and_a_conflict_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data" / "first_seen.txt"
    assert read_journal(path) == []
    _, journal = in_order(rows("가", "나"), [])
    write_journal(path, journal)
    assert read_journal(path) == journal
    path.write_text(f"{journal[0]}\n<<<<<<< HEAD\n{journal[1]}\n")
    with pytest.raises(CorpusError, match=r"first_seen.txt, line 2: '<<<<<<< HEAD' is no hash of a row"):
        read_journal(path)
