"""New rows against old ones, on the sample's dialogues: what chance does is no alarm, and what moved is."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from medtune.corpus.drift import Drift, measure, psi
from medtune.params.retrain import Drift as Thresholds

SAMPLE = Path(__file__).resolve().parents[2] / "data/sample"
THRESHOLDS = Thresholds()


def row(question: str, answer: str, cluster: str | None = None) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **({"cluster": cluster} if cluster else {})}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    lines = map(json.loads, (SAMPLE / "dialogues.jsonl").read_text(encoding="utf-8").splitlines())
    return [row(line["instruction"], line["output"], f"cluster {i}") for i, line in enumerate(lines)]


@pytest.fixture(scope="module")
def mixed(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    drawn = random.Random(5).sample(rows, len(rows))
    return drawn[60:], drawn[:60]


def texts(one: dict) -> tuple[str, str]:
    return one["messages"][0]["content"], one["messages"][1]["content"]


def fired(found: Drift) -> set[str]:
    return {one.name for one in found.measures if one.alarm}


def figure(found: Drift, name: str):
    return next(one for one in found.measures if one.name == name)


def test_chance_rarely_raises_an_alarm(rows: list[dict]) -> None:
    """Seeded; benchmarks/drift_power.py has the rate over more draws."""
    alarms = 0
    for seed in range(12):
        drawn = random.Random(seed).sample(rows, len(rows))
        alarms += bool(measure(drawn[60:], drawn[:60], THRESHOLDS).alarms)
    assert alarms <= 1


def test_the_size_alone_would_fire_by_chance(mixed: tuple[list[dict], list[dict]]) -> None:
    """Why p is asked too: 60 rows over 25 specialties have an index above 0.25 although nothing moved."""
    one = figure(measure(*mixed, THRESHOLDS), "specialties")
    assert one.value > THRESHOLDS.psi
    assert one.size < THRESHOLDS.psi
    assert one.alarm is None


def test_doubled_answers_are_longer(mixed: tuple[list[dict], list[dict]]) -> None:
    old, new = mixed
    found = measure(old, [row(texts(one)[0], texts(one)[1] * 2, one["cluster"]) for one in new], THRESHOLDS)
    assert fired(found) == {"answer"}
    assert found.alarms[0].startswith("answers are longer: median ")
    assert "threshold 0.2; p " in found.alarms[0]


def test_one_field_of_medicine_is_another_mix(rows: list[dict]) -> None:
    labels = [json.loads(line)["specialty"] for line in (SAMPLE / "labels.jsonl").read_text().splitlines()]
    inside = {"ophthalmology", "dentistry", "dermatology"}
    new = [one for one, label in zip(rows, labels, strict=True) if label in inside]
    old = [one for one, label in zip(rows, labels, strict=True) if label not in inside]
    found = measure(old, new, THRESHOLDS)
    assert "specialties" in fired(found)
    sentence = figure(found, "specialties").alarm
    assert "안과" in sentence
    assert "피부과" in sentence


def test_english_rows_bring_words_that_the_old_ones_never_had(mixed: tuple[list[dict], list[dict]]) -> None:
    english = [
        row(f"My head hurts since {word}.", f"Please see some doctor about {word} soon.")
        for word in ("Monday", "winter") * 20
    ]
    found = measure(mixed[0], english, THRESHOLDS)
    assert {"unseen", "specialties"} <= fired(found)
    assert figure(found, "unseen").value > 0.95


def test_a_tiny_old_corpus_has_few_words_and_that_is_no_alarm(rows: list[dict]) -> None:
    """Half of the words of 60 rows are in no other 30; those 30 say so among themselves."""
    drawn = random.Random(3).sample(rows, 90)
    one = figure(measure(drawn[60:], drawn[:60], THRESHOLDS), "unseen")
    assert one.value > THRESHOLDS.unseen
    assert abs(one.value - one.chance) < 0.08
    assert one.alarm is None


def test_words_of_a_repeated_old_row_do_not_count_as_known_to_others() -> None:
    """Leave one out goes by cluster: two rows of one cluster are one witness."""
    old = [row("가나다라 마바사아", "자차카타", "one"), row("가나다라 마바사아", "자차카타 네", "one")]
    assert figure(measure(old, [row("하하하하", "호호호호")], Thresholds(rows=1)), "unseen").chance == 1.0


def test_near_duplicates_go_by_the_clusters_that_validate_gave(mixed: tuple[list[dict], list[dict]]) -> None:
    old, new = mixed
    again = [row(*texts(one), one["cluster"]) for one in old[:40]]
    found = measure(old, [*again, *new[:20]], THRESHOLDS)
    assert figure(found, "duplicates").value == pytest.approx(40 / 60)
    assert "67 % of the new rows are nearly the same text as an old one" in figure(found, "duplicates").alarm


def test_few_rows_are_measured_and_not_judged(mixed: tuple[list[dict], list[dict]]) -> None:
    old, new = mixed
    few = [row(texts(one)[0], texts(one)[1] * 3) for one in new[:29]]
    found = measure(old, few, THRESHOLDS)
    assert found.alarms == []
    assert found.record()["judged"] is False
    assert found.why_not == "29 new rows are too few to judge: 30 are asked (retrain.drift.rows)"
    assert figure(found, "answer").value == 1.0
    assert "Not judged: 29 new rows" in found.markdown()


@pytest.mark.parametrize("side", ["old", "new"])
def test_no_rows_are_no_comparison(rows: list[dict], side: str) -> None:
    found = measure([], rows, THRESHOLDS) if side == "old" else measure(rows, [], THRESHOLDS)
    assert found.measures == ()
    assert found.why_not == f"there are no {side} rows to compare"
    assert found.why_not in found.markdown()


def test_plain_text_asks_nothing() -> None:
    plain = [
        {"messages": [{"role": "assistant", "content": f"{i}째 환자가 왔습니다. 두통이 있습니다."}]} for i in range(80)
    ]
    found = measure(plain[:40], plain[40:], THRESHOLDS)
    assert "question" not in {one.name for one in found.measures}
    assert found.record()["bars"]["question"] is None
    assert found.alarms == []


def test_the_same_rows_give_the_same_record(mixed: tuple[list[dict], list[dict]]) -> None:
    first, again = (measure(*mixed, THRESHOLDS) for _ in range(2))
    assert json.dumps(first.record(), allow_nan=False) == json.dumps(again.record(), allow_nan=False)
    assert first.record()["method"] == {
        "words": "eojeol less particle, 1",
        "level": 0.01,
        "resamples": 499,
        "seed": 20261123,
    }


def test_psi_is_the_sum_that_books_give() -> None:
    """Siddiqi's table with 1,000 rows a side: sum of (p - q) ln(p / q); the half a row added changes the 4th digit."""
    old, new = np.array([200, 300, 500]) * 100, np.array([300, 300, 400]) * 100
    p, q = old / old.sum(), new / new.sum()
    assert psi(old, new) == pytest.approx(((p - q) * np.log(p / q)).sum(), rel=1e-3)
    assert psi(old, new) == pytest.approx(psi(new, old))
    assert psi(old, old) == pytest.approx(0, abs=1e-12)
    assert np.isfinite(psi(np.array([10, 0]), np.array([0, 10])))


def test_the_report_draws_korean_names_and_bars(mixed: tuple[list[dict], list[dict]]) -> None:
    old, new = mixed
    text = measure(old, [row(texts(one)[0], texts(one)[1] * 2) for one in new], THRESHOLDS).markdown()
    assert "- **answers are longer" in text
    assert "### Specialties by keyword" in text
    assert "이비인후과" in text
    assert "█" in text
    assert text.count("```") % 2 == 0
