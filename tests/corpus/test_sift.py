"""Sifting: every raw row ends in exactly one place, with a reason if it is the quarantine."""

import random

import pytest

from medtune.corpus.sift import sift
from medtune.params.errors import CorpusError
from medtune.params.validate import Split, Validate

LIMITS = Validate(min_rows=1, max_rows=10_000, split=Split(validation=0.2, test=0.3))
_SYMPTOMS = """
두통 복통 기침 발열 설사 변비 구토 요통 치통 가려움 어지럼 불면 붓기 저림 발진 콧물
가래 탈모 이명 빈혈
"""
SYMPTOMS = _SYMPTOMS.split()
_WAYS = """
갑자기 천천히 밤마다 아침에 식후에 운동하면 누우면 일어서면 추우면 더우면 자주 가끔
"""
WAYS = _WAYS.split()


def distinct_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows no two of which are alike."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        question = f"{number}번째 날 {' '.join(chance.choices(SYMPTOMS + WAYS, k=8))} 생겼어요."
        answer = f"{' '.join(chance.choices(SYMPTOMS + WAYS, k=12))} 살펴야 합니다. {number}시간 뒤 다시 보세요."
        rows.append({"instruction": question, "output": answer})
    return rows


def records(rows: list[dict]) -> list[dict]:
    return [{"source": f"rows.jsonl:{number}", "row": row} for number, row in enumerate(rows, 1)]


def to_messages(row: dict) -> list[dict]:
    if "output" not in row:
        raise CorpusError(f"no output; 010-1234-5678 {row.get('secret', '')}")
    return [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]


def test_good_rows_keep_their_order_and_get_identity_cluster_and_side() -> None:
    rows = distinct_rows(200)
    sifted = sift(records(rows), LIMITS, to_messages)
    assert sifted.bad == []
    made = [row.record() for row in sifted.good]
    assert [line["source"] for line in made] == [f"rows.jsonl:{n}" for n in range(1, 201)]
    assert [line["messages"][0]["content"] for line in made] == [row["instruction"] for row in rows]
    assert all(len(line["row_id"]) == len(line["cluster"]) == 64 for line in made)
    assert len({line["row_id"] for line in made}) == 200
    assert all(sifted.splits().values())
    assert sum(sifted.splits().values()) == 200


def test_a_repeat_is_set_aside_with_the_place_of_the_first() -> None:
    one, other = distinct_rows(2)
    spaced = {"instruction": f"  {one['instruction']} ", "output": one["output"].replace(" ", "  ")}
    sifted = sift(records([one, other, spaced]), LIMITS, to_messages)
    assert [row.source for row in sifted.good] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert sifted.bad[0].reasons == {"duplicate": "the same text as rows.jsonl:1: remove one of them"}


def test_a_mended_repeat_of_a_bad_row_is_kept() -> None:
    """The same text in NFD and then in NFC: the identity is one, and the second is good."""
    import unicodedata

    (row,) = distinct_rows(1)
    apart = {key: unicodedata.normalize("NFD", value) for key, value in row.items()}
    sifted = sift(records([apart, row]), LIMITS, to_messages)
    assert [kept.source for kept in sifted.good] == ["rows.jsonl:2"]
    assert list(sifted.bad[0].reasons) == ["unicode_form"]


def test_an_unreadable_row_keeps_its_columns_and_its_reason_is_masked() -> None:
    sifted = sift(records([{"question": "이름이 달라요", "secret": "a@b.kr"}]), LIMITS, to_messages)
    (bad,) = sifted.bad
    assert bad.quarantined() == {
        "source": "rows.jsonl:1",
        "row_id": None,
        "reasons": ["unreadable: no output; ***-****-**** *@*.**"],
        "row": {"question": "이름이 달라요", "secret": "a@b.kr"},
    }


def near(row: dict, word: str) -> dict:
    return row | {"output": f"{row['output']} {word}"}


