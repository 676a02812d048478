"""The card's section on drift: new rows against those that the champion of then had learned."""

from collections.abc import Mapping
from typing import Any

from medtune.corpus.drift_text import bin_names, percent, verdict
from medtune.evaluation.release_card import charts

SHOWN = 12  # specialties and words, of those that moved most
KINDS = {"ALARM": "reported", "not judged": "undecided", "may be chance": "undecided", "within": "passed"}
WORDS = {"ALARM": "Alarm", "not judged": "Not judged", "may be chance": "May be chance", "within": "Within"}


def new_rows(drift: Mapping[str, Any]) -> dict[str, Any]:
    """{"why"} where nothing was compared; else the report with "measures" and "plots" ready to be written."""
    record = drift.get("drift")
    if not record:
        return {"why": drift.get("why") or "nothing was recorded of it", "measures": [], "plots": []}
    return {
        "why": None,
        "counts": drift["counts"],
        "against": drift["against"],
        "alarms": record["alarms"],
        "why_not": record["why_not"],
        "method": record["method"],
        "measures": [_measure(one, record["judged"]) for one in record["measures"]],
        "plots": _plots(record["bars"] or {}),
    }


def _measure(one: Mapping[str, Any], judged: bool) -> dict[str, Any]:
    share = one["statistic"].startswith("share")

    def written(value: float | None) -> str:
        return "–" if value is None else percent(value) if share else f"{value:.2f}"

    told = verdict(one, judged)
    return {
        "label": one["label"],
        "statistic": one["statistic"],
        **{key: written(one[key]) for key in ("value", "chance", "size", "threshold")},
        "p": "–" if one["p"] is None else f"{one['p']:.2g}",
        "word": WORDS[told],
        "kind": KINDS[told],
    }


def _plots(bars: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for key, title in (("question", "Length of questions, characters"), ("answer", "Length of answers, characters")):
        if one := bars.get(key):
            rows = zip(bin_names(one["edges"]), one["old"], one["new"], strict=True)
            medians = f"medians {one['medians']['old']:,.0f} and {one['medians']['new']:,.0f}"
            found.append(_plot(f"{title}; {medians}", ("Characters", "rows"), list(rows), None))
    named = (
        ("specialties", "Specialties by keyword", ("Specialty", "rows")),
        ("words", "Frequent words of the old rows", ("Word", "frequent words")),
    )
    for key, title, columns in named:
        rows = [(one["name"], one["old"], one["new"]) for one in bars.get(key) or [] if one["old"] or one["new"]]
        if rows:
            found.append(_plot(f"{title}, what moved most first", columns, rows[:SHOWN], "ko"))
    return found


def _plot(
    title: str, columns: tuple[str, str], rows: list[tuple[str, float, float]], language: str | None
) -> dict[str, Any]:
    """`columns`: what a row is called, and of what the shares are."""
    axis = charts.Axis([0.0, *(100 * share for _, old, new in rows for share in (old, new))])
    drawn = []
    for name, old, new in rows:
        said = f"{percent(old)} of the old {columns[1]}, {percent(new)} of the new ones"
        drawn.append(
            {
                "name": name,
                "lang": language,
                "plot": charts.twins(axis, 100 * old, 100 * new, name, said),
                "old": percent(old),
                "new": percent(new),
            }
        )
    return {"title": title, "columns": columns, "scale": charts.scale(axis, "{:g}%"), "rows": drawn}
