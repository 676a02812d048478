"""The gate on plain data: bounds, shares, comparisons with base and champion, and what is no evidence."""

import dataclasses
import json
import math

import numpy as np
import pytest

from medtune.params.gate import Check, Gate
from medtune.registry.comparison import Rivals, align
from medtune.registry.gate import Finding, asks_for_a_look, decide, unknown_figure

NOBODY = {"base": None, "champion": None}
IMPROVES = Check(figure="nll_per_char", against="base", direction="lower", margin=0.1)
NO_WORSE = Check(figure="nll_per_char", against="champion", direction="lower", margin=0.1)


def gate(alpha: float = 0.05, looks: int = 20, **checks: Check) -> Gate:
    return Gate(alpha=alpha, looks=looks, checks=checks or {"kl": Check(figure="merge.kl_mean", at_most=1.0)})


def outcome(check: Check, value: object) -> str:
    return decide(gate(a=check), {"merge": {"x": value}}, NOBODY).outcome


def share(passed: object, of: object) -> dict:
    return {"passed": passed, "of": of, "share": passed / of if of else None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("bound", "limit", "value", "passes"),
    [
        ("at_most", 1.0, 1.0, True),
        ("at_most", 1.0, 1.0000001, False),
        ("at_least", 1.0, 1.0, True),
        ("at_least", 1.0, 0.9999999, False),
        ("below", 0.0, 0.0, False),
        ("below", 0.0, -1e-9, True),
        ("above", 0.0, 0.0, False),
        ("above", 0.0, 1, True),
    ],
)
def test_bounds(bound: str, limit: float, value: float, passes: bool) -> None:
    assert outcome(Check(figure="merge.x", **{bound: limit}), value) == ("approved" if passes else "rejected")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, True, "0.1", [0.1], {"z": 0.1}])
@pytest.mark.parametrize("bound", ["at_most", "at_least", "below", "above"])
def test_no_number_never_passes(bound: str, value: object) -> None:
    decision = decide(gate(a=Check(figure="merge.x", **{bound: 0.5})), {"merge": {"x": value}}, NOBODY)
    assert decision.outcome == "inconclusive"
    assert decision.findings[0].value is None
    assert "merge.x is" in decision.reasons[0]


@pytest.mark.parametrize("reports", [{}, {"merge": {}}, {"merge": {"x": 1.0}}, {"merge": {"x": {"z": 1.0}}}])
def test_missing_figure(reports: dict) -> None:
    decision = decide(gate(a=Check(figure="merge.x.y", at_most=5.0)), reports, NOBODY)
    assert decision.outcome == "inconclusive"
    assert decision.reasons == ["a: merge.x.y is missing from reports/merge.json; it must be at most 5"]


def test_a_failure_outweighs_what_is_undecided_and_both_outweigh_what_passed() -> None:
    good, bad, missing = (Check(figure=f"merge.{name}", at_most=1.0) for name in ("good", "bad", "missing"))
    reports = {"merge": {"good": 0.0, "bad": 2.0}}
    assert decide(gate(a=good, b=missing, c=bad), reports, NOBODY).outcome == "rejected"
    assert decide(gate(a=good, b=missing), reports, NOBODY).outcome == "inconclusive"
    assert decide(gate(a=good), reports, NOBODY).outcome == "approved"


def test_a_check_that_does_not_block_reports_only() -> None:
    checks = {
        "kl": Check(figure="merge.kl_mean", at_most=1.0, why="fidelity"),
        "loops": Check(figure="evaluate.adapter.loop_share", at_most=0.1, blocks=False),
        "ended": Check(figure="evaluate.adapter.ended_share", at_least=0.1, blocks=False),
    }
    decision = decide(gate(**checks), {"merge": {"kl_mean": 0.5}, "evaluate": {"adapter": {"loop_share": 0.9}}}, NOBODY)
    assert decision.outcome == "approved"
    assert decision.reasons == [
        "kl: merge.kl_mean is 0.5, at most 1 as asked: fidelity",
        "loops: evaluate.adapter.loop_share is 0.9; it must be at most 0.1 (reported only, does not block)",
        "ended: evaluate.adapter.ended_share is missing from reports/evaluate.json; it must be at least 0.1 "
        "(reported only, does not block)",
    ]
    assert [finding.mark for finding in decision.findings] == ["ok", "no", "?"]


