"""The validation report as one static page that a newcomer understands and that opens without a network.

It replaces Great Expectations' own Data Docs, whose pages load a dozen scripts and style sheets from public CDNs and
a picture from a foreign server: without a network they are unstyled, and with one they tell strangers that somebody is
reading them. The outcomes shown here are those of the GX suite (expectations.py). The page carries no time stamp, so
that the same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from medtune.corpus.expectations import PLAIN, Verdict
from medtune.corpus.sift import Row, Sifted

if TYPE_CHECKING:
    from medtune.params.validate import Validate

_STYLE = """
:root { --ink: #1d2733; --soft: #5b6876; --line: #dde3e9; --ok: #1a7f4b; --warn: #9a6200; --bad: #b3261e;
        --train: #3a6ea5; --validation: #7aa6c2; --test: #2f8f83; --aside: #c9742b; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, "Noto Sans KR", "Noto Sans CJK KR", "Apple SD Gothic Neo", "Malgun Gothic",
       sans-serif;
       color: var(--ink); max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; background: #fff; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; } .soft, small { color: var(--soft); }
.badge { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; color: #fff; font-weight: 600;
         font-size: .85em; }
.ok { background: var(--ok); } .failed { background: var(--bad); } .warning { background: var(--warn); }
.bar { display: flex; height: 2rem; border-radius: .3rem; overflow: hidden; margin: 1rem 0 .5rem; }
.bar span { min-width: 2px; }
.key span { display: inline-block; margin-right: 1.4rem; white-space: nowrap; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin-right: .4rem; }
.train { background: var(--train); } .validation { background: var(--validation); }
.test { background: var(--test); } .aside { background: var(--aside); }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .6rem .45rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th.n { text-align: right; } td.place { white-space: nowrap; }
code { font: .86em ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 2rem; } figure { margin: 0; flex: 1 1 20rem; }
figcaption { color: var(--soft); font-size: .9rem; } svg { width: 100%; height: auto; }
"""


def page(sifted: Sifted, verdict: Verdict, limits: Validate, data_digest: str) -> str:
    """The whole page as HTML: verdict, rows and their split, what was set aside, what was checked, lengths."""
    total, good, bad = len(sifted.rows), len(sifted.good), len(sifted.bad)
    retracted = sum(row.retracted for row in sifted.rows)
    uncounted = f", to which the {retracted:,} that were retracted do not count" if retracted else ""
    sections = [
        _verdict(verdict),
        f"<p>{total:,} rows came in. {good:,} are good and {bad:,} ({_share(bad, total)}) were set aside; "
        f"the recipe bears {limits.max_quarantine_share:.1%}{uncounted}.</p>",
        _bar(sifted),
        _near(sifted),
        _reasons(sifted),
        _worst(sifted.worst()),
        _checks(verdict, total),
        "<h2>How long the texts are</h2><div class=charts>",
        _histogram("Questions", [len(row.dialogue.question) for row in sifted.good if row.dialogue.question]),
        _histogram("Answers", [len(row.dialogue.answer) for row in sifted.good]),
        "</div><p class=soft>Good rows; characters on the horizontal axis, rows on the vertical one. The last bar "
        "holds the longest hundredth.</p>",
        _ABOUT,
        f"<p><small>Digest of the good rows: <code>{escape(data_digest)}</code></small></p>",
    ]
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Data check: {'passed' if verdict.passed else 'stopped'}</title>"
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


_ABOUT = """<h2>Where things are</h2>
<table>
<tr><td><code>data/valid/rows.jsonl</code></td><td>the good rows, each with its identity, cluster and side of the
split</td></tr>
<tr><td><code>data/valid/quarantine.jsonl</code></td><td>the rows that were set aside, as they came, with file, line and
reasons. They may hold personal data; this page does not.</td></tr>
<tr><td><code>reports/validate.json</code></td><td>the figures of this page for programs</td></tr>
<tr><td><code>params.yaml</code>, section <code>validate</code></td><td>every bound that was checked</td></tr>
</table>
<h2>What nobody checked</h2>
<p>Whether an answer is medically right; names and addresses of people; two questions that mean the same in other words.
A row that passes here has the form of a good row, no more.</p>"""


def _verdict(verdict: Verdict) -> str:
    if verdict.passed:
        warnings = [check for check in verdict.checks if check.verdict == "warning"]
        more = f", with {len(warnings)} warning{'s' * (len(warnings) > 1)} below" if warnings else ""
        return f"<h1>Data check <span class='badge ok'>passed</span></h1><p>The rows may be trained on{more}.</p>"
    items = "".join(
        f"<li>{escape(c.says)}: no, {escape(c.observed)}. Mend: {escape(c.mend)}.</li>" for c in verdict.failures
    )
    return (
        "<h1>Data check <span class='badge failed'>stopped</span></h1>"
        f"<p>The pipeline stops here, because this does not hold:</p><ul>{items}</ul>"
    )


def _bar(sifted: Sifted) -> str:
    parts = [(name, name, count) for name, count in sifted.splits().items()] + [("aside", "set aside", len(sifted.bad))]
    bar = "".join(f"<span class={style} style='flex:{count}'></span>" for style, _, count in parts if count)
    key = "".join(f"<span><i class={style}></i>{name} {count:,}</span>" for style, name, count in parts)
    return f"<div class=bar>{bar}</div><p class=key>{key}</p>"


def _near(sifted: Sifted) -> str:
    near = sum(row.near_duplicate for row in sifted.good)
    found = f"{near:,} of the good rows are" if near > 1 else "One good row is" if near else "No good row is"
    return (
        f"<p class=soft>{found} nearly the same as an earlier one: {sifted.clusters:,} clusters of alike rows. A "
        "cluster is on one side of the split as a whole, so that the test never asks what was trained on, and a row "
        "never changes sides when others are added.</p>"
    )


def _reasons(sifted: Sifted) -> str:
    reasons = sifted.reasons()
    if not reasons:
        return "<h2>What was set aside</h2><p>Nothing.</p>"
    lines = []
    for name, count in reasons.items():
        first = next(row for row in sifted.rows if name in row.reasons)
        lines.append(
            f"<tr><td>{escape(PLAIN[name][1])}<br><code>{escape(name)}</code></td><td class=n>{count:,}</td>"
            f"<td class=n>{_share(count, len(sifted.rows))}</td>"
            f"<td><code>{escape(first.source)}</code><br>{escape(first.reasons[name])}</td></tr>"
        )
    return (
        "<h2>What was set aside</h2><table><tr><th>What is wrong</th><th class=n>Rows</th><th class=n>Share</th>"
        f"<th>The first of them, and the mend</th></tr>{''.join(lines)}</table>"
    )


def _worst(rows: Iterable[Row]) -> str:
    lines = "".join(
        f"<tr><td class=place><code>{escape(row.source)}</code></td>"
        f"<td>{escape('; '.join(row.reasons.values()))}</td></tr>"
        for row in rows
    )
    return (
        f"<h2>Rows to look at first</h2><table><tr><th>File and line</th><th>Why</th></tr>{lines}</table>"
        if lines
        else ""
    )


def _checks(verdict: Verdict, rows: int) -> str:
    lines = []
    for check in verdict.checks:
        share = "" if not check.bad_rows else f" ({_share(check.bad_rows, rows)})"
        allowed = "" if check.allowed_share is None else f"{check.allowed_share:.1%}"
        lines.append(
            f"<tr><td><span class='badge {check.verdict}'>{check.verdict}</span></td>"
            f"<td>{escape(check.says)}<br><code>{escape(check.expectation)}</code></td>"
            f"<td>{escape(check.observed)}{share}</td><td class=n>{allowed}</td></tr>"
        )
    return (
        "<h2>What was checked</h2><p class=soft>A Great Expectations suite over the whole table. Where a share may "
        "break a rule, those rows are set aside and the others go on. A check marked failed stops the pipeline; a "
        "warning does not.</p><table><tr><th></th><th>What should hold</th><th>Found</th>"
        f"<th class=n>May break it</th></tr>{''.join(lines)}</table>"
    )


def _histogram(title: str, lengths: list[int], bars: int = 24) -> str:
    if not lengths:
        return ""
    ordered = sorted(lengths)
    low, high = ordered[0], max(ordered[int(len(ordered) * 0.99)], ordered[0] + bars)
    edges = [low + (high - low) * step / bars for step in range(bars)] + [ordered[-1] + 1]
    counts = [sum(left <= length < right for length in ordered) for left, right in pairwise(edges)]
    top, width, height = max(counts), 400, 130
    rects = "".join(
        f"<rect x='{width * place / bars + 1:.1f}' y='{height - height * count / top:.1f}' "
        f"width='{width / bars - 2:.1f}' height='{height * count / top:.1f}' fill='#3a6ea5'/>"
        for place, count in enumerate(counts)
    )
    middle = ordered[len(ordered) // 2]
    return (
        f"<figure><svg viewBox='0 0 {width} {height + 22}' role=img aria-label='{title}: histogram of lengths'>{rects}"
        f"<line x1='0' y1='{height}' x2='{width}' y2='{height}' stroke='#5b6876'/>"
        f"<text x='0' y='{height + 17}' font-size='13' fill='#5b6876'>{low}</text>"
        f"<text x='{width}' y='{height + 17}' font-size='13' fill='#5b6876' text-anchor='end'>{high:,.0f}+</text></svg>"
        f"<figcaption>{title}: half of them under {middle:,} characters, the longest {ordered[-1]:,}; "
        f"up to {top:,} rows a bar</figcaption></figure>"
    )


def _share(part: int, whole: int) -> str:
    if 0 < part / whole < 0.0005:
        return "under 0.1%"
    return f"{part / whole:.1%}"
