"""Two models on the same rows: intervals, one-sided tests, power, and Holm's correction.

The unit is a near-duplicate cluster: its rows are no independent evidence, so that they become one ratio, the sum of
the differences over the sum of the denominators ((nll_a - nll_b) / characters, say). The estimate is the mean of these
ratios over clusters; what is drawn again and again is whole clusters.

Method: the studentised (bootstrap-t) bootstrap. Every resample gives t* = (mean* - mean) / se*, and the quantiles of
t* take the place of Student's table. Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 12.5; Hall,
Theoretical comparison of bootstrap confidence intervals, Annals of Statistics 16 (1988), who shows that each end of the
interval is right to second order, as the percentile interval's ends are not; DiCiccio and Efron, Bootstrap confidence
intervals, Statistical Science 11 (1996).

Student's t over the same ratios bounds it: the larger p-value and the wider end count. Where differences are skewed the
bootstrap is the more careful of the two (Student's t lets three times its level through), where they have symmetric
heavy tails Student's t is (the bootstrap lets a third more through); neither costs power worth naming on real rows.
benchmarks/gate_simulation.py measures what they hold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Row = Mapping[str, Any]

# figure -> (numerator, denominator or None for 1 a row, whether lower is better); what a row of rows.parquet holds
FIGURES = {
    "nll_per_char": ("nll", "chars", True),
    "chrfpp": ("chrfpp", None, False),
    "rouge_l": ("rouge_l", None, False),
}
# Fewer clusters are too few different resamples for a tail: no interval is better than one that means nothing.
MIN_CLUSTERS = 10
# Resamples for a level: a p-value is at least 1 / (samples + 1), and 20 of them in the tail are few enough.
TAIL = 20
SAMPLES = 10_000
METHOD = "paired cluster bootstrap, studentised, {samples} resamples, bounded by Student's t; one ratio a cluster"


@dataclass(frozen=True)
class Paired:
    """values: (clusters,) one ratio of differences a cluster, a minus b; how many rows went in, how many lacked it."""

    values: "np.ndarray"
    rows: int
    left_out: int

    @property
    def problem(self) -> str:
        """Why nothing can be inferred, as a clause; empty where it can."""
        import numpy as np

        size = len(self.values)
        if size < MIN_CLUSTERS:
            return f"{size} cluster{'s' if size != 1 else ''} of rows with this figure, and {MIN_CLUSTERS} is the least"
        if not np.isfinite(self.values).all():
            return f"{int((~np.isfinite(self.values)).sum())} of {size} clusters have no finite difference"
        # constant up to the rounding of a subtraction: there is no spread to measure the mean against
        if float(np.ptp(self.values)) <= 1e-12 * max(float(np.abs(self.values).max()), 1e-300):
            return f"all {size} clusters have the same difference ({self.values[0]:.6g}), so that it has no spread"
        return ""


@dataclass(frozen=True)
class Resampled:
    """mean, sd, se: (sets,); t: (samples, sets), nan where a resample had no spread; n: clusters of each set."""

    mean: "np.ndarray"
    sd: "np.ndarray"
    se: "np.ndarray"
    t: "np.ndarray"
    n: int

    def interval(self, confidence: float) -> tuple["np.ndarray", "np.ndarray"]:
        """Two-sided, equal tails: (sets,) low and high; infinite where a resample without spread is in the tail."""
        lower, upper = self.tails(confidence)
        return self.mean - upper * self.se, self.mean - lower * self.se

    def tails(self, confidence: float) -> tuple["np.ndarray", "np.ndarray"]:
        """(sets,) lower and upper quantile of t, the bootstrap's or Student's, whichever is further out."""
        import numpy as np
        from scipy.stats import t

        tail = (1 - confidence) / 2
        student = float(t.ppf(1 - tail, self.n - 1))
        # a resample without spread tells nothing of its t: it counts against the interval at either end
        below, above = (np.where(np.isnan(self.t), worst, self.t) for worst in (-np.inf, np.inf))
        upper = np.quantile(above, 1 - tail, axis=0, method="inverted_cdf")
        lower = np.quantile(below, tail, axis=0, method="inverted_cdf")
        return np.minimum(lower, -student), np.maximum(upper, student)

    def p_value(self, null: float, lower: bool) -> "np.ndarray":
        """(sets,) one-sided p of H0: the mean is `null` or beyond, against a lower (else a higher) mean."""
        import numpy as np

        return np.maximum(self.p_bootstrap(null, lower), self.p_student(null, lower))

    def p_bootstrap(self, null: float, lower: bool) -> "np.ndarray":
        """The bootstrap's interval inverted: the share of t* at or beyond (mean - null) / se.

        (1 + count) / (samples + 1), so that it is never 0: Davison and Hinkley, Bootstrap Methods and their Application
        (1997), chapter 4.
        """
        import numpy as np

        t = (self.mean - null) / self.se
        beyond = (self.t <= t) if lower else (self.t >= t)
        return (1 + (beyond | np.isnan(self.t)).sum(axis=0)) / (len(self.t) + 1)

    def p_student(self, null: float, lower: bool) -> "np.ndarray":
        """Student's one-sample t-test of the clusters' ratios."""
        from scipy.stats import t

        observed = (self.mean - null) / self.se
        return t.cdf(observed, self.n - 1) if lower else t.sf(observed, self.n - 1)


def paired(a_rows: Sequence[Row], b_rows: Sequence[Row], figure: str = "nll_per_char") -> Paired:
    """One ratio a cluster of a minus b.

    Rows where one of the two has no answer to give a figure of, or where the denominators differ (another text), are
    left out and counted. A loss that is missing is no number, and makes its cluster none. ValueError where the rows are
    not the same ones in the same order.
    """
    import numpy as np

    numerator, denominator, _ = FIGURES[figure]
    if [row["row_id"] for row in a_rows] != [row["row_id"] for row in b_rows]:
        raise ValueError("the two models were not scored on the same rows in the same order")
    sums: dict[str, list[float]] = {}
    used = 0
    for one, other in zip(a_rows, b_rows, strict=True):
        ours, theirs = one.get(numerator), other.get(numerator)
        size = one.get(denominator) if denominator else 1
        if not size or (denominator and other.get(denominator) != size):
            continue
        if ours is None or theirs is None:
            if not denominator:
                continue
            ours = theirs = math.nan
        total = sums.setdefault(one["cluster"], [0.0, 0.0])
        total[0] += ours - theirs
        total[1] += size
        used += 1
    values = np.array([difference / size for difference, size in sums.values()], dtype=float)
    return Paired(values, used, len(a_rows) - used)


def resample(values: "np.ndarray", samples: int, seed: int) -> Resampled:
    """Bootstrap-t of the mean. values: (clusters,) or (clusters, sets), every set drawn with the same resamples."""
    import numpy as np

    columns = values.reshape(len(values), -1)
    n = len(columns)
    mean = columns.mean(axis=0)
    centred = columns - mean  # sums of squares of what is centred lose no digits
    squares = centred**2
    sd = np.sqrt(squares.sum(axis=0) / (n - 1))
    generator = np.random.default_rng(seed)
    parts = []
    # how often each cluster is drawn, as a matrix: means and spreads of all sets are two products
    chunk = max(1, 4_000_000 // n)
    for start in range(0, samples, chunk):
        count = min(chunk, samples - start)
        drawn = generator.integers(n, size=(count, n))
        drawn += np.arange(count)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(float)
        shift = times @ centred / n
        variance = (times @ squares - n * shift**2) / (n - 1)
        # below the rounding of the sums there is no spread
        error = np.sqrt(np.where(variance > 1e-20 * squares.max(axis=0), variance, np.nan) / n)
        parts.append(shift / error)
    return Resampled(mean, sd, sd / math.sqrt(n), np.concatenate(parts), n)


def compare(
    a_rows: Sequence[Row],
    b_rows: Sequence[Row],
    figure: str = "nll_per_char",
    confidence: float = 0.95,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """a minus b on the same rows: mean, low, high, confidence, sd (of the clusters' ratios), clusters, rows, left_out,
    method, p_superior (one-sided, that a is better), problem.

    low, high and p_superior are None where they cannot be computed, and `problem` then says why; mean and sd are None
    where they are not finite. ValueError where the rows are not the same ones in the same order.
    """
    pairs = paired(a_rows, b_rows, figure)
    told = one_sided_test(pairs, 0.0, FIGURES[figure][2], confidence, samples, seed)
    return {
        "mean": told.mean,
        "low": told.low,
        "high": told.high,
        "confidence": confidence,
        "sd": told.sd,
        "clusters": len(pairs.values),
        "rows": pairs.rows,
        "left_out": pairs.left_out,
        "p_superior": told.p,
        "figure": figure,
        "method": METHOD.format(samples=samples),
        "problem": told.problem,
    }


@dataclass(frozen=True)
class OneSidedTest:
    """A one-sided test with its interval; p, low and high are None where `problem` says why."""

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p: float | None
    clusters: int
    problem: str = ""


def one_sided_test(pairs: Paired, null: float, lower: bool, confidence: float, samples: int, seed: int) -> OneSidedTest:
    """Test that the mean difference is below (`lower`) or above `null`, with a two-sided interval of the mean."""
    import numpy as np

    size = len(pairs.values)
    mean = _finite(pairs.values.mean()) if size else None
    sd = _finite(pairs.values.std(ddof=1)) if size > 1 and np.isfinite(pairs.values).all() else None
    if problem := pairs.problem:
        return OneSidedTest(mean, sd, None, None, None, size, problem)
    drawn = resample(pairs.values, samples, seed)
    low, high = (float(end[0]) for end in drawn.interval(confidence))
    if not (math.isfinite(low) and math.isfinite(high)):
        many = int(np.isnan(drawn.t).sum())
        problem = f"{many} of {samples} resamples have no spread: too many clusters have the same difference"
        return OneSidedTest(mean, sd, None, None, None, size, problem)
    return OneSidedTest(mean, sd, low, high, float(drawn.p_value(null, lower)[0]), size)


def samples_for(level: float) -> int:
    """Resamples that a one-sided test at `level` needs."""
    return max(SAMPLES, math.ceil(TAIL / level))


def power(sd: float, clusters: int, level: float, margin: float) -> float:
    """Chance that a one-sided test at `level` sees a true difference of `margin`, by the noncentral t distribution.

    Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2; the same figure is the chance to
    show non-inferiority by `margin` where there is no difference (Julious, Statistics in Medicine 23, 2004).
    """
    from scipy.stats import nct, t

    if clusters < 2:
        return 0.0
    if sd <= 0:
        return 1.0
    freedom = clusters - 1
    reached = float(nct.sf(t.ppf(1 - level, freedom), freedom, margin / sd * math.sqrt(clusters)))
    # far out (nc above 37 or so) the series underflows to nan; there the chance is 1 to any digit that is printed
    return reached if math.isfinite(reached) else 1.0


def clusters_needed(sd: float, level: float, margin: float, wanted: float, most: int = 1_000_000) -> int | None:
    """The fewest clusters with power `wanted`; None where `most` do not give it."""
    low, high = 2, most
    if power(sd, most, level, margin) < wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(sd, middle, level, margin) >= wanted else (middle + 1, high)
    return low


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: each may be held to the level of the whole family.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, running = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = running
    return adjusted


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
