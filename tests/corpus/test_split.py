"""The side of a cluster: by its own hash, in the shares asked for, unmoved by the other share."""

import hashlib

import pytest

from medtune.corpus.split import SIDES, side
from medtune.params.validate import Split

NAMES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20_000)]


def sides(**shares: float) -> list[str]:
    split = Split(**shares)
    return [side(name, split) for name in NAMES]


def test_shares_are_those_asked_for() -> None:
    got = sides(validation=0.08, test=0.12)
    for name, share in zip(SIDES, (0.80, 0.08, 0.12), strict=True):
        # four standard errors of a share among 20,000
        assert got.count(name) / len(got) == pytest.approx(share, abs=4 * (share * (1 - share) / len(got)) ** 0.5)


def test_no_validation_share_means_no_validation_row() -> None:
    assert set(sides(validation=0.0, test=0.2)) == {"train", "test"}


def test_another_validation_share_moves_nothing_into_or_out_of_test() -> None:
    few, many = sides(validation=0.0, test=0.12), sides(validation=0.3, test=0.12)
    assert [name == "test" for name in few] == [name == "test" for name in many]


def test_a_larger_test_share_keeps_what_was_in_test() -> None:
    small, large = sides(validation=0.05, test=0.1), sides(validation=0.05, test=0.2)
    assert all(now == "test" for before, now in zip(small, large, strict=True) if before == "test")


def test_another_salt_is_another_split() -> None:
    one, other = sides(validation=0.1, test=0.4), sides(validation=0.1, test=0.4, salt="other")
    same = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    assert same == pytest.approx(0.5**2 + 0.1**2 + 0.4**2, abs=0.02)  # what chance gives


def test_sides_are_stable_across_versions() -> None:
    """A user's test split must survive an upgrade."""
    split = Split(validation=0.08, test=0.12)
    assert [side(name, split) for name in NAMES[:40]].count("train") == 37
    assert [n for n, name in enumerate(NAMES[:40]) if side(name, split) == "test"] == [16]
