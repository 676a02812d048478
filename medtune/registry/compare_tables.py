"""compare_versions' record as tables for a terminal of any width."""

from collections.abc import Mapping
from typing import Any

from medtune.evaluation.release_card.names import FIGURES
from medtune.evaluation.release_card.wording import number, share
from medtune.registry.history import local, plain

LABELS = {key: (label, form) for key, label, form, _ in FIGURES}
CUT = 1200  # characters of an answer


def show(told: Mapping[str, Any], rows: bool = False, answers: int = 3, console: Any = None) -> None:
    """Print to `console` (rich's, by default stdout's)."""
    from rich.console import Console

    console = console or Console(highlight=False, markup=False, emoji=False)
    for section in (about, params, figures, paired):
        section(told, console)
    _rows(told, console, rows)
    _answers(told, console, answers)
    for sentence in told["unknown"]:
        console.print(f"cannot be told: {plain(sentence)}", soft_wrap=True)


def about(told: Mapping[str, Any], console: Any) -> None:
    table = _table(told, "")
    for name, key in (("decision", "decision"), ("data", "data"), ("tokens", "tokens"), ("test set", "test")):
        table.add_row(name, *(str(told[side][key] or "-")[:12] for side in "ab"))
    moments = ("registered", "promoted")
    for name in moments:
        table.add_row(name, *(local(told[side][name]) if told[side][name] else "never" for side in "ab"))
    marks = [_marks(told[side]) for side in "ab"]
    if any(marks):
        table.add_row("marks", *marks)
    console.print(table)


def _marks(side: Mapping[str, Any]) -> str:
    found = ["OVERRIDE"] if side["override"] else []
    found += ["retired"] if side["retired"] else []
    found += [f"{side['retracted']} rows retracted"] if side["retracted"] else []
    return ", ".join(found)


def params(told: Mapping[str, Any], console: Any) -> None:
    found = told["params"]
    console.print(f"\nParams: {len(found['differ'])} differ, {found['equal']} are equal")
    if found["differ"]:
        table = _table(told, "param", min(32, max(len(pair["name"]) for pair in found["differ"])))
        for pair in found["differ"]:
            table.add_row(pair["name"], *(_value(pair[side]) for side in "ab"))
        console.print(table)


def figures(told: Mapping[str, Any], console: Any) -> None:
    found = told["figures"]
    same = "one test set" if found["same_rows"] else "DIFFERENT test sets: not to be compared with each other"
    console.print(f"\nFigures, on {same}")
    table = _table(told, "figure")
    for line in measured(found):
        table.add_row(*line)
    for pair in telling(found["judged"]):
        table.add_row(f"check {pair['name']}", *(_finding(pair[side]) for side in "ab"))
    console.print(table if table.row_count else "none are kept")