@pytest.mark.parametrize(
    ("passed", "of", "level", "expected"),
    [
        (9, 10, None, "approved"),
        (8, 10, None, "rejected"),
        (70, 72, 0.05, "approved"),  # 95% sure of at least 91.5%
        (69, 72, 0.05, "inconclusive"),  # of at least 89.6%
        (62, 72, 0.05, "inconclusive"),  # 86%: at most 92%
        (59, 72, 0.05, "rejected"),  # 82%: at most 89.0%
        (8, 8, 0.05, "inconclusive"),  # eight prompts cannot show 0.9
        (0, 0, 0.05, "inconclusive"),
        (0, 0, None, "inconclusive"),
        (True, 1, None, "inconclusive"),
        (3, 2, None, "inconclusive"),
    ],
)
def test_shares_are_judged_by_their_counts(passed: int, of: int, level: float | None, expected: str) -> None:
    assert outcome(Check(figure="merge.x", at_least=0.9, level=level), share(passed, of)) == expected


def test_a_share_from_above() -> None:
    assert outcome(Check(figure="merge.x", at_most=0.1, level=0.05), share(2, 72)) == "approved"
    assert outcome(Check(figure="merge.x", at_most=0.1, level=0.05), share(3, 72)) == "inconclusive"
    assert outcome(Check(figure="merge.x", at_most=0.1, level=0.05), share(13, 72)) == "rejected"


def test_the_exact_bound_is_at_the_checks_level() -> None:
    check = Check(figure="merge.x", at_least=0.95, level=0.05)
    # all of n pass: the bound is level ** (1 / n), 0.95 from 59 on
    assert outcome(check, share(58, 58)) == "inconclusive"
    assert outcome(check, share(59, 59)) == "approved"
    said = decide(gate(a=check), {"merge": {"x": share(58, 58)}}, NOBODY).reasons[0]
    assert said == (
        "a: merge.x is 58 of 58 (100.0%), 95% sure of at least 95.0% only; too few cases to say whether it is at least "
        "0.95"
    )


def test_a_level_wants_counts() -> None:
    assert outcome(Check(figure="merge.x", at_least=0.5, level=0.05), 0.9) == "inconclusive"


# ---- comparisons


def rivals(difference: float, n: int = 40, spread: float = 0.1, seed: int = 0, figure: str = "nll") -> dict:
    """The candidate minus the other is about `difference` a row."""
    noise = np.random.default_rng(seed).normal(size=n)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * spread
    chars = {"chars": 1} if figure == "nll" else {}
    ours = [{"row_id": f"r{i}", "cluster": f"c{i}", figure: 3 + difference + x, **chars} for i, x in enumerate(noise)]
    other = [{**row, figure: 3.0} for row in ours]
    pair = Rivals("the base", ours, other, n)
    return {"base": pair, "champion": Rivals("champion version 7", ours, other, n)}


