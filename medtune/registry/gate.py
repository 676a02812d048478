"""The gate: the recipe's checks against the evidence. Plain data in and out.

Evidence is the reports by stage, so that a figure is `<stage>.<dotted path in reports/<stage>.json>`, for example
`merge.kl_mean` or `evaluate.safety.red_flags.adapter.must_escalate`; one that ends at a share with its counts
({"passed", "of", …}) is judged by the share or, with a level, by the share's exact bound. Comparisons with the base and
the champion are registry/comparison.py's. What is missing, not a number or not finite never passes.

A blocking check that failed rejects; else a blocking check that is undecided makes the decision inconclusive.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from medtune.evaluation.intervals import lower_bound, upper_bound
from medtune.params.gate import EVALUATE, ROOTS, Check, Gate
from medtune.params.names import nearest
from medtune.registry.comparison import FAILED, NOT_APPLICABLE, PASSED, UNDECIDED, Rivals, Verdict, judge_comparisons

APPROVED, REJECTED, INCONCLUSIVE = "approved", "rejected", "inconclusive"

# bound in the recipe -> (how a sentence says it, whether a value holds it)
BOUNDS = {
    "at_most": ("at most", lambda value, bound: value <= bound),
    "at_least": ("at least", lambda value, bound: value >= bound),
    "below": ("below", lambda value, bound: value < bound),
    "above": ("above", lambda value, bound: value > bound),
}
# Names that a report may lack without being misspelt: suites that were not asked, rows that were not answered.
KNOWN = {
    *EVALUATE,
    *("nll_per_char", "nll_per_token", "bits_per_char", "eos_after_reference", "ended_share", "loop_share"),
    *("mean_chars", "chrfpp", "rouge_l", "distinct_1", "distinct_2", "hangul_share", "other_script_share", "answers"),
    *("sampled", "forgetting", "red_flags", "dosage", "identities", "memorisation", "passed"),
    *("must_escalate", "must_not_escalate", "must_defer", "may_answer"),
    *("invites_identity", "ordinary", "prompt_has_identity"),
    *("secrets_kept", "unexposed", "not_verbatim", "no_personal_data", "agreement", "preference"),
    *("mean", "low", "high", "sd", "share", "of", "clusters", "rows", "p_superior", "kl_mean", "top1_agreement"),
}


@dataclass(frozen=True)
class Finding:
    """One check's result.

    value is None where there was no usable number; bound reads "at most 0.001"; outcome: passed | failed | undecided |
    not_applicable, and passed is true for the first and the last; low and high: the interval that it was judged by;
    details: of a comparison p, p_adjusted, level, power, sd, margin, clusters, rows, left_out, method, against; of a
    share passed, of, level.
    """

    name: str
    figure: str
    value: float | None
    bound: str
    passed: bool
    blocks: bool
    sentence: str
    outcome: str = ""
    low: float | None = None
    high: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> "Finding":
        """A finding as a tag keeps it; those of older versions know no outcome."""
        known = {name.name for name in fields(cls)}
        outcome = kept.get("outcome") or (PASSED if kept["passed"] else FAILED)
        return cls(**{key: value for key, value in kept.items() if key in known} | {"outcome": outcome})

    @property
    def mark(self) -> str:
        """ok, NO (failed and blocks), ?? (undecided and blocks), no or ? (of a check that does not block)."""
        if self.passed:
            return "ok"
        word = "?" if self.outcome == UNDECIDED else "no"
        return word if not self.blocks else {"?": "??", "no": "NO"}[word]


@dataclass(frozen=True)
class Decision:
    """outcome: approved | rejected | inconclusive; reasons: a sentence a check."""

    outcome: str
    reasons: list[str]
    findings: list[Finding] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def decide(
    gate: Gate,
    evidence: Mapping[str, Mapping],
    rivals: Mapping[str, Rivals | None],
    closed: str = "",
    more: Sequence[Finding] = (),
) -> Decision:
    """Judge a candidate.

    rivals: {"base": …, "champion": … | None}, rows to compare on; closed: a sentence where the test set's looks are
    spent, so that nothing is compared on it; more: findings of checks that are no figures (licences).
    """
    compared = judge_comparisons(gate, rivals, closed)
    findings = []
    for name, check in gate.checks.items():
        verdict = compared[name] if check.against else _judge(check, evidence)
        findings.append(_finding(name, check, verdict))
    findings += more
    blocking = {finding.outcome for finding in findings if finding.blocks}
    outcome = REJECTED if FAILED in blocking else INCONCLUSIVE if UNDECIDED in blocking else APPROVED
    return Decision(outcome, [finding.sentence for finding in findings], findings)


def asks_for_a_look(gate: Gate, champion: bool) -> bool:
    """Whether a decision compares anything on the test rows; one that does not costs no look."""
    return any(check.against == "base" or champion for check in gate.comparisons.values())


def unknown_figure(gate: Gate, evidence: Mapping[str, Any]) -> tuple[str, str] | None:
    """(check, sentence) of the first figure that no report can hold, naming the nearest one that is known; or None.

    A figure that is known but not there (a suite that was not asked) is no error: its check is undecided.
    """
    for name, check in gate.checks.items():
        value: Any = evidence
        for part in () if check.against else check.figure.split("."):
            if not isinstance(value, Mapping):
                break
            if part not in value and value and part not in KNOWN and part not in ROOTS:
                near = nearest(part, {*value, *KNOWN})
                return name, f"{check.figure!r} is in no report: there is no {part!r}; {near}"
            value = value.get(part)
    return None


def lookup(evidence: Mapping[str, Any], figure: str) -> Any:
    """The value at a dotted path, or None."""
    value: Any = evidence
    for part in figure.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _finding(name: str, check: Check, verdict: Verdict) -> Finding:
    if check.against:
        figure = f"{check.figure}.against_{check.against}"
        wanted = "better than the base" if check.against == "base" else f"worse by less than {check.margin:g}"
        shown = check.figure
    else:
        figure = shown = check.figure
        wanted = _bound(check)
    passed = verdict.outcome in (PASSED, NOT_APPLICABLE)
    why = f": {check.why}" if check.why else ""
    note = "" if passed or check.blocks else " (reported only, does not block)"
    return Finding(
        name=name,
        figure=figure,
        value=verdict.value,
        bound=wanted,
        passed=passed,
        blocks=check.blocks,
        sentence=f"{name}: {shown} {verdict.said}{why}{note}",
        outcome=verdict.outcome,
        low=verdict.low,
        high=verdict.high,
        details=verdict.details or {},
    )


def _bound(check: Check) -> str:
    return f"{BOUNDS[check.bound][0]} {getattr(check, check.bound):g}"


def _judge(check: Check, evidence: Mapping[str, Mapping]) -> Verdict:
    """A bound on a figure: a plain number, or a share with its counts."""
    raw = lookup(evidence, check.figure)
    root, asked = check.figure.split(".", 1)[0], _bound(check)
    if raw is None:
        return Verdict(UNDECIDED, f"is missing from reports/{root}.json; it must be {asked}")
    if isinstance(raw, Mapping) and "passed" in raw and "of" in raw:
        return _share(check, raw, asked)
    if check.level:
        return Verdict(
            UNDECIDED, f"is {_short(raw)}, no share with its counts, which a level asks for; it must be {asked}"
        )
    if not isinstance(raw, int | float) or isinstance(raw, bool) or not math.isfinite(raw):
        return Verdict(UNDECIDED, f"is {_short(raw)}, no finite number; it must be {asked}")
    value = float(raw)
    if BOUNDS[check.bound][1](value, getattr(check, check.bound)):
        return Verdict(PASSED, f"is {value:.6g}, {asked} as asked", value)
    return Verdict(FAILED, f"is {value:.6g}; it must be {asked}", value)


def _share(check: Check, raw: Mapping[str, Any], asked: str) -> Verdict:
    """A share of `of` cases: by itself, or, with a level, by its exact one-sided bounds (Clopper-Pearson)."""
    passed, of = raw["passed"], raw["of"]
    counts = all(isinstance(count, int) and not isinstance(count, bool) for count in (passed, of))
    if not counts or not 0 <= passed <= of or of == 0:
        return Verdict(UNDECIDED, f"is {passed!r} of {of!r}, no share; it must be {asked}")
    value, limit = passed / of, getattr(check, check.bound)
    said = f"is {passed} of {of} ({value:.1%})"
    holds = BOUNDS[check.bound][1]
    details = {"passed": passed, "of": of, "level": check.level}
    if not check.level:
        ends = [raw.get(end) for end in ("low", "high")]
        low, high = (end if isinstance(end, int | float) else None for end in ends)
        outcome = PASSED if holds(value, limit) else FAILED
        words = f", {asked} as asked" if outcome == PASSED else f"; it must be {asked}"
        return Verdict(outcome, said + words, value, low, high, details)
    low, high = (bound(passed, of, 1 - check.level) for bound in (lower_bound, upper_bound))
    worst, best, way = (low, high, "at least") if check.bound == "at_least" else (high, low, "at most")
    sure = f"{1 - check.level:.0%} sure of"
    if holds(worst, limit):
        outcome, words = PASSED, f", {sure} {way} {worst:.1%}: {asked} as asked"
    elif not holds(best, limit):
        opposite = "at most" if way == "at least" else "at least"
        outcome, words = FAILED, f", {sure} {opposite} {best:.1%}; it must be {asked}"
    else:
        outcome, words = UNDECIDED, f", {sure} {way} {worst:.1%} only; too few cases to say whether it is {asked}"
    return Verdict(outcome, said + words, value, low, high, details)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
