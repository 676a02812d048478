"""The document of data.py as one self-contained page: no request leaves it, and without scripts only search is missing.

    page(data) -> str

Script and style stand inline and are named by their digests in the page's content security policy, so that nothing that
a model wrote could run even if it got past the escaping.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from medtune.evaluation.release_card import charts, facts
from medtune.evaluation.release_card.names import FIGURES, SETS, VERDICTS
from medtune.evaluation.release_card.new_rows import new_rows
from medtune.evaluation.release_card.self_contained import fitting, policy
from medtune.evaluation.release_card.wording import flat, moment, number, share

CUTS = (1200, 600, 300, 150, 80, 40)  # characters of an answer that are shown
MODELS = {"base": "Base", "champion": "Champion", "adapter": "Candidate", "merged": "Candidate, merged"}


def page(data: Mapping[str, Any]) -> str:
    """The page. Its bytes depend on `data` alone."""
    return fitting(lambda cut: _render(data, cut), CUTS)


def _render(data: Mapping[str, Any], cut: int) -> str:
    style, script = _file("card.css"), _file("card.js")
    outcome = data["summary"]["outcome"]
    return (
        _environment()
        .get_template("card.html.j2")
        .render(
            d=data,
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
            outcome=outcome,
            mark={"approved": "✓", "rejected": "✕"}.get(outcome["id"], "?"),
            name=_name(data),
            findings=_findings(data["decision"].get("findings") or []),
            figures=_figures(data),
            forests=_forests(data["comparisons"]),
            suites=_suites(data["safety"]),
            failures=[a for a in data["answers"] if a["verdict"] == "failed"],
            memorisation=_suites([data["memorisation"]])[0] if data["memorisation"] else None,
            general=_general(data),
            curve=charts.curve(data["training"]["history"], "Loss over steps"),
            losses=_losses(data["training"]["history"]),
            new_rows=new_rows(data["drift"]),
            answers=data["answers"],
            cut=cut,
            models=MODELS,
            sets=SETS,
            verdicts=VERDICTS,
            facts=facts,
            flat=flat,
        )
    )


def _findings(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With their verdicts, what stands in the way first."""
    order = ("failed", "undecided", "reported", "passed")
    judged = [finding | {"verdict": verdict_of(finding)} for finding in findings]
    return sorted(judged, key=lambda finding: order.index(finding["verdict"][1]))


def verdict_of(finding: Mapping[str, Any]) -> tuple[str, str]:
    """(word, class) of a check. Findings of older versions know no outcome beyond whether they passed."""
    told = finding.get("outcome") or ("passed" if finding.get("passed") else "failed")
    if told == "not_applicable":
        return "Not asked", "passed"
    if told == "passed":
        return "Passed", "passed"
    word, kind = ("Undecided", "undecided") if told == "undecided" else ("Failed", "failed")
    return (word, kind) if finding.get("blocks") else (f"{word}, reported only", "reported")


def _name(data: Mapping[str, Any]) -> str:
    merged = (data["versions"] or {}).get("merged") or {}
    if merged.get("model") and merged.get("number") is not None:
        return f"{merged['model']} version {merged['number']}"
    return f"Candidate {str(data['candidate'] or 'without a digest')[:12]}"


def _figures(data: Mapping[str, Any]) -> dict[str, Any]:
    evaluation, champion = data["evaluation"], data["champion"] or {}
    columns = [("Base", evaluation.get("base")), ("Champion", champion.get("figures"))]
    columns += [("Candidate", evaluation.get("adapter")), ("Candidate, merged", evaluation.get("merged"))]
    columns = [(name, figures) for name, figures in columns if figures]
    rows = []
    for key, label, form, better in FIGURES:
        cells = [_written(figures.get(key), form) for _, figures in columns]
        if any(cell != "–" for cell in cells):
            rows.append({"label": label, "better": better, "cells": cells})
    return {"columns": [name for name, _ in columns], "rows": rows}


def _forests(comparisons: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One plot a unit: nats, points of chrF++ and ROUGE-L share no axis."""
    plots: dict[str, list] = {}
    for row in comparisons:
        plots.setdefault(row["unit"], []).append(row)
    found = []
    for unit, rows in plots.items():
        edges = [0.0]
        for row in rows:
            edges += [row.get(key) for key in ("mean", "low", "high", "edge")]
        axis = charts.Axis(edges)
        found.append(
            {
                "unit": unit,
                "better": rows[0]["better"],
                "edges": any(row.get("edge") is not None for row in rows),
                "scale": charts.scale(axis, "{:+g}"),
                "rows": [row | {"plot": charts.interval(axis, row, row["label"])} for row in rows],
            }
        )
    return found


def _suites(suites: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    axis = charts.Axis([0.0, 100.0])
    found = []
    for suite in suites:
        kinds = []
        for kind in suite["kinds"]:
            rows = [(model, kind[model]) for model in ("base", "champion", "candidate") if kind.get(model)]
            kinds.append(kind | {"plot": charts.shares(axis, rows, kind["label"])})
        found.append(suite | {"kinds": kinds, "scale": charts.scale(axis, "{:g}%")})
    return found


def _general(data: Mapping[str, Any]) -> dict[str, Any] | None:
    general = data["evaluation"].get("general")
    if not general:
        return None
    columns = [("Base", general.get("base")), ("Champion", (data["champion"] or {}).get("general"))]
    columns = [(name, figures) for name, figures in [*columns, ("Candidate", general.get("adapter"))] if figures]
    rows = [
        {"label": label, "better": better, "cells": [_written(figures.get(key), form) for _, figures in columns]}
        for key, label, form, better in FIGURES
        if any(figures.get(key) is not None for _, figures in columns)
    ]
    return {"columns": [name for name, _ in columns], "rows": rows, "of": general.get("rows")}


def _losses(history: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most some thirty lines: the curve in numbers, for those who cannot see it."""
    every = max(1, len(history) // 24)
    return [h for i, h in enumerate(history) if i % every == 0 or "eval_loss" in h or i == len(history) - 1][-40:]


def _written(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) and not isinstance(value, bool) else "–"


def _file(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, share=share, moment=moment)
    return environment