@pytest.mark.parametrize(
    ("difference", "n", "spread", "expected", "said"),
    [
        (-0.5, 40, 0.1, "approved", "better, p 0.0001 within 0.0025, with power 1.00 for 0.1"),
        (-0.12, 40, 0.1, "approved", "minus that of the base is -0.12 (95% interval"),
        (0.0, 40, 0.1, "rejected", "an improvement of 0.1 is excluded (alpha 0.05 over 20 looks)"),
        (0.5, 40, 0.1, "rejected", "an improvement of 0.1 is excluded"),
        (-0.05, 40, 0.1, "rejected", "an improvement of 0.1 is excluded"),  # significant, and too small to matter
        (-0.1, 40, 0.4, "inconclusive", "that it is better is not shown, p 0.06"),
        (-1.0, 12, 0.2, "inconclusive", "but 12 clusters show 0.1 with power 0.09 only, and 0.8 is asked; 58 clusters"),
        (-1.0, 9, 0.01, "inconclusive", "9 clusters of rows with this figure, and 10 is the least"),
        (-1.0, 40, 0.0, "inconclusive", "have the same difference"),
        (0.0, 40, 0.0, "inconclusive", "have the same difference"),
        (math.nan, 40, 0.1, "inconclusive", "have no finite difference"),
    ],
)
def test_against_the_base(difference: float, n: int, spread: float, expected: str, said: str) -> None:
    decision = decide(gate(better=IMPROVES), {}, rivals(difference, n, spread))
    assert decision.outcome == expected, decision.reasons
    assert said in decision.reasons[0]


@pytest.mark.parametrize(
    ("difference", "n", "spread", "expected", "said"),
    [
        (0.0, 40, 0.1, "approved", "not worse by 0.1, p 0.0001 within 0.0025, with power 1.00"),
        (-0.5, 40, 0.1, "approved", "minus that of champion version 7 is -0.5"),
        (0.04, 40, 0.1, "approved", "not worse by 0.1"),  # shown to be worse, and to be within the margin
        (0.2, 40, 0.1, "rejected", "worse, and not within 0.1"),
        (0.08, 40, 0.1, "rejected", "worse, and not within 0.1"),
        (0.0, 40, 0.3, "inconclusive", "that it is not worse by 0.1 is not shown"),
        (-0.3, 12, 0.2, "inconclusive", "but 12 clusters show 0.1 with power"),
        (0.0, 40, 0.0, "inconclusive", "have the same difference"),
    ],
)
def test_against_the_champion(difference: float, n: int, spread: float, expected: str, said: str) -> None:
    decision = decide(gate(step=NO_WORSE), {}, rivals(difference, n, spread))
    assert decision.outcome == expected, decision.reasons
    assert said in decision.reasons[0]


def test_higher_is_better_for_some_figures() -> None:
    better = Check(figure="chrfpp", against="base", direction="higher", margin=1.0)
    step = Check(figure="chrfpp", against="champion", direction="higher", margin=1.0)
    for difference, expected in ((5.0, "approved"), (-5.0, "rejected")):
        met = rivals(difference, figure="chrfpp", spread=1.0)
        assert decide(gate(a=better), {}, met).outcome == expected
        assert decide(gate(a=step), {}, met).outcome == expected


def test_no_champion_asks_nothing_and_no_base_is_no_evidence() -> None:
    decision = decide(gate(step=NO_WORSE), {}, NOBODY)
    assert decision.outcome == "approved"
    assert decision.findings[0].outcome == "not_applicable"
    assert "there is no champion to compare with" in decision.reasons[0]
    assert decide(gate(better=IMPROVES), {}, NOBODY).outcome == "inconclusive"


def test_a_champion_that_cannot_be_scored_approves_nobody() -> None:
    broken = Rivals("champion version 7", [], [], 40, "its rows cannot be scored (a file changed)")
    decision = decide(gate(step=NO_WORSE), {}, {"base": None, "champion": broken})
    assert decision.outcome == "inconclusive"
    assert (
        "cannot be compared with champion version 7: its rows cannot be scored (a file changed)" in decision.reasons[0]
    )


def test_spent_looks_compare_nothing() -> None:
    decision = decide(gate(better=IMPROVES, step=NO_WORSE), {}, rivals(-0.5), "20 of 20 looks used")
    assert decision.outcome == "inconclusive"
    assert [finding.value for finding in decision.findings] == [None, None]
    assert all("was not looked at: 20 of 20 looks used" in reason for reason in decision.reasons)


