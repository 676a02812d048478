"""A row's identity: what is the same text to a reader is the same row."""

import unicodedata

import pytest

from medtune.corpus.rows import fold, row_id


def pair(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_fold_joins_white_space_and_composes_hangul() -> None:
    assert fold("  머리가\t\n 아파요.\u3000\xa0네 ") == "머리가 아파요. 네"
    assert fold(unicodedata.normalize("NFD", "머리")) == "머리"


@pytest.mark.parametrize(
    "other",
    [
        pair(" 머리가  아파요. ", "쉬세요.\n"),
        pair(unicodedata.normalize("NFD", "머리가 아파요."), "쉬세요."),
        [{"role": "user", "content": "머리가 아파요.", "input": ""}, {"role": "assistant", "content": "쉬세요."}],
    ],
)
def test_the_same_text_is_the_same_row(other: list[dict]) -> None:
    assert row_id(other) == row_id(pair("머리가 아파요.", "쉬세요."))


@pytest.mark.parametrize(
    "other",
    [
        pair("쉬세요.", "머리가 아파요."),
        pair("머리가 아파요. 쉬세요.", ""),
        [{"role": "system", "content": "의사입니다."}, *pair("머리가 아파요.", "쉬세요.")],
        [{"role": "user", "content": "머리가 아파요.", "input": "3일째"}, {"role": "assistant", "content": "쉬세요."}],
    ],
)
def test_other_text_or_other_roles_are_another_row(other: list[dict]) -> None:
    assert row_id(other) != row_id(pair("머리가 아파요.", "쉬세요."))


def test_no_content_imitates_a_border_between_messages() -> None:
    assert row_id(pair('a"], ["assistant", "b', "c")) != row_id(
        [*pair("a", "b"), {"role": "assistant", "content": "c"}]
    )


def test_identity_is_stable_across_versions() -> None:
    """Splits of users hang on it: a changed hash would deal every corpus anew."""
    expected = "39b063a771eb31a7e63604faa854c941bea5bcafaa8ce7b17c2384713fbd98d0"
    assert row_id(pair("머리가 아파요.", "쉬세요.")) == expected


def test_half_a_surrogate_pair_has_an_identity() -> None:
    assert row_id(pair("\ud83d", "쉬세요.")) != row_id(pair("", "쉬세요."))
