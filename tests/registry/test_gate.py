"""The gate on plain data: bounds, what is no number, the champion."""

import math

import pytest

from medtune.params.errors import RegistryError
from medtune.params.gate import Check, Gate
from medtune.registry.gate import decide


def gate(champion: bool = False, **checks: Check) -> Gate:
    return Gate(checks=checks or {"kl": Check(figure="merge.kl_mean", at_most=1.0)}, not_worse_than_champion=champion)


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
    decision = decide(gate(a=Check(figure="evaluate.x.y", **{bound: limit})), {"evaluate": {"x": {"y": value}}}, None)
    assert decision.outcome == ("approved" if passes else "rejected")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, True, "0.1", [0.1], {"z": 0.1}])
@pytest.mark.parametrize("bound", ["at_most", "at_least", "below", "above"])
def test_no_number_never_passes(bound: str, value: object) -> None:
    decision = decide(gate(a=Check(figure="evaluate.x", **{bound: 0.5})), {"evaluate": {"x": value}}, None)
    assert decision.outcome == "rejected"
    assert decision.findings[0].value is None
    assert "evaluate.x is" in decision.reasons[0]


@pytest.mark.parametrize("reports", [{}, {"evaluate": {}}, {"evaluate": {"x": 1.0}}, {"evaluate": {"x": {"z": 1.0}}}])
def test_missing_figure(reports: dict) -> None:
    decision = decide(gate(a=Check(figure="evaluate.x.y", at_most=5.0)), reports, None)
    assert decision.outcome == "rejected"
    assert decision.reasons == ["a: evaluate.x.y is missing from reports/evaluate.json; it must be at most 5"]


@pytest.mark.parametrize("figure", ["evaluation.x", "x", "evaluate", "register.x"])
def test_unknown_root_names_the_key(figure: str) -> None:
    with pytest.raises(RegistryError, match=r"params\.yaml: gate\.checks\.mine\.figure"):
        decide(gate(mine=Check(figure=figure, at_most=1.0)), {}, None)


def test_a_check_that_does_not_block_reports_only() -> None:
    checks = {
        "kl": Check(figure="merge.kl_mean", at_most=1.0, why="fidelity"),
        "loops": Check(figure="evaluate.loops", at_most=0.1, blocks=False),
    }
    decision = decide(gate(**checks), {"merge": {"kl_mean": 0.5}, "evaluate": {"loops": 0.9}}, None)
    assert decision.outcome == "approved"
    assert decision.reasons == [
        "kl: merge.kl_mean is 0.5, at most 1 as asked: fidelity",
        "loops: evaluate.loops is 0.9; it must be at most 0.1 (reported only, does not block)",
    ]


@pytest.mark.parametrize(
    ("candidate", "champion", "rows", "outcome", "said"),
    [
        (1.0, 1.0, 10, "approved", "1 nats a character on 10 test rows, not above the 1 of champion version 7"),
        (1.1, 1.0, 10, "rejected", "1.1 nats a character on 10 test rows, above the 1 of champion version 7"),
        (0.9, 1.0, 4, "approved", "on 4 of 10 test rows"),
        (None, None, 0, "rejected", "share no test row with a finite score"),
        (math.nan, 1.0, 10, "rejected", "share no test row with a finite score"),
        (1.0, math.nan, 10, "rejected", "share no test row with a finite score"),
    ],
)
def test_champion(candidate: float, champion: float, rows: int, outcome: str, said: str) -> None:
    against = {
        "number": 7,
        "version": "a" * 64,
        "rows": rows,
        "total": 10,
        "candidate": candidate,
        "champion": champion,
    }
    reports = {"merge": {"kl_mean": 0.0}}
    decision = decide(gate(champion=True), reports, against)
    assert decision.outcome == outcome
    assert said in decision.reasons[-1]
    assert decide(gate(champion=False), reports, against).outcome == "approved"
    assert decide(gate(champion=True), reports, None).outcome == "approved"
