"""Intervals and tests on paired rows: known answers, what cannot be computed, and the level that they hold."""

import math

import numpy as np
import pytest
from scipy import stats

from medtune.evaluation import statistics
from medtune.params.gate import COMPARED


def rows(
    values: list[float | None], clusters: list[str] | None = None, chars: int = 10, key: str = "nll"
) -> list[dict]:
    clusters = clusters or [f"c{n}" for n in range(len(values))]
    return [
        {"row_id": f"r{n}", "cluster": cluster, "chars": chars, key: value}
        for n, (value, cluster) in enumerate(zip(values, clusters, strict=True))
    ]


def noisy(mean: float, n: int = 40, seed: int = 1, spread: float = 1.0) -> list[float]:
    return (mean + spread * np.random.default_rng(seed).normal(size=n)).tolist()


def test_the_figures_are_those_of_the_recipe():
    assert {name: "lower" if lower else "higher" for name, (*_, lower) in statistics.FIGURES.items()} == COMPARED


def test_one_ratio_a_cluster_and_their_mean():
    ours = rows([10.0, 30.0, 7.0], ["a", "a", "b"])
    theirs = rows([20.0, 50.0, 8.0], ["a", "a", "b"])
    pairs = statistics.paired(ours, theirs)
    assert pairs.values.tolist() == pytest.approx([(-10 - 20) / 20, -1 / 10])
    told = statistics.compare(ours, theirs)
    assert told["mean"] == pytest.approx(-0.8)
    assert (told["clusters"], told["rows"], told["low"], told["high"], told["p_superior"]) == (2, 3, None, None, None)
    assert told["problem"] == "2 clusters of rows with this figure, and 10 is the least"


def test_interval_and_p_agree_with_student_on_normal_differences():
    ours, theirs = rows(noisy(-4.0)), rows([0.0] * 40)
    told = statistics.compare(ours, theirs)
    low, high = stats.t.interval(0.95, 39, told["mean"], told["sd"] / math.sqrt(40))
    assert told["mean"] == pytest.approx(-0.4, abs=0.05)
    assert told["low"] == pytest.approx(low, abs=0.01)
    assert told["high"] == pytest.approx(high, abs=0.01)
    assert told["low"] <= low
    assert told["high"] >= high
    assert told["p_superior"] == 1 / 10_001  # never 0
    weak = statistics.compare(rows(noisy(-0.3)), theirs)
    student = stats.ttest_1samp([value / 10 for value in noisy(-0.3)], 0.0, alternative="less").pvalue
    assert student <= weak["p_superior"] < student + 0.01


def test_a_skewed_sample_gets_a_skewed_interval():
    skewed = np.random.default_rng(3).lognormal(size=40).tolist()
    told = statistics.compare(rows(skewed), rows([0.0] * 40))
    assert told["high"] - told["mean"] > 1.3 * (told["mean"] - told["low"])


def test_rows_of_a_cluster_are_no_further_evidence():
    single = statistics.compare(rows(noisy(-0.3, 20)), rows([0.0] * 20))
    copied = statistics.compare(
        rows(noisy(-0.3, 20) * 5, [f"c{n}" for n in range(20)] * 5), rows([0.0] * 100, [f"c{n}" for n in range(20)] * 5)
    )
    assert copied["clusters"] == 20
    for key in ("mean", "low", "high", "p_superior", "sd"):
        assert copied[key] == pytest.approx(single[key])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "0 clusters"),
        (noisy(-4.0, 9), "9 clusters of rows with this figure, and 10 is the least"),
        ([0.0] * 40, r"all 40 clusters have the same difference \(0\)"),
        ([-1.1] * 40, "so that it has no spread"),
        ([*noisy(-4.0), math.nan], "1 of 41 clusters have no finite difference"),
        ([*noisy(-4.0), math.inf], "1 of 41 clusters have no finite difference"),
        ([*noisy(-4.0), None], "1 of 41 clusters have no finite difference"),  # what Parquet makes of NaN
        ([-1.0] + [0.0] * 39, "resamples have no spread"),
    ],
)
def test_what_cannot_be_computed_is_none_and_said(values: list, said: str):
    import re

    told = statistics.compare(rows(values), rows([0.0] * len(values)))
    assert (told["low"], told["high"], told["p_superior"]) == (None, None, None)
    assert re.search(said, told["problem"])
    assert told["mean"] is None or math.isfinite(told["mean"])


def test_rows_without_an_answer_are_left_out_and_counted():
    ours = rows([*noisy(50.0, 30), *[None] * 10], key="chrfpp")
    theirs = rows([*noisy(40.0, 30, seed=2), *[30.0] * 10], key="chrfpp")
    told = statistics.compare(ours, theirs, "chrfpp")
    assert (told["rows"], told["left_out"], told["clusters"]) == (30, 10, 30)
    assert told["low"] > 8
    assert told["p_superior"] < 0.001  # higher is better
    assert statistics.compare(theirs, ours, "chrfpp")["p_superior"] > 0.999


def test_another_text_is_left_out():
    ours, theirs = rows(noisy(1.0, 30)), rows(noisy(2.0, 30, seed=2))
    theirs[4]["chars"] = 9
    assert statistics.compare(ours, theirs)["left_out"] == 1


def test_other_rows_or_another_order_are_refused():
    ours = rows([1.0, 2.0])
    for theirs in (ours[::-1], ours[:1], rows([1.0, 2.0, 3.0])):
        with pytest.raises(ValueError, match="same rows in the same order"):
            statistics.compare(ours, theirs)


def test_the_same_seed_gives_the_same_figures_and_chunks_do_not_matter():
    values = np.array(noisy(0.0, 25))
    one, other = (statistics.resample(values, 3000, 5).t for _ in range(2))
    assert (one == other).all()
    many = statistics.resample(np.stack([values, 3 * values + 7], axis=1), 3000, 5)
    assert np.allclose(many.t[:, 0], many.t[:, 1])  # t* depends on no shift and no scale
    assert np.allclose(many.t[:, 0], one[:, 0])
    assert (statistics.resample(values, 3000, 6).t != one).any()


def test_power_is_what_a_simulation_finds():
    generator = np.random.default_rng(0)
    drawn = generator.normal(-0.1, 0.2, size=(20, 20_000))
    found = (stats.ttest_1samp(drawn, 0.0, alternative="less").pvalue <= 0.0025).mean()
    assert statistics.power(0.2, 20, 0.0025, 0.1) == pytest.approx(found, abs=0.01)
    assert statistics.power(0.001, 530, 0.0025, 0.2) == 1.0  # where scipy's series ends in nan
    assert statistics.power(0.2, 1, 0.05, 0.1) == 0.0


def test_clusters_needed_is_the_fewest():
    needed = statistics.clusters_needed(0.2, 0.0025, 0.1, 0.8)
    assert statistics.power(0.2, needed, 0.0025, 0.1) >= 0.8 > statistics.power(0.2, needed - 1, 0.0025, 0.1)
    assert statistics.clusters_needed(1.0, 0.0025, 1e-9, 0.8) is None


def test_holm_by_hand():
    # Holm's own step-down: 3 x 0.01, then 2 x 0.02 and 1 x 0.03, never below the one before
    adjusted = statistics.holm({"b": 0.02, "a": 0.01, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.04})
    assert statistics.holm({"a": 0.9, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert statistics.holm({}) == {}


def test_enough_resamples_for_a_level():
    assert statistics.samples_for(0.05) == 10_000
    assert statistics.samples_for(0.05 / 20 / 2) == 16_000