def test_near_duplicates_share_cluster_and_side_and_are_counted() -> None:
    rows = distinct_rows(60)
    sifted = sift(records([*rows, *(near(row, "네.") for row in rows[:20])]), LIMITS, to_messages)
    first, later = sifted.good[:20], sifted.good[60:]
    assert [row.cluster for row in later] == [row.cluster for row in first]
    assert [row.split for row in later] == [row.split for row in first]
    assert sifted.clusters == 60
    assert sum(row.near_duplicate for row in sifted.rows) == 20


def bridge() -> list[dict]:
    """Rows of two clusters on two sides, and one between them."""
    for seed in range(100):
        chance = random.Random(seed)
        words = chance.choices(SYMPTOMS + WAYS, k=60)
        one = [word + "요" * (place >= 30 and place % 8 == 0) for place, word in enumerate(words)]
        other = [word + "네" * (place < 30 and place % 8 == 0) for place, word in enumerate(words)]
        rows = [{"instruction": "어디가 아픈가요?", "output": " ".join(text)} for text in (one, other, words)]
        before = sift(records(rows[:2]), LIMITS, to_messages)
        if before.clusters == 2 and before.good[0].split != before.good[1].split:
            return rows
    raise AssertionError("no seed gives two clusters on two sides")


def test_a_bridging_row_is_set_aside_and_names_both_sides() -> None:
    sifted = sift(records(bridge()), LIMITS, to_messages)
    one, other = sifted.good
    (bad,) = sifted.bad
    assert bad.source == "rows.jsonl:3"
    assert bad.reasons["bridges_splits"].startswith("bridges splits: ")
    assert f"rows.jsonl:1 ({one.split})" in bad.reasons["bridges_splits"]
    assert f"rows.jsonl:2 ({other.split})" in bad.reasons["bridges_splits"]


@pytest.mark.parametrize("seed", range(5))
def test_rows_added_at_the_end_change_no_side(seed: int) -> None:
    """On the stage's own path: repeats, bad rows, near-duplicates and bridges among them."""
    chance = random.Random(seed)
    rows = distinct_rows(120, seed)
    rows += [near(chance.choice(rows), chance.choice(WAYS)) for _ in range(60)] + bridge()
    rows += [chance.choice(rows) for _ in range(10)] + [{"instruction": "짧다", "output": "네"}] * 3
    chance.shuffle(rows)
    whole = {row.source: row.split for row in sift(records(rows), LIMITS, to_messages).rows}
    for cut in (1, 40, 111, 180):
        part = sift(records(rows[:cut]), LIMITS, to_messages)
        assert {row.source: row.split for row in part.rows} == {row.source: whole[row.source] for row in part.rows}


def test_another_system_prompt_moves_no_row() -> None:
    rows = distinct_rows(50)
    system = {"role": "system", "content": "당신은 의사입니다."}
    plain = sift(records(rows), LIMITS, to_messages)
    headed = sift(records(rows), LIMITS, lambda row: [system, *to_messages(row)])
    assert [row.split for row in plain.rows] == [row.split for row in headed.rows]
    assert [row.id for row in plain.rows] != [row.id for row in headed.rows]


def test_the_worst_have_the_most_reasons() -> None:
    rows = distinct_rows(3)
    rows[1] = {"instruction": "열이 나요. 왜죠?", "output": "환자: <s> no, 010-1234-5678"}
    rows[2] = {"instruction": "열이 나요. 왜죠?", "output": "짧다"}
    sifted = sift(records(rows), LIMITS, to_messages)
    assert [row.source for row in sifted.worst()] == ["rows.jsonl:2", "rows.jsonl:3"]
    assert sifted.reasons()["answer_length"] == 1


def test_no_rows_are_no_error_here() -> None:
    sifted = sift([], LIMITS, to_messages)
    assert (sifted.rows, sifted.clusters, sifted.splits()) == ([], 0, {"train": 0, "validation": 0, "test": 0})