def test_the_level_is_shared_by_looks_and_by_holm() -> None:
    met = rivals(-0.111, 40, 0.4)  # p about 0.045
    assert decide(gate(alpha=0.05, looks=1, a=IMPROVES), {}, met).findings[0].details["p"] < 0.05
    first = Check(figure="nll_per_char", against="base", direction="lower", margin=0.19)
    assert decide(gate(alpha=0.05, looks=1, a=first), {}, met).outcome == "approved"
    assert decide(gate(alpha=0.05, looks=2, a=first), {}, met).outcome == "inconclusive"
    second = Check(figure="nll_per_char", against="champion", direction="lower", margin=0.19)
    two = decide(gate(alpha=0.05, looks=1, a=first, b=second), {}, met)
    # Holm: the smaller p (against the champion) is doubled, the larger one stands
    p = {finding.name: (finding.details["p"], finding.details["p_adjusted"]) for finding in two.findings}
    assert p["b"][1] == pytest.approx(2 * p["b"][0])
    assert p["a"][1] == pytest.approx(max(p["a"][0], 2 * p["b"][0]))
    three = decide(gate(alpha=0.05, looks=1, a=first, b=first.model_copy(), c=second), {}, met)
    assert three.findings[0].details["p_adjusted"] == pytest.approx(2 * p["a"][0])
    assert three.outcome == "inconclusive"


def test_a_comparison_that_cannot_be_computed_keeps_its_place_in_the_family() -> None:
    met = rivals(-0.5)
    met["champion"] = Rivals("champion version 7", [], [], 40)
    decision = decide(gate(a=IMPROVES, b=NO_WORSE), {}, met)
    assert decision.outcome == "inconclusive"
    assert decision.findings[0].details["p_adjusted"] == pytest.approx(2 * decision.findings[0].details["p"])


def test_align_takes_the_candidates_order() -> None:
    ours = [{"row_id": key} for key in "abc"]
    theirs = [{"row_id": key, "x": 1} for key in "dcb"]
    assert align(ours, theirs) == (
        [{"row_id": "b"}, {"row_id": "c"}],
        [{"row_id": "b", "x": 1}, {"row_id": "c", "x": 1}],
    )


def test_what_costs_a_look() -> None:
    assert asks_for_a_look(gate(a=IMPROVES), champion=False)
    assert asks_for_a_look(gate(a=NO_WORSE), champion=True)
    assert not asks_for_a_look(gate(a=NO_WORSE), champion=False)
    assert not asks_for_a_look(gate(), champion=True)


def test_unknown_figures_are_told_from_missing_ones() -> None:
    reports = {"merge": {"kl_mean": 0.1}, "evaluate": {"adapter": {"chrfpp": 1.0}}}
    asked = gate(a=Check(figure="merge.kl_maen", at_most=1.0))
    assert unknown_figure(asked, reports) == (
        "a",
        "'merge.kl_maen' is in no report: there is no 'kl_maen'; did you mean 'kl_mean'?",
    )
    # known, and not there: a suite that was not asked
    assert unknown_figure(gate(a=Check(figure="evaluate.safety.dosage.adapter.passed", at_least=1.0)), reports) is None
    assert unknown_figure(gate(a=Check(figure="review.preference.share", at_least=0.5)), reports) is None


def test_findings_survive_their_tags_and_older_ones_are_read() -> None:
    decision = decide(gate(a=IMPROVES, b=NO_WORSE), {}, rivals(-0.5))
    for finding in decision.findings:
        assert Finding.read(json.loads(json.dumps(vars(finding), allow_nan=False))) == finding
    old = {"name": "a", "figure": "x", "value": 1.0, "bound": "at most 1", "blocks": True, "sentence": "a: x is 1"}
    assert Finding.read({**old, "passed": True}).outcome == "passed"
    assert Finding.read({**old, "passed": False}).mark == "NO"
    assert dataclasses.asdict(Finding.read({**old, "passed": False}))["details"] == {}


def test_findings_of_other_checks_count() -> None:
    licence = Finding("licence", "licence", None, "research", False, True, "licence: GPL-3.0", "failed")
    assert decide(gate(), {"merge": {"kl_mean": 0.0}}, NOBODY, more=[licence]).outcome == "rejected"
