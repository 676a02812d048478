"""The suite: what it lets pass, what stops a table, and that severity decides."""

import os
import random

import pandas as pd
import pytest

from medtune.corpus.data_docs import page
from medtune.corpus.expectations import COLUMNS, MEASURED, PLAIN, VARIETY, Verdict, judge, table
from medtune.corpus.sift import REASONS, RETRACTED, Sifted, sift
from medtune.params.errors import CorpusError
from medtune.params.validate import Split, Validate

LIMITS = Validate(min_rows=10, max_rows=200, split=Split(validation=0.2, test=0.3))
_WORDS = """
두통 복통 기침 발열 설사 변비 구토 요통 치통 불면 갑자기 천천히 밤마다 아침에 식후에
누우면 자주 가끔
"""
WORDS = _WORDS.split()


def pair(row: dict) -> list[dict]:
    return [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]


def sifted(good: int = 40, limits: Validate = LIMITS, bad: tuple[dict, ...] = ()) -> Sifted:
    chance = random.Random(0)
    rows = [
        {
            "instruction": f"{n}번 {' '.join(chance.choices(WORDS, k=8))}",
            "output": " ".join(chance.choices(WORDS, k=12)),
        }
        for n in range(good)
    ]
    records = [{"source": f"rows.jsonl:{n}", "row": row} for n, row in enumerate([*rows, *bad], 1)]
    return sift(records, limits, pair)


LEAKED = {"instruction": "배가 아파요. 왜죠?", "output": "언제부터 아프셨나요? 환자분: 어제부터요."}
PRIVATE = {"instruction": "배가 아파요. 010-1234-5678", "output": "따뜻한 물을 드시고 푹 쉬세요."}


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failures]


def test_good_rows_pass_every_check() -> None:
    verdict = judge(table(sifted()), LIMITS)
    assert verdict.passed
    assert len(verdict.checks) >= 11
    assert {check.verdict for check in verdict.checks} == {"ok"}


def test_an_empty_table_fails_though_gx_would_pass_it() -> None:
    with pytest.raises(CorpusError, match="not one row"):
        judge(table(sifted(good=0)), LIMITS)


def test_too_few_and_too_many_rows_fail() -> None:
    few = judge(table(sifted(good=9)), LIMITS)
    assert {"row_count", "good_rows"} <= set(failed(few))
    many = LIMITS.model_copy(update={"max_rows": 30})
    assert failed(judge(table(sifted(good=31)), many)) == ["row_count"]


def test_the_floor_is_held_against_good_rows() -> None:
    lenient = LIMITS.model_copy(update={"min_rows": 40, "max_quarantine_share": 0.5})
    verdict = judge(table(sifted(good=39, bad=(LEAKED, PRIVATE))), lenient)
    assert failed(verdict) == ["good_rows"]


@pytest.mark.parametrize(("allowed", "passes"), [(0.07, True), (0.0699, False), (0.0, False), (1.0, True)])
def test_the_quarantine_share_is_the_bound(allowed: float, passes: bool) -> None:
    """Seven of a hundred: exactly the share passes, whatever 1 - 0.07 is in binary."""
    limits = LIMITS.model_copy(update={"max_quarantine_share": allowed})
    leaked = tuple(LEAKED | {"instruction": f"{n}번째로 배가 아파요."} for n in range(7))
    verdict = judge(table(sifted(good=93, bad=leaked)), limits)
    assert verdict.passed is passes
    assert ("quarantine" in failed(verdict)) is not passes


def test_single_faults_add_up() -> None:
    """Two reasons within the share each, past it together."""
    limits = LIMITS.model_copy(update={"max_quarantine_share": 0.03})
    verdict = judge(table(sifted(good=48, bad=(LEAKED, PRIVATE))), limits)
    assert failed(verdict) == ["quarantine"]
    shares = {check.name: check.bad_share for check in verdict.checks}
    assert shares["quarantine"] == pytest.approx(0.04)
    assert shares["leaked_turn"] == shares["personal_data"] == pytest.approx(0.02)


