"""Pairs: what is left out, stable and balanced order, ids that belong to exactly these answers."""

import copy

import pytest

from medtune.evaluation.review.pairs import arrange, make_items, read_pairs
from medtune.params.errors import EvaluationError
from tests.evaluation.review_site import MODELS, line, lines, write_evaluation

PAIR = (MODELS, "adapter", "base")


def test_what_cannot_be_compared_is_left_out_and_counted():
    rows = lines(3)
    same = line(3, "물을 드세요.", " 물을\n드세요. ")
    repeated = copy.deepcopy(rows[0])
    one_sided = line(4, "쉬세요", "병원에 가세요")
    del one_sided["answers"]["base"]
    telling = line(5, "저는 kullm3입니다", "병원에 가세요")
    asked = line(6, "KULLM3은 모델입니다", "모르겠습니다", question="KULLM3이 뭔가요?")
    items, left_out = make_items([*rows, same, repeated, one_sided, telling, asked], *PAIR, names=["KULLM3"])
    assert len(items) == 4  # the three, and the one whose question names the model itself
    assert left_out == {"identical": 1, "unanswered": 1, "repeated": 1, "names a model": 1}


@pytest.mark.parametrize("what", ["question", "candidate", "other", "candidate's digest", "other's digest"])
def test_an_id_belongs_to_exactly_these_answers(what):
    row = lines(1)[0]
    before = set(make_items([row], *PAIR)[0])
    models = dict(MODELS)
    if what == "question":
        row["question"] += "?"
    elif what.endswith("digest"):
        models["adapter" if what.startswith("candidate") else "base"] = "f" * 64
    else:
        row["answers"]["adapter" if what == "candidate" else "base"]["text"] += "."
    assert set(make_items([row], models, "adapter", "base")[0]) != before


def test_order_is_stable_per_reviewer_and_differs_between_them():
    items, _ = make_items(lines(40), *PAIR)
    shuffled = dict(reversed(items.items()))
    first = arrange(items, "김의사")
    assert [(s.item.id, s.flipped) for s in first] == [(s.item.id, s.flipped) for s in arrange(shuffled, "김의사")]
    other = arrange(items, "이의사")
    assert [s.item.id for s in first] != [s.item.id for s in other]
    sides = {s.item.id: s.flipped for s in other}
    differing = sum(sides[s.item.id] != s.flipped for s in first)
    assert 5 < differing < 35  # drawn for each reviewer: neither the same sides nor the opposite ones
    assert {s.item.id for s in first} == set(items)


def test_sides_are_balanced_all_along():
    items, _ = make_items(lines(101), *PAIR)
    for reviewer in ("a", "b", "가"):
        flipped = 0
        patterns = set()
        shown = arrange(items, reviewer)
        for position, one in enumerate(shown, 1):
            flipped += one.flipped
            assert abs(2 * flipped - position) <= 2
            assert one.answers == ((one.item.other, one.item.candidate) if one.flipped else one.answers)
        for start in range(0, 100, 4):
            patterns.add(tuple(one.flipped for one in shown[start : start + 4]))
        assert len(patterns) > 3  # no fixed alternation


def test_the_champion_is_preferred_to_the_base_where_it_answered(tmp_path):
    rows = lines(2)
    for row in rows:
        row["answers"]["champion"] = {"text": "셋", "tokens": 1, "ended": True}
    write_evaluation(tmp_path, rows, MODELS | {"champion": "c" * 64})
    assert read_pairs(tmp_path).other == {"name": "champion", "digest": "c" * 64}
    assert read_pairs(tmp_path, against="base").other["name"] == "base"


def test_another_evaluation_lends_its_answers(tmp_path):
    write_evaluation(tmp_path / "new", lines(3))
    old = lines(2)
    for row in old:
        row["answers"]["adapter"]["text"] = "옛 답"
    write_evaluation(tmp_path / "old", old, MODELS | {"adapter": "d" * 64})
    pairs = read_pairs(tmp_path / "new", against=str(tmp_path / "old/reports"))
    assert pairs.other == {"name": "champion", "digest": "d" * 64}
    assert pairs.left_out["unanswered"] == 1
    assert {item.other for item in pairs.items.values()} == {"옛 답"}


@pytest.mark.parametrize(
    ("sets", "against", "told"),
    [
        (["red_flags"], None, "'red_flags'.*answers questions"),
        (None, "champion", "no answers of 'champion'.*adapter, base, merged"),
        (None, "adapter", "the candidate itself"),
        (None, "merged", "no pair of answers to review in questions: 2 identical"),
    ],
)
def test_what_was_not_answered_is_named(tmp_path, sets, against, told):
    write_evaluation(tmp_path, lines(2))
    with pytest.raises(EvaluationError, match=told):
        read_pairs(tmp_path, sets, against)


def test_a_broken_line_is_named(tmp_path):
    write_evaluation(tmp_path, lines(2))
    path = tmp_path / "reports/evaluate/answers.jsonl"
    path.write_text(path.read_text() + '{"set": "test", "id": 1, "question": "q"}\n')
    with pytest.raises(EvaluationError, match=r"answers.jsonl line 3 .*answers"):
        read_pairs(tmp_path)
    path.unlink()
    with pytest.raises(EvaluationError, match=r"answers.jsonl is missing; run"):
        read_pairs(tmp_path)
