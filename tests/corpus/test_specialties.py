"""Specialties by keyword against those that a person gave the sample's rows."""

import json
from pathlib import Path

import pytest

from medtune.corpus.specialties import NAMES, TABLE, specialties
from medtune.corpus.words import NUMBER, tokens, word_of

SAMPLE = Path(__file__).resolve().parents[2] / "data/sample"


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


def of(question: str, answer: str = "") -> tuple[str, ...]:
    return specialties(tokens(question), tokens(answer))


@pytest.mark.parametrize(("half", "least"), [("tuned on", 0.74), ("never looked at", 0.55)])
def test_labels_of_the_sample_are_found_far_above_chance(half: str, least: float) -> None:
    """One of 24 specialties by chance is 0.04; naming the commonest always is 0.06."""
    rows = list(zip(lines("dialogues.jsonl"), lines("labels.jsonl"), strict=True))[half != "tuned on" :: 2]
    found = [(of(row["instruction"], row["output"]), label["specialty"]) for row, label in rows]
    assert sum(label in names for names, label in found) / len(found) >= least
    assert sum(len(names) for names, _ in found) / len(found) < 1.4  # not by naming many


def test_every_specialty_of_the_sample_is_found_in_some_row() -> None:
    rows = zip(lines("dialogues.jsonl"), lines("labels.jsonl"), strict=True)
    hit = {label["specialty"] for row, label in rows if label["specialty"] in of(row["instruction"], row["output"])}
    assert hit == set(TABLE)
    assert NAMES["ophthalmology"] == "안과"


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("귀가 먹먹해요", ("otolaryngology",)),
        ("오늘 일찍 귀가했어요", ()),  # came home, and no ear
        ("간단히 알려 주세요", ()),  # 간 is the liver, 간단 is simple
        ("급성췌장염이라고 합니다", ("gastroenterology",)),
        ("안녕하세요", ()),
        ("", ()),
        ("My throat is sore", ()),
        ("ADHD인가요?", ("psychiatry",)),
    ],
)
def test_keywords(question: str, names: tuple[str, ...]) -> None:
    assert of(question) == names


def test_a_row_may_be_of_several() -> None:
    assert set(of("잇몸이 붓고 시력이 떨어졌어요")) == {"dentistry", "ophthalmology"}


def test_the_patients_words_weigh_more_than_the_doctors() -> None:
    assert of("치아가 시려요", "안과에 가세요") == ("dentistry",)


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ("병원에서는", "병원"),
        ("병원", "병원"),
        ("아이", "아이"),  # not 아 with the particle 이
        ("아이가", "아이"),
        ("119", NUMBER),
        ("를", ""),
        ("covid", "covid"),
    ],
)
def test_a_word_is_an_eojeol_less_its_particle(token: str, word: str) -> None:
    assert word_of(token) == word


def test_decomposed_hangul_is_the_same_word() -> None:
    import unicodedata

    assert tokens(unicodedata.normalize("NFD", "병원에 COVID")) == ["병원에", "covid"]