def test_a_side_of_the_split_without_rows_fails() -> None:
    frame = table(sifted())
    frame.loc[frame["split"] == "validation", "split"] = "train"
    assert failed(judge(frame, LIMITS)) == ["sides"]
    without = LIMITS.model_copy(update={"split": Split(validation=0.0, test=0.3)})
    assert judge(frame, without).passed


def test_a_missing_column_fails_the_schema() -> None:
    frame = table(sifted())
    frame.loc[:9, "is_unreadable"] = True  # as to_messages leaves a row without its columns (test_sift.py)
    assert failed(judge(frame, LIMITS)) == ["schema"]


def test_two_rows_from_one_place_fail() -> None:
    frame = table(sifted())
    frame.loc[1, "source"] = frame.loc[0, "source"]
    assert "sources" in failed(judge(frame, LIMITS))


def test_a_warning_is_shown_and_stops_nothing() -> None:
    frame = table(sifted())
    frame.loc[0, "columns"] = "conversations"
    frame["near_duplicate"] = [n < len(frame) * (VARIETY + 0.1) for n in range(len(frame))]
    verdict = judge(frame, LIMITS)
    assert verdict.passed
    assert [check.name for check in verdict.checks if check.verdict == "warning"] == ["same_columns", "variety"]


@pytest.mark.parametrize("name", [name for name in REASONS if name not in MEASURED])
def test_every_flag_is_watched(name: str) -> None:
    frame = table(sifted())
    frame.loc[:5, f"is_{name}"] = True
    assert failed(judge(frame, LIMITS)) == ["schema" if name == "unreadable" else name]


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [
        ("question", None, "questions"),
        ("answer", None, "answers"),
        ("question_chars", 4, "question_chars"),
        ("answer_chars", 4001, "answer_chars"),
        ("hangul_share", 0.49, "hangul_share"),
        ("line_breaks", 31, "line_breaks"),
    ],
)
def test_every_measure_is_watched(column: str, value: float | None, name: str) -> None:
    frame = table(sifted())
    frame.loc[:5, column] = value
    assert failed(judge(frame, LIMITS)) == [name]


def test_plain_text_needs_no_questions() -> None:
    frame = table(sifted()).assign(question=None, question_chars=None)
    assert judge(frame, LIMITS, plain_text=True).passed
    assert "questions" in failed(judge(frame, LIMITS))


def test_no_analytics_and_no_directory_left_behind(tmp_path, monkeypatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    judge(table(sifted()), LIMITS)
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_a_line_per_row_and_the_named_columns() -> None:
    frame = table(sifted(bad=(LEAKED,)))
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 41
    assert frame["is_leaked_turn"].sum() == 1
    assert pd.isna(frame["split"].iloc[-1])


def test_every_reason_has_plain_words() -> None:
    assert set(PLAIN) == {*REASONS, RETRACTED}


def shown(rows: Sifted, limits: Validate = LIMITS) -> str:
    return page(rows, judge(table(rows), limits), limits, "d" * 64)


def test_the_page_tells_counts_reasons_and_places_and_loads_nothing() -> None:
    html = shown(sifted(bad=(LEAKED, PRIVATE)))
    assert "42 rows came in. 40 are good and 2 (4.8%) were set aside" in html
    assert "rows.jsonl:41" in html
    assert "another speaker" in html
    for outside in ("http:", "https:", "src=", "<link", "@import", "url("):
        assert outside not in html
    assert "1234" not in html  # personal data stays in the quarantine


def test_the_page_of_the_same_rows_is_the_same_bytes() -> None:
    assert shown(sifted(bad=(LEAKED,))) == shown(sifted(bad=(LEAKED,)))


def test_the_page_of_a_stopped_table_says_why_and_how_to_mend_it() -> None:
    strict = LIMITS.model_copy(update={"max_quarantine_share": 0.0})
    html = shown(sifted(bad=(LEAKED,)), strict)
    assert "stopped" in html
    assert "raise validate.max_quarantine_share" in html


def test_the_page_escapes_what_files_and_rows_are_called() -> None:
    rows = sifted(bad=(LEAKED,))
    rows.rows[-1].source = "<script>alert(1)</script>.jsonl:1"
    assert "<script>" not in shown(rows)
