"""How often the gate errs: null candidates, real improvements and candidates that are worse than the champion.

    python -m benchmarks.gate_simulation                     # rows of the last evaluation, 1,000 candidates a size
    python -m benchmarks.gate_simulation --rows ROWS.parquet --candidates 10000 --out build/gate_simulation

The differences of real rows (adapter minus base, nats a character) are drawn again, whole clusters at a time, until a
candidate has 30, 100 or 530 rows. Centred on their mean they are a candidate that is no better than its base; shifted
from there, one that is better or worse by a known amount. Every candidate goes through the gate's own code
(medtune/registry/comparison.py) with the active recipe's checks. Writes results.json and power.png.

  null       approved by the candidate-against-base check: by its test alone, and by the whole check, which also wants
             power for its margin and no interval that excludes it; beside them a percentile bootstrap and the plain
             comparison of two means, for the record
  methods    the test alone at 5%, on differences of other shapes, for what each half of the method is good for
  clusters   rows that come four to a cluster, taken for clusters and taken for single rows
  power      approved where the improvement is real
  champion   worse than the champion by twice the margin, and passed as not worse
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.evaluation import statistics
from medtune.params.gate import Check, Gate
from medtune.params.recipe import PARAMS, parse_recipe, read_yaml
from medtune.registry.comparison import PASSED, Result, Rivals, verdict

if TYPE_CHECKING:
    import numpy as np

SIZES = (30, 100, 530)
ROWS = Path("reports/evaluate/rows.parquet")
EASILY = 0.95  # power at which hardly a candidate is refused for having drawn a wide spread by chance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--recipe", type=Path, default=PARAMS)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/gate_simulation"))
    arguments = parser.parse_args()
    gate = parse_recipe(read_yaml(arguments.recipe), str(arguments.recipe)).gate
    pool = read_pool(arguments.rows)
    results = simulate(pool, gate, arguments.candidates, arguments.seed, print)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results["power"], arguments.out / "power.png")
    print(f"{arguments.out / 'results.json'}, {arguments.out / 'power.png'}")


def read_pool(path: Path) -> list[tuple[float, int]]:
    """(ratio, rows) of every cluster of a rows.parquet: adapter minus base, as the gate makes them."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    adapter, base = ([row for row in rows if row["model"] == model] for model in ("adapter", "base"))
    values = statistics.paired(adapter, base).values.tolist()
    sizes: dict[str, int] = {}
    for row in adapter:
        sizes[row["cluster"]] = sizes.get(row["cluster"], 0) + 1
    return list(zip(values, sizes.values(), strict=True))


def simulate(
    pool: list[tuple[float, int]], gate: Gate, candidates: int, seed: int, say: Callable[[str], Any]
) -> dict[str, Any]:
    import numpy as np

    generator = np.random.default_rng(seed)
    ratios = np.array([ratio for ratio, _ in pool])
    found: dict[str, Any] = {
        "pool": {"clusters": len(pool), "rows": sum(n for _, n in pool), "sd": float(ratios.std(ddof=1))},
        "candidates": candidates,
        "null": {},
        "methods": {},
        "clusters": {},
        "power": {},
        "champion": {},
    }
    say(f"pool: {found['pool']}; {candidates} candidates a size")
    improvement = next(check for check in gate.comparisons.values() if check.against == "base")
    for size in SIZES:
        samples = statistics.samples_for(gate.level_of(improvement) / gate.looks)
        values = [
            Drawn(values, statistics.resample(values, samples, seed=0))
            for values in draw_sets(centred(pool), size, candidates, generator)
        ]
        found["null"][size] = null(values, improvement, gate)
        say(f"null, {size} rows: {found['null'][size]}")
        found["power"][size] = power_curve(values, improvement, gate)
        found["champion"][size] = champion(values, gate)
        say(f"champion, {size} rows: {found['champion'][size]}")
    for name, shape in SHAPES.items():
        source = [(float(value), 1) for value in shape(generator)]
        found["methods"][name] = {
            size: methods(draw_sets(centred(source), size, candidates, generator)) for size in SIZES[:2]
        }
        say(f"methods, {name}: {found['methods'][name]}")
    for size in SIZES[1:]:
        found["clusters"][size] = in_clusters(centred(pool), size, candidates, generator)
        say(f"clusters of four, {size} rows: {found['clusters'][size]}")
    return found


