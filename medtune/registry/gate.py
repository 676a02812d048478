"""The gate: recipe's checks against the evidence, and the candidate against the champion. Plain data in and out.

Evidence is the reports by stage, so that a figure is `<stage>.<dotted path in reports/<stage>.json>`, for example
`evaluate.adapter_minus_base.high` or `merge.kl_mean`. What is missing, not a number or not finite never passes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medtune.params.errors import RegistryError
from medtune.params.gate import Check, Gate
from medtune.params.names import nearest

ROOTS = ("validate", "tokenize", "train", "merge", "evaluate")
APPROVED, REJECTED = "approved", "rejected"
AGAINST_CHAMPION = "not_worse_than_champion"

# bound in the recipe -> (how a sentence says it, whether a value holds it)
BOUNDS = {
    "at_most": ("at most", lambda value, bound: value <= bound),
    "at_least": ("at least", lambda value, bound: value >= bound),
    "below": ("below", lambda value, bound: value < bound),
    "above": ("above", lambda value, bound: value > bound),
}


@dataclass(frozen=True)
class Finding:
    """One check's result. `value` is None where there was no usable number; `bound` reads "at most 0.001"."""

    name: str
    figure: str
    value: float | None
    bound: str
    passed: bool
    blocks: bool
    sentence: str


@dataclass(frozen=True)
class Decision:
    """`outcome` is a word, not a flag, since a gate may come to know more than two; `reasons` are sentences."""

    outcome: str
    reasons: list[str]
    findings: list[Finding] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def decide(gate: Gate, evidence: Mapping[str, Mapping], champion: Mapping[str, Any] | None) -> Decision:
    """Judge a candidate.

    `champion` is None where there is none to compare with, else {"number", "version", "rows", "candidate", "champion"}
    with the two mean negative log-likelihoods in nats per character on the same `rows` test rows (registry/scores.py).
    Every check that blocks must pass. RegistryError names a check whose figure no report can hold.
    """
    findings = [_judge(name, check, evidence) for name, check in gate.checks.items()]
    if gate.not_worse_than_champion and champion is not None:
        findings.append(_against(champion))
    blocked = any(finding.blocks and not finding.passed for finding in findings)
    return Decision(REJECTED if blocked else APPROVED, [finding.sentence for finding in findings], findings)


def lookup(evidence: Mapping[str, Any], figure: str) -> Any:
    """The value at a dotted path, or None."""
    value: Any = evidence
    for part in figure.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _judge(name: str, check: Check, evidence: Mapping[str, Mapping]) -> Finding:
    root = check.figure.split(".", 1)[0]
    if root not in ROOTS or root == check.figure:
        raise RegistryError(
            f"params.yaml: gate.checks.{name}.figure: {check.figure!r} names no figure of a report; write "
            f"<stage>.<key>, such as evaluate.adapter_minus_base.high; {nearest(root, ROOTS)}"
        )
    bound_name = next(bound for bound in BOUNDS if getattr(check, bound) is not None)
    words, holds = BOUNDS[bound_name]
    limit = getattr(check, bound_name)
    bound = f"{words} {limit:g}"

    raw = lookup(evidence, check.figure)
    value = float(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) else None
    if raw is None:
        said, passed = f"is missing from reports/{root}.json; it must be {bound}", False
    elif value is None or not math.isfinite(value):
        said, passed = f"is {raw!r}, no finite number; it must be {bound}", False
        value = None
    else:
        passed = holds(value, limit)
        said = f"is {value:.6g}, {bound} as asked" if passed else f"is {value:.6g}; it must be {bound}"
    why = f": {check.why}" if check.why else ""
    note = "" if passed or check.blocks else " (reported only, does not block)"
    return Finding(name, check.figure, value, bound, passed, check.blocks, f"{name}: {check.figure} {said}{why}{note}")


def _against(champion: Mapping[str, Any]) -> Finding:
    """No worse than the champion: the mean over the same rows must not be above the champion's."""
    ours, theirs, rows, total = (champion.get(key) for key in ("candidate", "champion", "rows", "total"))
    who = f"champion version {champion.get('number')}"
    usable = bool(rows) and all(isinstance(x, int | float) and math.isfinite(x) for x in (ours, theirs))
    passed = usable and ours <= theirs
    if not usable:
        said = (
            f"it cannot be compared with {who}, since the two share no test row with a finite score; "
            "gate.not_worse_than_champion: false lets it pass without"
        )
    else:
        share = f"{rows} of {total} test rows" if total and total != rows else f"{rows} test rows"
        relation = "not above" if passed else "above"
        said = f"{ours:.6g} nats a character on {share}, {relation} the {theirs:.6g} of {who} on the same rows"
    return Finding(
        name=AGAINST_CHAMPION,
        figure="nll_per_char",
        value=ours if usable else None,
        bound=f"at most {theirs:.6g}" if usable else "at most the champion's",
        passed=passed,
        blocks=True,
        sentence=f"{AGAINST_CHAMPION}: {said}",
    )
