"""How numbers, intervals and whole reports are written for people. Every function bears what is missing."""

from collections.abc import Mapping
from typing import Any

SHOWN = 20  # entries of a list


def number(value: Any, form: str | None = None) -> str:
    """A value for people; a dash where there is none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return form.format(value) if form else f"{value:.4g}"
    if isinstance(value, int):
        return form.format(value) if form else f"{value:,}"
    return str(value)


def with_unit(value: Any, form: str, unit: str) -> str:
    return "–" if value is None else f"{number(value, form)} {unit}"


def moment(value: Any) -> str:
    """2026-11-22T22:10:00+00:00 as 2026-11-22 22:10 UTC; anything else as it is."""
    text = str(value)
    return f"{text[:10]} {text[11:16]} UTC" if len(text) > 16 and text.endswith(("+00:00", "Z")) else text


def size(value: Any) -> str:
    """Bytes in GiB or MiB."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "–"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def share(value: Mapping[str, Any] | None) -> str:
    """64 of 72, 88.9% [79.3, 95.1]"""
    if not value:
        return "–"
    if value.get("share") is None:
        return f"{value.get('passed', 0)} of {value.get('of', 0)}"
    text = f"{value['passed']} of {value['of']}, {_percent(value['share'])}%"
    if value.get("low") is None or value.get("high") is None:
        return text
    return f"{text} [{_percent(value['low'])}, {_percent(value['high'])}]"


def mean(value: Mapping[str, Any] | None) -> str:
    """0.612 [0.504, 0.713]"""
    if not value:
        return "–"
    if value.get("low") is None or value.get("high") is None:
        return f"{number(value.get('mean'))}, no interval"
    return f"{number(value.get('mean'))} [{number(value['low'])}, {number(value['high'])}]"


def counts(value: Mapping[str, Any] | None) -> str:
    """train 240, validation 12"""
    return ", ".join(f"{name} {number(count)}" for name, count in (value or {}).items()) or "–"


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Name and value of all that a report holds, for parts that the card has no words of its own for."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        if {"passed", "of", "low", "high"} <= set(value):
            return [(prefix, share(value))]
        if {"mean", "low", "high"} <= set(value):
            return [(prefix, mean(value))]
        names = {key: str(key).replace("_", " ") for key in value}
        return [
            pair
            for key, item in value.items()
            for pair in flat(item, f"{prefix}, {names[key]}" if prefix else names[key])
        ]
    if isinstance(value, list):
        if all(isinstance(item, str | int | float) for item in value):
            shown = ", ".join(number(item) for item in value[:SHOWN])
            rest = f" … and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
            return [(prefix, shown + rest or "none")]
        return [pair for i, item in enumerate(value[:SHOWN], 1) for pair in flat(item, f"{prefix} {i}")]
    return [(prefix, number(value))]


def _percent(value: float) -> str:
    """One digit, and none where it is all or nothing: 99.97 is not 100."""
    return f"{100 * value:g}" if value in (0, 1) else f"{min(99.9, max(0.1, 100 * value)):.1f}"
