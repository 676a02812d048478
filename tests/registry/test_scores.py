"""Candidate and champion on the same rows."""

import json
from pathlib import Path

import pytest

from medtune.registry.scores import compare, keep_scores


def row(name: str, nll: float, chars: int = 10) -> dict:
    return {"row_id": name, "cluster": name, "nll": nll, "tokens": 3, "chars": chars, "eos_after_reference": True}


def test_mean_is_by_character_over_shared_rows() -> None:
    ours = [row("a", 10.0, 10), row("b", 60.0, 20), row("only ours", 1e9)]
    theirs = [row("b", 30.0, 20), row("a", 20.0, 10), row("only theirs", 1e9)]
    assert compare(ours, theirs) == {
        "rows": 2,
        "total": 3,
        "candidate": pytest.approx(70 / 30),
        "champion": pytest.approx(50 / 30),
    }


def test_rows_that_one_of_them_cut_are_another_text() -> None:
    compared = compare([row("a", 10.0, 10), row("b", 10.0, 10)], [row("a", 5.0, 5), row("b", 20.0, 10)])
    assert (compared["rows"], compared["candidate"], compared["champion"]) == (1, 1.0, 2.0)


def test_nothing_shared() -> None:
    assert compare([row("a", 1.0)], [row("b", 1.0)]) == {"rows": 0, "total": 1, "candidate": None, "champion": None}


def test_kept_scores_stand(tmp_path: Path) -> None:
    path = keep_scores(tmp_path, "v", [row("a", 1.0)])
    assert keep_scores(tmp_path, "v", [row("a", 2.0)]) == path
    assert json.loads(path.read_text())["rows"][0]["nll"] == 1.0
    assert keep_scores(tmp_path, "v", [row("b", 1.0)]) != path
