"""Intervals and curves as inline SVG.

Positions across are percentages and text is never scaled, so that one drawing serves a desktop and a phone. Colours and
strokes come from the style sheet by class. Every drawing has a title and a description; the numbers stand beside it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

PLOT = 'class="plot" width="100%" role="img"'


class Axis:
    """Values from `low` to `high` as percentages of the width, with 4 % of air at both ends; ticks at round numbers."""

    def __init__(self, values: Iterable[Any]) -> None:
        numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)] or [0.0]
        low, high = min(numbers), max(numbers)
        if low == high:
            low, high = low - 1.0, high + 1.0
        self.low, self.high = low, high
        raw = (high - low) / 5
        power = 10 ** math.floor(math.log10(raw))
        self.step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(4 + 92 * min(1.0, max(0.0, share)), 2)

    def ticks(self) -> list[float]:
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [round(i * self.step, 12) + 0.0 for i in range(first, last + 1)]


def scale(axis: Axis, form: str = "{:g}") -> Markup:
    """The axis of a column of plots: ticks with their values. Hidden from screen readers, which get the numbers."""
    told = {tick: escape((form if tick else form.replace("+", "")).format(tick)) for tick in axis.ticks()}
    marks = "".join(
        f'<text x="{axis.at(tick)}%" y="13" text-anchor="middle">{text}</text>' for tick, text in told.items()
    )
    return Markup(f'<svg class="scale" width="100%" height="18" aria-hidden="true" focusable="false">{marks}</svg>')


def interval(axis: Axis, row: Mapping[str, Any], name: str, zero: bool = True) -> Markup:
    """One row of a forest plot: interval with caps, estimate, zero, and where a check draws its line.

    `row` has mean, low and high, and may have edge: where that line stands.
    """
    parts = _grid(axis, 34)
    if zero:
        parts.append(_line(axis.at(0), 0, 34, "zero"))
    edge, told = row.get("edge"), ""
    if _number(edge):
        parts.append(_line(axis.at(edge), 0, 34, "margin"))
        told = f", the check's line at {edge:+.4g}"
    mean, low, high = row.get("mean"), row.get("low"), row.get("high")
    if low is not None and high is not None:
        parts += _bar(axis, low, high, 17, "candidate")
        told = f", interval {low:+.4g} to {high:+.4g}{told}"
    else:
        told = f", no interval could be computed{told}"
    if mean is not None:
        parts.append(f'<circle cx="{axis.at(mean)}%" cy="17" r="5" class="dot candidate"/>')
    said = f"{mean:+.4g}{told}" if mean is not None else f"no value{told}"
    return _svg(34, name, said, parts)


def shares(axis: Axis, rows: Sequence[tuple[str, Mapping[str, Any] | None]], name: str) -> Markup:
    """Pass shares of several models below each other, each with its exact interval; shapes differ, not colour alone."""
    height = 14 * max(1, len(rows)) + 8
    parts, said = _grid(axis, height), []
    for i, (model, share) in enumerate(rows):
        y = 11 + 14 * i
        if not share or share.get("share") is None:
            continue
        if share.get("low") is not None and share.get("high") is not None:
            parts += _bar(axis, 100 * share["low"], 100 * share["high"], y, model)
        x = axis.at(100 * share["share"])
        parts.append(_marker(x, y, model))
        said.append(f"{model} {share['passed']} of {share['of']}")
    return _svg(height, name, "; ".join(said) or "no figures", parts)


def twins(axis: Axis, old: float, new: float, name: str, said: str) -> Markup:
    """Two bars from zero, in the axis' unit: an outline above and a filled one below, so that colour is not asked."""
    parts = _grid(axis, 30)
    for y, value, kind in ((4, old, "old"), (17, new, "new")):
        wide = round(axis.at(value) - axis.at(0), 2)
        parts.append(f'<rect x="{axis.at(0)}%" y="{y}" width="{wide}%" height="9" class="block {kind}"/>')
    return _svg(30, name, said, parts)


