"""The corpus that ships: what data/sample/README.md promises of it."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
SPAN = 30  # characters that no two answers share: a longer one would be a template


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return read("dialogues.jsonl")


@pytest.fixture(scope="module")
def labels() -> list[dict]:
    return read("labels.jsonl")


def test_schema_is_medgpts(rows: list[dict]) -> None:
    assert len(rows) >= 300
    assert {tuple(row) for row in rows} == {("instruction", "input", "output")}
    assert {row["input"] for row in rows} == {""}
    assert all(row["instruction"].strip() and row["output"].strip() for row in rows)


def test_no_two_rows_are_alike(rows: list[dict]) -> None:
    for column in ("instruction", "output"):
        folded = Counter("".join(row[column].split()) for row in rows)
        assert [text for text, count in folded.items() if count > 1] == []


def test_no_two_answers_share_a_span(rows: list[dict]) -> None:
    first_seen: dict[str, int] = {}
    shared = set()
    for number, row in enumerate(rows, 1):
        answer = row["output"]
        for start in range(len(answer) - SPAN + 1):
            span = answer[start : start + SPAN]
            if first_seen.setdefault(span, number) != number:
                shared.add((first_seen[span], number))
    assert shared == set()


def test_labels_lie_beside_the_rows(rows: list[dict], labels: list[dict]) -> None:
    assert len(labels) == len(rows)
    assert {tuple(label) for label in labels} == {("specialty", "emergency")}
    assert len({label["specialty"] for label in labels}) >= 15
    half = len(labels) // 2  # mixed: every specialty stands in both halves
    assert {label["specialty"] for label in labels[:half]} == {label["specialty"] for label in labels[half:]}


def test_emergencies_are_sent_to_119_or_the_emergency_room(rows: list[dict], labels: list[dict]) -> None:
    emergencies = [row for row, label in zip(rows, labels, strict=True) if label["emergency"]]
    assert len(emergencies) >= 40
    assert [row for row in emergencies if "119" not in row["output"] and "응급실" not in row["output"]] == []


def test_text_is_nfc_and_plain(rows: list[dict]) -> None:
    text = (SAMPLE / "dialogues.jsonl").read_text(encoding="utf-8")
    assert unicodedata.is_normalized("NFC", text)
    assert not text.startswith("\ufeff")
    assert "\r" not in text
    controls = {c for row in rows for value in row.values() for c in value if unicodedata.category(c)[0] == "C"}
    assert controls == set()


def test_readme_counts_are_true(labels: list[dict]) -> None:
    readme = (SAMPLE / "README.md").read_text(encoding="utf-8")
    rows_of = Counter(label["specialty"] for label in labels)
    emergencies_of = Counter(label["specialty"] for label in labels if label["emergency"])
    for specialty, count in rows_of.items():
        assert f"| {specialty} | {count} | {emergencies_of[specialty]} |" in readme
    assert f"{sum(emergencies_of.values())} emergencies" in readme
    assert f"{len(labels)} questions" in readme