def measured(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(label, a, b) of every figure of the adapter; of merged model and base only what says something else."""
    lines: list[tuple[str, str, str]] = []
    adapter: dict[str, list[str]] = {}
    for item in found["measured"]:
        label, form = LABELS.get(item["figure"], (item["figure"].replace("_", " "), None))
        cells = [_measure(item[side], form) for side in "ab"]
        if item["model"] == "adapter":
            adapter[item["figure"]] = cells
            lines.append((label, *cells))
        elif cells != adapter.get(item["figure"]) and (item["model"] == "merged" or item["a"] != item["b"]):
            lines.append((f"{label} ({item['model']})", *cells))
    return lines


def _measure(value: Any, form: str | None) -> str:
    return share(value) if isinstance(value, Mapping) else number(value, form if isinstance(value, float) else None)


def telling(judged: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Checks without those that block in neither version and have a number in neither."""
    said = ("value", "blocks")
    return [pair for pair in judged if any(pair[side] and any(pair[side].get(k) not in (None, False) for k in said)
                                           for side in "ab")]  # fmt: skip


def paired(told: Mapping[str, Any], console: Any) -> None:
    console.print(paired_sentence(told), soft_wrap=True)


def paired_sentence(told: Mapping[str, Any]) -> str:
    found = told["paired"]
    if "mean" not in found:
        return f"No paired difference: {plain(found['problem'])}"
    numbers = f"{told['b']['number']} minus {told['a']['number']}"
    notes = [] if found["same_set"] else ["matched by row id from different sets: lengths or precision may differ"]
    notes += [f"{found['trained_on']} rows that one was trained on are left out"] if found["trained_on"] else []
    tail = f" ({'; '.join(notes)})" if notes else ""
    where = f"on {found['rows']} test rows of {found['clusters']} clusters"
    if found["mean"] is None or found["low"] is None:
        mean = "no difference" if found["mean"] is None else f"{found['mean']:+.4f} nats a character, no interval"
        return f"Version {numbers}: {mean} {where}: {found['problem']}{tail}"
    interval = f"{found['confidence']:.0%} interval {found['low']:+.4f} to {found['high']:+.4f}"
    verdict = "fits better" if found["high"] < 0 else "fits worse" if found["low"] > 0 else "no difference is shown"
    return f"Version {numbers}: {found['mean']:+.4f} nats a character, {interval}, {where}: {verdict}{tail}"


def _rows(told: Mapping[str, Any], console: Any, every: bool) -> None:
    from rich.table import Table

    if told["rows"] is None:
        console.print("\nRows: one of the two keeps none")
        return
    console.print("\nRows")
    table = Table(box=None, pad_edge=False)
    for name in ("split", told["a"]["name"], told["b"]["name"], "both", "added", "removed"):
        table.add_column(name, justify="left" if name == "split" else "right", overflow="fold")
    for name, split in told["rows"]["splits"].items():
        counts = (split["a"], split["b"], split["both"], len(split["added"]), len(split["removed"]))
        table.add_row(name, *(f"{count:,}" for count in counts))
    console.print(table)
    if told["rows"]["moved"]:
        console.print(f"{len(told['rows']['moved'])} rows changed sides, such as training to test")
    if every:
        for name, split in told["rows"]["splits"].items():
            for sign, ids in (("+", split["added"]), ("-", split["removed"])):
                for row in ids:
                    console.print(f"{sign} {name} {row}", soft_wrap=True)


def _answers(told: Mapping[str, Any], console: Any, limit: int) -> None:
    found = told["answers"]
    differ = sum(pair["verdict"] != "same" for pair in found)
    counted = (
        f"{len(found)} prompts that both answered, {differ} differently" if found else "none that both gave are kept"
    )
    console.print(f"\nAnswers: {counted}")
    for pair in found[:limit]:
        table = _table(told, "")
        table.show_lines = True
        words = f"{plain(pair['set'])} {plain(pair['id'])[:12]}: {plain(pair['question'])}"
        console.print(f"\n[{pair['verdict']}] {words}")
        table.add_row("says", *(_cut(pair[side]["text"]) for side in "ab"))
        if any(pair[side]["passed"] is not None for side in "ab"):
            table.add_row("rule", *(_rule(pair[side]) for side in "ab"))
        if pair["nll_difference"] is not None:
            table.add_row("nats/char", *(f"{pair[side]['nll']:.3f}" for side in "ab"))
        console.print(table)
    if len(found) > limit:
        console.print(f"\n{len(found) - limit} more: --answers {len(found)}, or --html FILE for a page to read them in")


def _rule(answer: Mapping[str, Any]) -> str:
    if answer["passed"] is None:
        return "-"
    return "keeps it" if answer["passed"] else f"BREAKS it: {plain(answer['reason'] or '')}"


def _finding(finding: Mapping[str, Any] | None) -> str:
    if finding is None:
        return "-"
    from medtune.registry.history_at import figure

    return figure(finding).replace(f"{finding['name']}: ", "", 1)


def _cut(text: Any) -> str:
    kept = plain(text or "")
    return kept if len(kept) <= CUT else f"{kept[:CUT]}… ({len(kept) - CUT:,} more characters)"


def _value(value: Any) -> str:
    return "-" if value is None else plain(value)


def _table(told: Mapping[str, Any], first: str, least: int | None = None) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold", min_width=least, max_width=48)
    for side in "ab":
        table.add_column(told[side]["name"], overflow="fold", ratio=1)
    return table
