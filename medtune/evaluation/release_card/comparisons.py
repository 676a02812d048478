"""The differences that the card draws: those that the gate judged, and the other intervals of the evaluation."""

from collections.abc import Iterable, Mapping
from typing import Any

from medtune.evaluation.release_card.names import UNITS


def comparisons(
    evaluate: Mapping[str, Any], findings: Iterable[Mapping[str, Any]], gate: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of the forest plots, a minus b: label, unit, better, mean, low, high, confidence, rows, clusters, method.

    edge: where a check draws its line, or None, and edge_says what it asks there. A comparison with the base asks for
    an improvement (the line is on the better side of zero), one with the champion bears a loss (on the worse side).
    """
    rows = [_judged(finding) for finding in findings if (finding.get("details") or {}).get("against")]
    judged = {row["figure"] for row in rows}
    if "nll_per_char.against_base" not in judged:
        rows.append(_measured("Against its base", "evaluate.adapter_minus_base", evaluate, gate))
    rows.append(_measured("Merged model against base + adapter", "evaluate.merged_minus_adapter", evaluate, gate))
    for key in (evaluate.get("general") or {}).get("forgetting") or {}:
        figure = f"evaluate.general.forgetting.{key}"
        rows.append(_measured("Forgetting: against its base, general Korean", figure, evaluate, gate))
    return [row for row in rows if row]


def _judged(finding: Mapping[str, Any]) -> dict[str, Any]:
    details = finding["details"]
    against, key = details["against"], str(finding.get("figure")).split(".", 1)[0]
    unit, better = UNITS.get(key, UNITS["nll_per_char"])
    margin, sign = details.get("margin"), -1 if better == "lower" else 1
    edge = None if margin is None else sign * margin if against == "base" else -sign * margin
    asked = "improvement that matters" if against == "base" else "loss that is borne"
    who = "its base" if against == "base" else "the champion"
    kept = ("confidence", "rows", "clusters", "method", "power", "p_adjusted", "sd", "left_out")
    return {
        "label": f"Against {who}, test rows",
        "figure": finding.get("figure"),
        "unit": unit,
        "better": better,
        "mean": finding.get("value"),
        "low": finding.get("low"),
        "high": finding.get("high"),
        "edge": edge,
        "edge_says": None if edge is None else f"check {finding.get('name')}: {asked} {edge:+.4g}",
        **{key: details.get(key) for key in kept},
    }


def _measured(label: str, figure: str, evaluate: Mapping[str, Any], gate: Mapping[str, Any]) -> dict[str, Any] | None:
    value: Any = {"evaluate": evaluate}
    for part in figure.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        return None
    unit, better = UNITS.get(figure.rsplit(".", 1)[-1], UNITS["nll_per_char"])
    edge, says = _bound(figure, gate)
    return {"label": label, "figure": figure, "unit": unit, "better": better, "edge": edge, "edge_says": says, **value}


def _bound(figure: str, gate: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """The bound of the check on this interval or one of its ends, where the recipe has one."""
    for name, check in (gate.get("checks") or {}).items():
        asked = str(check.get("figure", ""))
        if check.get("against") or not (asked == figure or asked.startswith(f"{figure}.")):
            continue
        for bound in ("at_most", "at_least", "below", "above"):
            if check.get(bound) is not None:
                end = asked.removeprefix(figure).strip(".") or "it"
                return check[bound], f"check {name}: {end} {bound.replace('_', ' ')} {check[bound]:g}"
    return None, None