# Shapes of differences that rows may have, other than the pool's; drawn from as if they were rows
SHAPES = {
    "skewed (lognormal)": lambda generator: generator.lognormal(size=100_000),
    "skewed the other way": lambda generator: -generator.lognormal(size=100_000),
    "heavy tails (t with 3 degrees)": lambda generator: generator.standard_t(3, size=100_000),
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """values: (clusters, candidates); drawn: their resamples, of which t* depends on no shift and no scale."""

    values: "np.ndarray"
    drawn: statistics.Resampled

    @property
    def sd(self) -> float:
        return float(self.drawn.sd.mean())

    @cache  # noqa: B019 - a handful of objects, all alive to the end
    def tails(self, confidence: float) -> tuple["np.ndarray", "np.ndarray"]:
        return self.drawn.tails(confidence)

    def resolved(self, level: float, wanted: float) -> float:
        """The smallest difference that a test at `level` shows with power `wanted`."""
        low, high = 0.0, 100 * self.sd
        for _ in range(60):
            middle = (low + high) / 2
            reached = statistics.power(self.sd, self.drawn.n, level, middle) >= wanted
            low, high = (low, middle) if reached else (middle, high)
        return high


def centred(pool: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The pool with mean 0: what is drawn from it is no better and no worse than its base."""
    mean = sum(ratio for ratio, _ in pool) / len(pool)
    return [(ratio - mean, rows) for ratio, rows in pool]


def draw_sets(
    pool: list[tuple[float, int]], rows: int, candidates: int, generator: "np.random.Generator"
) -> list["np.ndarray"]:
    """Candidates of `rows` rows or one cluster more: (clusters, candidates) arrays, one for each number of clusters."""
    import numpy as np

    ratios, sizes = (np.array(column) for column in zip(*pool, strict=True))
    drawn = generator.integers(len(pool), size=(rows, candidates))  # a cluster has a row at least
    counts = (np.cumsum(sizes[drawn], axis=0) < rows).sum(axis=0) + 1
    return [ratios[drawn[:count, counts == count]] for count in np.unique(counts)]


def null(sets: list[Drawn], check: Check, gate: Gate) -> dict[str, float]:
    """Shares of null candidates that are approved: by the test, by the check, by what others do.

    check: with the recipe's margin; check_fitted: with the smallest margin that the rows show, where the check approves
    most easily. _looks: at alpha / looks, as the gate decides; without: at alpha, as if there were but one look.
    """
    import numpy as np

    level = gate.level_of(check)
    count = sum(one.values.shape[1] for one in sets)
    told: dict[str, int] = {}
    for one in sets:
        for suffix, looks in (("", 1), ("_looks", gate.looks)):
            policy = gate.model_copy(update={"looks": looks})
            fitted = check.model_copy(update={"margin": one.resolved(level / looks, EASILY)})
            p, passed = judge(one, check, policy)
            _, passed_fitted = judge(one, fitted, policy)
            for name, number in (
                ("test", int((p <= level / looks).sum())),
                ("check", sum(passed)),
                ("check_fitted", sum(passed_fitted)),
            ):
                told[name + suffix] = told.get(name + suffix, 0) + number
        told["percentile"] = told.get("percentile", 0) + int((percentile(one.values, 1 - level) < 0).sum())
        told["means"] = told.get("means", 0) + int((np.mean(one.values, axis=0) < 0).sum())
    return {name: number / count for name, number in told.items()}


def judge(
    one: Drawn, check: Check, gate: Gate, shift: float = 0.0, scale: float = 1.0
) -> tuple["np.ndarray", list[bool]]:
    """(p of each candidate, whether the gate's check passes it), with values times `scale` plus `shift`."""
    level = gate.level_of(check)
    drawn = replace(one.drawn, mean=one.drawn.mean * scale + shift, sd=one.drawn.sd * scale, se=one.drawn.se * scale)
    bound = 0.0 if check.against == "base" else check.margin
    p = drawn.p_value(bound, lower=True)
    lower, upper = one.tails(1 - level)
    lows, highs = drawn.mean - upper * drawn.se, drawn.mean - lower * drawn.se
    nobody = Rivals("another", [], [], drawn.n)
    passed = []
    for mean, sd, low, high, chance in zip(drawn.mean, drawn.sd, lows, highs, p, strict=True):
        test = statistics.OneSidedTest(float(mean), float(sd), float(low), float(high), float(chance), drawn.n)
        result = Result(test, test.p, drawn.n, 0, len(drawn.t))
        passed.append(verdict(check, nobody, result, test.p, gate, family=1).outcome == PASSED)
    return p, passed


def percentile(values: "np.ndarray", confidence: float, samples: int = 2000) -> "np.ndarray":
    """The upper end of a one-sided percentile interval of each candidate's mean, for the record."""
    import numpy as np

    n = len(values)
    drawn = np.random.default_rng(0).integers(n, size=(samples, n)) + np.arange(samples)[:, None] * n
    times = np.bincount(drawn.ravel(), minlength=samples * n).reshape(samples, n).astype(float)
    return np.quantile(times @ values / n, confidence, axis=0)


def methods(sets: list["np.ndarray"], level: float = 0.05) -> dict[str, float]:
    """Shares that the halves of the method and both together let through at `level`, where nothing is better."""
    told = dict.fromkeys(("bootstrap_t", "student", "both"), 0)
    for values in sets:
        drawn = statistics.resample(values, statistics.samples_for(level), seed=0)
        for name, p in (
            ("bootstrap_t", drawn.p_bootstrap(0.0, True)),
            ("student", drawn.p_student(0.0, True)),
            ("both", drawn.p_value(0.0, True)),
        ):
            told[name] += int((p <= level).sum())
    count = sum(values.shape[1] for values in sets)
    return {name: number / count for name, number in told.items()}


def in_clusters(
    pool: list[tuple[float, int]], rows: int, candidates: int, generator: "np.random.Generator", each: int = 4
) -> dict[str, float]:
    """Near-duplicates, `each` to a cluster: a cluster's difference and a third of its spread on every row of it."""

    clusters = draw_sets([(ratio, 1) for ratio, _ in pool], rows // each, candidates, generator)[0]
    spread = generator.normal(scale=float(clusters.std()) / 3, size=(each, *clusters.shape))
    single = (clusters + spread).reshape(-1, candidates)
    grouped = (clusters + spread).mean(axis=0)
    return {
        "clusters_as_units": methods([grouped])["both"],
        "rows_as_units": methods([single])["both"],
        "percentile_of_rows": float((percentile(single, 0.95) < 0).mean()),
    }


def power_curve(sets: list[Drawn], check: Check, gate: Gate, points: int = 13) -> dict[str, Any]:
    """Approved by the check where the improvement is real, in steps up to twice its margin.

    The margin is the smallest one that nearly all candidates of so many rows have the power for at alpha / looks: at
    gate.power itself every other one would draw a wider spread than the mean one, and be refused for it.
    """
    import numpy as np

    one = max(sets, key=lambda part: part.values.shape[1])
    level = gate.level_of(check) / gate.looks
    margin = one.resolved(level, EASILY)
    fitted = check.model_copy(update={"margin": margin})
    curve = []
    for improvement in map(float, np.linspace(0, 2 * margin, points)):
        p, passed = judge(one, fitted, gate, shift=-improvement)
        curve.append(
            {
                "improvement": improvement,
                "test": float((p <= level).mean()),
                "check": float(np.mean(passed)),
                "noncentral_t": statistics.power(one.sd, one.drawn.n, level, improvement) if improvement else level,
            }
        )
    return {"clusters": one.drawn.n, "sd": one.sd, "level": level, "margin": margin, "curve": curve}


def champion(sets: list[Drawn], gate: Gate) -> dict[str, float]:
    """Passed as not worse, where the candidate is worse than the champion by twice the margin.

    On the pool's own spread, and on one so small that the rows have all the power that the check asks for, where it
    passes most easily; by the whole check, and by its test alone at one look.
    """
    check = next(check for check in gate.comparisons.values() if check.against == "champion")
    level = gate.level_of(check)
    told = dict.fromkeys(("check", "check_fitted", "test_one_look", "test_one_look_fitted"), 0.0)
    count = sum(one.values.shape[1] for one in sets)
    once = gate.model_copy(update={"looks": 1})
    for one in sets:
        for suffix, scale in (("", 1.0), ("_fitted", check.margin / one.resolved(level / gate.looks, EASILY))):
            _, passed = judge(one, check, gate, 2 * check.margin, scale)
            told[f"check{suffix}"] += sum(passed) / count
            p, _ = judge(one, check, once, 2 * check.margin, scale)
            told[f"test_one_look{suffix}"] += float((p <= level).sum()) / count
    return told


def draw(power: dict[int, dict[str, Any]], path: Path) -> None:
    """Share approved over the true improvement, a line for each number of rows; dashed: by the noncentral t."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (size, told), color in zip(power.items(), ("#2f6db3", "#d9822b", "#5a8f3d"), strict=True):
        x = [point["improvement"] for point in told["curve"]]
        label = f"{size} rows ({told['clusters']} clusters)"
        axes.plot(x, [point["check"] for point in told["curve"]], color=color, marker="o", markersize=3, label=label)
        axes.plot(x, [point["noncentral_t"] for point in told["curve"]], color=color, linewidth=1, linestyle="--")
    axes.set(
        xlabel="true improvement, nats a character",
        ylabel="share approved by the check",
        title="Power of the candidate-against-base check (dashed: noncentral t)",
        ylim=(-0.02, 1.02),
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
