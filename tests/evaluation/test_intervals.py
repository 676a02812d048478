"""Exact intervals against values that others have published."""

import pytest

from medtune.evaluation.intervals import lower_bound, share, upper_bound


@pytest.mark.parametrize(
    ("passed", "of", "confidence", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 5 (Clopper-Pearson)
        (81, 263, 0.95, 0.2527, 0.3676),
        (15, 148, 0.95, 0.0578, 0.1617),
        (0, 20, 0.95, 0.0, 0.1684),
        (1, 29, 0.95, 0.0009, 0.1776),
        # the binomial table of every textbook: 5 of 10, 10 of 10
        (5, 10, 0.95, 0.1871, 0.8129),
        (10, 10, 0.95, 0.6915, 1.0),
    ],
)
def test_the_interval_is_the_published_one(passed, of, confidence, low, high):
    interval = share(passed, of, confidence)
    assert interval["low"] == pytest.approx(low, abs=5e-5)
    assert interval["high"] == pytest.approx(high, abs=5e-5)
    assert interval["share"] == passed / of
    assert (interval["passed"], interval["of"], interval["confidence"]) == (passed, of, confidence)


def test_nothing_counted_has_no_share():
    assert share(0, 0) == {"passed": 0, "of": 0, "share": None, "low": None, "high": None, "confidence": 0.95}
    assert lower_bound(0, 0) is None
    assert upper_bound(0, 0) is None


def test_one_sided_bounds_are_exact():
    assert lower_bound(60, 60) == pytest.approx(0.05 ** (1 / 60))  # closed form where all passed
    assert upper_bound(0, 60) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert (lower_bound(0, 60), upper_bound(60, 60)) == (0.0, 1.0)
    assert lower_bound(50, 60) > share(50, 60)["low"]  # one side gets the whole 5%


@pytest.mark.parametrize(("true", "of"), [(0.05, 20), (0.5, 30), (0.93, 40)])
def test_the_interval_covers_at_least_as_often_as_it_says(true, of):
    from scipy.stats import binom

    covered = sum(binom.pmf(k, of, true) for k in range(of + 1) if share(k, of)["low"] <= true <= share(k, of)["high"])
    assert covered >= 0.95


@pytest.mark.parametrize(("passed", "of", "confidence"), [(3, 2, 0.95), (-1, 5, 0.95), (1, 2, 1.0), (1, 2, 95)])
def test_counts_that_are_none_are_refused(passed, of, confidence):
    with pytest.raises(ValueError, match=r"is no share|is none"):
        share(passed, of, confidence)
