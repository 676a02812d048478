"""A drift record for people: Markdown with bars of text, which Prefect's pages, terminals and git all show."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

BINS = 9  # of a histogram; the first and the last one are open
WIDE = 24  # characters of the longest bar
SHOWN = 12  # specialties


def bars(old: np.ndarray, new: np.ndarray) -> dict[str, Any] | None:
    """A histogram of both at the same round borders: {"edges": lower ones, "old": shares, "new": shares, "medians"}.

    None where one side is empty. The first bin holds all that is shorter too, the last one all that is longer.
    """
    if not len(old) or not len(new):
        return None
    low, high = np.percentile(np.concatenate([old, new]), (2, 97))
    raw = max(1.0, (high - low) / (BINS - 1))
    power = 10 ** int(np.floor(np.log10(raw)))
    step = next(int(size * power) for size in (1, 2, 5, 10) if size * power >= raw)
    start = int(low // step)
    edges = [step * (start + i) for i in range(BINS)]
    shares = {}
    for name, lengths in (("old", old), ("new", new)):
        counted = np.bincount(np.clip(lengths // step - start, 0, BINS - 1), minlength=BINS)
        shares[name] = [round(float(share), 6) for share in counted / len(lengths)]
    return {"edges": edges, **shares, "medians": {"old": float(np.median(old)), "new": float(np.median(new))}}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def bin_names(edges: list[int]) -> list[str]:
    """up to 19, 20–39, …, 160 and more"""
    between = [f"{low}–{high - 1}" for low, high in pairwise(edges[1:])]
    return [f"up to {edges[1] - 1}", *between, f"{edges[-1]} and more"]


def verdict(measure: Mapping[str, Any], judged: bool) -> str:
    if measure["alarm"]:
        return "ALARM"
    if not judged:
        return "not judged"
    return "may be chance" if measure["size"] > measure["threshold"] else "within"


def markdown(record: Mapping[str, Any]) -> str:
    """The report of Drift.record()."""
    rows = record["rows"]
    parts = [f"{rows['new']:,} new rows against {rows['old']:,} old ones."]
    if record["alarms"]:
        parts.append("\n".join(f"- **{_text(sentence)}**" for sentence in record["alarms"]))
    elif record["judged"]:
        parts.append("Nothing moved further than the recipe bears.")
    if record["why_not"]:
        parts.append(f"Not judged: {record['why_not']}.")
    if record["measures"]:
        parts.append(_table(record))
    for name, title in (("question", "Questions, characters"), ("answer", "Answers, characters")):
        if found := (record["bars"] or {}).get(name):
            lines = zip(bin_names(found["edges"]), found["old"], found["new"], strict=True)
            parts += [f"### {title}", _drawn([*lines])]
    if found := (record["bars"] or {}).get("specialties"):
        lines = [(one["name"], one["old"], one["new"]) for one in found if one["old"] or one["new"]]
        parts += ["### Specialties by keyword, what moved most first", _drawn(lines[:SHOWN])]
    if found := (record["bars"] or {}).get("words"):
        lines = [(one["name"], one["old"], one["new"]) for one in found]
        parts += ["### Frequent words, what moved most first", _drawn(lines[:SHOWN])]
    method = record["method"]
    parts.append(
        f"An alarm asks for a size above the threshold and p below {method['level']:g}, by {method['resamples']} "
        f"drawings of as many rows. Words: {method['words']}."
    )
    return "\n\n".join(parts) + "\n"


def _table(record: Mapping[str, Any]) -> str:
    lines = [
        "| | figure | by chance | held against the threshold | threshold | p | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for one in record["measures"]:
        share = one["statistic"].startswith("share")

        def written(value: float | None, share: bool = share) -> str:
            return "–" if value is None else percent(value) if share else f"{value:.2f}"

        p = "–" if one["p"] is None else f"{one['p']:.2g}"
        lines.append(
            f"| {one['label']}, {one['statistic']} | {written(one['value'])} | {written(one['chance'])} | "
            f"{written(one['size'])} | {written(one['threshold'])} | {p} | {verdict(one, record['judged'])} |"
        )
    return "\n".join(lines)


def _drawn(lines: list[tuple[str, float, float]]) -> str:
    """Two bars a line: the old rows' above, the new ones' below."""
    most = max((max(old, new) for _, old, new in lines), default=0) or 1.0
    wide = max((_width(name) for name, _, _ in lines), default=0)
    drawn = []
    for name, old, new in lines:
        pad = " " * (wide - _width(name))
        drawn.append(f"{name}{pad}  old {_bar(old / most)} {percent(old)}")
        drawn.append(f"{' ' * wide}  new {_bar(new / most)} {percent(new)}")
    return "```text\n" + "\n".join(drawn) + "\n```"


def _bar(share: float) -> str:
    filled = round(WIDE * share)
    return "█" * max(filled, 1 if share > 0 else 0) + "·" * (WIDE - max(filled, 1 if share > 0 else 0))


def _width(text: str) -> int:
    """Columns of a terminal: a Hangul syllable takes two."""
    return sum(2 if "가" <= letter <= "힣" else 1 for letter in text)


def _text(text: str) -> str:
    for sign in "\\`*[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text