def curve(history: Sequence[Mapping[str, Any]], name: str) -> Markup:
    """Training loss as a line and validation losses as points with a dashed line, over steps."""
    train = [(h["step"], h["loss"]) for h in history if _number(h.get("loss")) and _number(h.get("step"))]
    held = [(h["step"], h["eval_loss"]) for h in history if _number(h.get("eval_loss")) and _number(h.get("step"))]
    if not train and not held:
        return Markup("")
    steps = [step for step, _ in train + held]
    values = [value for _, value in train + held]
    across, up = Axis([min(steps), max(steps)]), Axis(values)
    height, top, bottom = 260, 22, 34

    def y(value: float) -> float:
        return round(top + (height - top - bottom) * (1 - (up.at(value) - 4) / 92), 1)

    parts = []
    for tick in up.ticks():
        parts.append(f'<line x1="0" x2="100%" y1="{y(tick)}" y2="{y(tick)}" class="grid"/>')
        parts.append(f'<text x="0" y="{y(tick) - 4}">{tick:g}</text>')
    whole = [tick for tick in across.ticks() if tick == int(tick)]
    for tick in whole:
        parts.append(f'<text x="{across.at(tick)}%" y="{height - 12}" text-anchor="middle">{tick:g}</text>')
    # lines in a drawing of their own, stretched to the width; non-scaling strokes keep their thickness
    parts.append(f'<svg width="100%" height="{height}" viewBox="0 0 100 {height}" preserveAspectRatio="none">')
    for points, kind in ((_thin(train), "candidate"), (held, "held")):
        if len(points) > 1:
            drawn = " ".join(f"{across.at(step)},{y(value)}" for step, value in points)
            parts.append(f'<polyline points="{drawn}" class="curve {kind}" vector-effect="non-scaling-stroke"/>')
    parts.append("</svg>")
    parts += [f'<circle cx="{across.at(s)}%" cy="{y(v)}" r="4" class="dot held"/>' for s, v in held]
    if len(train) == 1:
        parts.append(f'<circle cx="{across.at(train[0][0])}%" cy="{y(train[0][1])}" r="4" class="dot candidate"/>')
    said = [
        f"{what} loss {p[0][1]:.3f} at step {p[0][0]} to {p[-1][1]:.3f} at step {p[-1][0]}"
        for what, p in (("training", train), ("validation", held))
        if p
    ]
    return _svg(height, name, "; ".join(said), parts)


def _svg(height: int, name: str, said: str, parts: list[str]) -> Markup:
    body = Markup("".join(parts))  # built above from numbers and fixed names alone
    head = Markup(f'<svg {PLOT} height="{height}" aria-label="{{}}"><title>{{}}</title><desc>{{}}</desc>')
    return head.format(f"{name}: {said}", name, said) + body + Markup("</svg>")


def _grid(axis: Axis, height: int) -> list[str]:
    return [_line(axis.at(tick), 0, height, "grid") for tick in axis.ticks()]


def _line(x: float, top: float, bottom: float, kind: str) -> str:
    return f'<line x1="{x}%" x2="{x}%" y1="{top}" y2="{bottom}" class="{kind}"/>'


def _bar(axis: Axis, low: float, high: float, y: float, kind: str) -> list[str]:
    left, right = axis.at(low), axis.at(high)
    return [
        f'<line x1="{left}%" x2="{right}%" y1="{y}" y2="{y}" class="bar {kind}"/>',
        *(f'<line x1="{x}%" x2="{x}%" y1="{y - 4}" y2="{y + 4}" class="bar {kind}"/>' for x in (left, right)),
    ]


def _marker(x: float, y: float, model: str) -> str:
    if model == "base":
        return f'<circle cx="{x}%" cy="{y}" r="4.5" class="ring base"/>'
    if model == "champion":  # a diamond; a nested drawing, since a path knows no percentages
        return (
            f'<svg x="{x}%" y="{y}" overflow="visible" width="1" height="1">'
            '<path d="M0,-6 6,0 0,6 -6,0Z" class="dot champion"/></svg>'
        )
    return f'<circle cx="{x}%" cy="{y}" r="5" class="dot candidate"/>'


def _thin(points: list[tuple[float, float]], most: int = 600) -> list[tuple[float, float]]:
    """Long runs log thousands of steps: every n-th point, and the last."""
    every = max(1, math.ceil(len(points) / most))
    return points[::every] if (len(points) - 1) % every == 0 else [*points[::every], points[-1]]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
