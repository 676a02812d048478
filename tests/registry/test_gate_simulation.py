"""The level that the gate holds, on real differences drawn again: benchmarks/gate_simulation.py in small.

Bounds are binomial quantiles: at the level that is claimed a correct gate exceeds them once in a thousand runs, and the
seeds are fixed. What they must catch is tried on them too: comparing means, and taking rows of a cluster for clusters.
"""

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import gate_simulation as simulation
from medtune.evaluation import statistics
from medtune.params.gate import Check, Gate

CANDIDATES = 400
# adapter minus base in nats a character, of the 35 test rows of `sample` (SmolLM2-135M); every row is its own cluster
REAL = [
    -1.421, -1.078, -1.66, -0.953, -1.006, -1.269, -1.042, -1.153, -1.579, -1.579, -1.141, -1.222, -0.984, -1.389,
    -1.084, -1.316, -0.787, -0.962, -1.344, -1.292, -0.998, -1.097, -1.284, -1.214, -1.084, -1.464, -1.301, -1.255,
    -1.296, -1.052, -1.181, -0.932, -1.013, -1.08, -1.12,
]  # fmt: skip
GATE = Gate(
    checks={
        "improvement": Check(figure="nll_per_char", against="base", direction="lower", margin=0.05),
        "not_worse": Check(figure="nll_per_char", against="champion", direction="lower", margin=0.05),
    }
)
POOL = simulation.centred([(value, 1) for value in REAL])


def most(level: float) -> float:
    return binom.ppf(0.999, CANDIDATES, level) / CANDIDATES


@pytest.fixture(scope="module", params=[30, 100])
def drawn(request: pytest.FixtureRequest) -> list[simulation.Drawn]:
    sets = simulation.draw_sets(POOL, request.param, CANDIDATES, np.random.default_rng(7))
    return [simulation.Drawn(values, statistics.resample(values, 10_000, 0)) for values in sets]


def test_no_better_than_the_base_is_approved_as_rarely_as_is_said(drawn: list[simulation.Drawn]) -> None:
    told = simulation.null(drawn, GATE.checks["improvement"], GATE)
    assert told["test"] <= most(0.05)
    assert told["check_fitted"] <= most(0.05)
    assert told["check_fitted_looks"] <= told["test_looks"] <= most(0.05 / 20)
    assert told["check"] <= told["test"]
    assert told["test"] > 0.01  # it is no test that approves nobody
    assert told["means"] > most(0.05)  # the seed's rule: whoever has the lower mean


def test_worse_than_the_champion_by_twice_the_margin_passes_in_a_hundredth_at_most(
    drawn: list[simulation.Drawn],
) -> None:
    assert max(simulation.champion(drawn, GATE).values()) <= 0.01
    at_the_margin, _ = simulation.judge(drawn[0], GATE.checks["not_worse"], GATE, shift=0.05)
    assert 0.01 < (at_the_margin <= 0.05).mean() <= most(0.05)  # on the margin itself it passes at the level


def test_a_real_improvement_is_seen_as_often_as_the_power_says(drawn: list[simulation.Drawn]) -> None:
    told = simulation.power_curve(drawn, GATE.checks["improvement"], GATE, points=5)
    tests = [point["test"] for point in told["curve"]]
    assert tests == sorted(tests)
    middle, last = told["curve"][2], told["curve"][-1]
    assert middle["improvement"] == pytest.approx(told["margin"])
    assert middle["noncentral_t"] == pytest.approx(0.95, abs=0.001)
    assert middle["test"] == pytest.approx(0.95, abs=0.06)
    assert last["check"] > 0.9


def test_rows_of_a_cluster_taken_for_clusters_are_caught() -> None:
    told = simulation.in_clusters(POOL, 100, CANDIDATES, np.random.default_rng(1))
    assert told["clusters_as_units"] <= most(0.05)
    assert told["rows_as_units"] > most(0.05)
    assert told["percentile_of_rows"] > most(0.05)


def test_either_half_of_the_method_is_needed() -> None:
    generator = np.random.default_rng(2)
    skewed, heavy = (
        simulation.methods(
            simulation.draw_sets(
                simulation.centred([(float(value), 1) for value in shape(generator)]), 30, 1000, generator
            )
        )
        for shape in (simulation.SHAPES["skewed (lognormal)"], simulation.SHAPES["heavy tails (t with 3 degrees)"])
    )
    assert skewed["both"] <= skewed["bootstrap_t"] < 0.75 * skewed["student"]
    assert heavy["both"] <= heavy["student"] < heavy["bootstrap_t"]


def test_clusters_are_drawn_whole() -> None:
    pool = [(0.1, 3), (0.2, 1), (0.3, 2)]
    sets = simulation.draw_sets(pool, 10, 200, np.random.default_rng(0))
    size = dict(pool)
    assert sum(values.shape[1] for values in sets) == 200
    assert len(sets) > 1
    for values in sets:
        for column in values.T:
            rows = [size[ratio] for ratio in column]
            assert sum(rows[:-1]) < 10 <= sum(rows)
