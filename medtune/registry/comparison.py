"""Comparisons of the gate: the candidate against the base or the champion on the same test rows. Plain data in and out.

Against the base: superiority. H0: no better. A check passes where Holm's p is within its level and the rows have the
power to show an improvement of `margin`; it fails where the interval excludes such an improvement, however significant
a smaller one may be. Against the champion: non-inferiority. H0: worse by `margin` or more. It passes where that is
refuted and the rows have the power to refute it; it fails where the candidate is shown to be worse and not shown to be
within the margin. Whatever else is open: undecided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medtune.evaluation import statistics
from medtune.params.gate import Check, Gate

PASSED, FAILED, UNDECIDED, NOT_APPLICABLE = "passed", "failed", "undecided", "not_applicable"
SHARED = 0.9  # of the test rows, scored by both in the same length: a rest of them is another test set
SEED = 0  # fixed: nobody tries seeds until one decides as wished


@dataclass(frozen=True)
class Rivals:
    """The rows of the candidate and of whom it is compared with, the same row ids in the same order.

    who: as a sentence says it ("the base", "champion version 3"); total: the candidate's test rows; problem: a clause
    that says why there are no rows to compare.
    """

    who: str
    candidate: Sequence[Mapping[str, Any]]
    other: Sequence[Mapping[str, Any]]
    total: int
    problem: str = ""


@dataclass(frozen=True)
class Verdict:
    """outcome: passed | failed | undecided | not_applicable; said: the sentence's second half."""

    outcome: str
    said: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    details: dict[str, Any] | None = None


def align(candidate: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> tuple[list, list]:
    """The rows that both have, in the candidate's order."""
    theirs = {row["row_id"]: row for row in other}
    both = [row for row in candidate if row["row_id"] in theirs]
    return both, [theirs[row["row_id"]] for row in both]


def judge_comparisons(gate: Gate, rivals: Mapping[str, Rivals | None], closed: str = "") -> dict[str, Verdict]:
    """A verdict for every comparison of the gate, by check name.

    rivals: by `against`; None where there is nobody to compare with. closed: a sentence where no look may be taken any
    more; then nothing is computed. Holm's correction is over the comparisons that block and have a rival.
    """
    asked = gate.comparisons
    met = {name: rivals.get(check.against) for name, check in asked.items()}
    verdicts = {name: _nobody(asked[name]) for name, rival in met.items() if rival is None}
    open_ = {name: rival for name, rival in met.items() if rival is not None}
    if closed:
        return verdicts | {name: Verdict(UNDECIDED, f"was not looked at: {closed}") for name in open_}

    family = [name for name in open_ if asked[name].blocks]
    sizes = {name: len(family) if asked[name].blocks else 1 for name in open_}
    results = {
        name: compare_check(asked[name], rival, gate.level_of(asked[name]), gate.looks, sizes[name])
        for name, rival in open_.items()
    }
    # what cannot be computed is no evidence at all, and keeps its place in the family
    p_values = {name: 1.0 if results[name].p is None else results[name].p for name in family}
    adjusted = statistics.holm(p_values)
    for name, rival in open_.items():
        result = results[name]
        p = adjusted.get(name, result.p)
        verdicts[name] = verdict(asked[name], rival, result, p, gate, sizes[name])
    return {name: verdicts[name] for name in asked}


@dataclass(frozen=True)
class Result:
    """One comparison's test, before the family is known: p is unadjusted."""

    test: statistics.OneSidedTest
    p: float | None
    rows: int
    left_out: int
    samples: int


def compare_check(check: Check, rival: Rivals, level: float, looks: int, family: int) -> Result:
    """The test that a check asks for, with as many resamples as its smallest level needs."""
    samples = statistics.samples_for(level / looks / family)
    lower = check.direction == "lower"
    pairs = statistics.paired(rival.candidate, rival.other, check.figure)
    null = 0.0 if check.against == "base" else (check.margin if lower else -check.margin)
    told = statistics.one_sided_test(pairs, null, lower, 1 - level, samples, SEED)
    return Result(told, told.p, pairs.rows, pairs.left_out, samples)


def verdict(check: Check, rival: Rivals, result: Result, p: float | None, gate: Gate, family: int) -> Verdict:
    """What a test says for a check; `p` is Holm's."""
    level, told = gate.level_of(check), result.test
    each = level / gate.looks
    details = {
        "against": check.against,
        "margin": check.margin,
        "p": result.p,
        "p_adjusted": p,
        "level": each,
        "confidence": 1 - level,
        "sd": told.sd,
        "clusters": told.clusters,
        "rows": result.rows,
        "left_out": rival.total - result.rows,
        "method": statistics.METHOD.format(samples=result.samples),
    }
    why = rival.problem or told.problem
    if not why and check.figure == "nll_per_char" and result.rows < SHARED * rival.total:
        why = f"only {result.rows} of {rival.total} test rows were scored in the same length by both"
    if why or p is None:
        return Verdict(UNDECIDED, f"cannot be compared with {rival.who}: {why}", told.mean, details=details)

    details["power"] = has = statistics.power(told.sd, told.clusters, each / family, check.margin)
    outcome, said = _weigh(check, told, p, each, has, gate.power)
    if outcome == UNDECIDED and p <= each:
        needs = statistics.clusters_needed(told.sd, each / family, check.margin, gate.power)
        said += f"; {needs:,} clusters would have it" if needs else ""
    holm = f", Holm over {family} checks" if family > 1 else ""
    rows = f"{result.rows} of {rival.total}" if result.rows != rival.total else f"{result.rows}"
    figures = (
        f"minus that of {rival.who} is {told.mean:+.4g} ({1 - level:.0%} interval {told.low:+.4g} to {told.high:+.4g}, "
        f"{told.clusters} clusters of {rows} test rows): {said} (alpha {level:g} over {gate.looks} looks{holm})"
    )
    return Verdict(outcome, figures, told.mean, told.low, told.high, details)


def _weigh(
    check: Check, told: statistics.OneSidedTest, p: float, level: float, has: float, wanted: float
) -> tuple[str, str]:
    """The outcome and the clause that says why; see the module for the rules."""
    lower, margin = check.direction == "lower", check.margin
    best = told.low if lower else -told.high  # the end of the interval that flatters the candidate; below 0 is better
    figures = f"p {p:.3g}"
    short = f"but {told.clusters} clusters show {margin:g} with power {has:.2f} only, and {wanted:g} is asked"
    if check.against == "base":
        if best > -margin:
            return FAILED, f"an improvement of {margin:g} is excluded"
        if p > level:
            return UNDECIDED, f"that it is better is not shown, {figures} and must be within {level:.3g}"
        if has < wanted:
            return UNDECIDED, f"better, {figures}, {short}"
        return PASSED, f"better, {figures} within {level:.3g}, with power {has:.2f} for {margin:g}"
    if p > level:
        if best > 0:
            return FAILED, f"worse, and not within {margin:g}, {figures} and must be within {level:.3g}"
        return UNDECIDED, f"that it is not worse by {margin:g} is not shown, {figures} and must be within {level:.3g}"
    if has < wanted:
        return UNDECIDED, f"not worse by {margin:g}, {figures}, {short}"
    return PASSED, f"not worse by {margin:g}, {figures} within {level:.3g}, with power {has:.2f}"


def _nobody(check: Check) -> Verdict:
    if check.against == "champion":
        return Verdict(NOT_APPLICABLE, "there is no champion to compare with, so that nothing is asked")
    return Verdict(UNDECIDED, "cannot be compared with the base: there are no rows of it")
