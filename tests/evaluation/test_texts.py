"""Figures of Korean answers, each against a value counted by hand."""

import math
import unicodedata

import pytest

from medtune.evaluation.texts import (
    chrfpp,
    distinct,
    figures,
    loops,
    morphemes,
    rouge_l,
    scripts,
    shares,
    summarise,
)


def answer(text: str, reference: str | None = None, ended: bool = True) -> dict:
    return {"text": text, "ended": ended, **figures(text, reference)}


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("병원에 가세요. 병원에 가세요. 병원에 가세요. 병원에 가세요. ", True),
        ("네네네네네네네네", True),
        ("물을 드시고 쉬세요. 열이 나면 병원에 가세요.", False),
        ("아주 아주 아주 좋습니다.", False),
        ("", False),
    ],
)
def test_loops_are_seen(text, looping):
    assert loops(text) is looping


def test_chrf_by_hand():
    """가나다라 and 가나다마: 3 of 4 characters, 2 of 3 bigrams, 1 of 2 trigrams, 0 of 1 four-gram, 0 of 1 word; orders
    that neither has do not count. Precision and recall are equal, and so is F2."""
    assert chrfpp("가나다라", "가나다마") == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0 + 0) / 5, abs=1e-6)


def test_chrf_ends_of_the_scale():
    assert chrfpp("물을 드세요.", "물을 드세요.") == pytest.approx(100)
    assert chrfpp("", "물을 드세요.") == 0
    assert chrfpp("go on", "물을 드세요.") == 0


def test_morphemes_in_their_normal_form():
    assert morphemes("병원에 가세요.") == ["병원/NNG", "에/JKB", "가/VV", "으세요/EF"]
    # two spellings of one particle and of one ending; punctuation is no morpheme
    assert morphemes("머리가 아파요.")[:2] == ["머리/NNG", "이/JKS"]
    assert morphemes("손이 아파요.")[:2] == ["손/NNG", "이/JKS"]
    assert morphemes("약을") == morphemes("약을!!") == ["약/NNG", "을/JKO"]
    assert morphemes("MRI를")[0] == "mri/SL"
    assert morphemes(unicodedata.normalize("NFD", "병원에")) == ["병원/NNG", "에/JKB"]
    assert morphemes("") == []


def test_rouge_l_by_hand():
    """병원 에 가 으세요 (4) and 병원 을 가 으면 안 되 습니다 (7): 병원 and 가 in common, F1 = 2 * 2 / 11."""
    assert rouge_l("병원을 가면 안 됩니다.", "병원에 가세요.") == pytest.approx(4 / 11)
    assert rouge_l("병원에 가세요", "병원에 가세요!") == 1.0
    assert rouge_l("", "병원에 가세요.") == 0.0
    assert rouge_l("hello there", "병원에 가세요.") == 0.0


def test_rouge_l_is_a_subsequence_and_no_set():
    words = ["물을 마시고 약을 먹어요", "약을 먹고 물을 마셔요"]
    assert 0 < rouge_l(*words) < 1
    assert rouge_l(*words) == rouge_l(*reversed(words))


def test_distinct_by_hand():
    sequences = [["a", "b", "a"], ["a", "b"]]
    assert distinct(sequences, 1) == 2 / 5  # a b
    assert distinct(sequences, 2) == 2 / 3  # ab ba; none across the border of two answers
    assert distinct([["a"]], 2) is None
    assert distinct([], 1) is None


def test_letters_by_script():
    text = "약 3개를 MRI 後 テスト ñ д!"
    assert scripts(text) == {"hangul": 3, "latin": 4, "han": 1, "kana": 3, "other": 1}
    assert shares(scripts(text))["hangul"] == 3 / 12
    assert scripts("ㅋㅋ ㅠ 한") == {"hangul": 4, "latin": 0, "han": 0, "kana": 0, "other": 0}
    assert shares(scripts("119!"))["hangul"] is None


def test_figures_without_a_reference():
    assert figures("네", None) == {
        "chrfpp": None,
        "rouge_l": None,
        "looped": False,
        "answer_chars": 1,
        "hangul_share": 1.0,
    }


def test_summary_of_a_set():
    set_of = [
        answer("병원에 가세요.", "병원에 가세요.", ended=True),
        answer("네네네네네네네네", "병원에 가세요.", ended=False),
        answer("go 病", None, ended=True),
    ]
    told = summarise(set_of)
    assert told["answers"] == 3
    assert told["ended_share"] == 2 / 3
    assert told["loop_share"] == 1 / 3
    assert told["mean_chars"] == (8 + 8 + 4) / 3
    assert told["chrfpp"] == pytest.approx(50)  # a mean of 100 and 0, the third has no reference
    assert told["rouge_l"] == pytest.approx(0.5)
    assert told["hangul_share"] == (6 + 8) / 17  # of all letters, not a mean of shares
    assert told["other_script_share"] == 1 / 17
    assert math.isclose(sum(told["language_mix"].values()), 1)
    assert 0 < told["distinct_1"] <= 1
    assert told == summarise(set_of)


def test_summary_of_nothing_and_of_silence():
    assert summarise([]) == {"answers": 0}
    told = summarise([answer("")])
    assert told["hangul_share"] is None
    assert told["other_script_share"] is None
    assert told["distinct_1"] is None
    assert "chrfpp" not in told
