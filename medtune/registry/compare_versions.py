"""Two versions side by side: params, rows, figures, answers.

    told = compare(root, ledger, "medgpt-ko", "3", "4")      # plain data; compare_page.py makes a page of it
    show(told, rows=False, answers=3)                        # tables on the terminal

a is the one that is asked about first, b the other; differences are b minus a, so that the newer one stands second.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.params.errors import UserError
from medtune.registry.compare_answers import side_by_side
from medtune.registry.comparison import align
from medtune.registry.ledger import Ledger
from medtune.registry.standing import resolve, standings
from medtune.registry.version_record import SPLITS, Record, evaluation, read_record
from medtune.tracking.runs import flatten
from medtune.tracking.store import HOME

MODELS = ("adapter", "merged", "base")  # the evaluated model is the trained one; the base stands beside it
LEFT_OUT = {"base.parents"}  # no setting: what the base's card names


def compare(root: Path, ledger: Ledger | None, model: str, a: str, b: str) -> dict[str, Any]:
    """{"model", "a", "b", "params", "rows", "figures", "paired", "answers", "unknown"}.

    RegistryError where one of the versions is not there, UserError where both are the same.
    """
    known = standings(ledger, model) if ledger else {}
    chosen = [resolve(ledger, model, text, known) for text in (a, b)]
    if chosen[0].version == chosen[1].version:
        raise UserError(f"{a} and {b} are both {chosen[0].name}; name two versions")
    one, other = (read_record(root, standing) for standing in chosen)
    judged = [evaluation(root, record) for record in (one, other)]
    return {
        "model": model,
        "a": _about(one),
        "b": _about(other),
        "params": _params(one, other),
        "rows": _rows(one, other),
        "figures": _figures([report for report, _ in judged], [one, other]),
        "paired": _paired(root, one, other),
        "answers": side_by_side(judged[0][1], judged[1][1]),
        "unknown": list(dict.fromkeys(one.unknown + other.unknown)),
    }


def _about(record: Record) -> dict[str, Any]:
    standing, decision = record.standing, record.standing.decision
    return {
        "version": standing.version,
        "number": standing.number,
        "name": standing.name,
        "override": standing.overridden,
        "decision": decision.event if decision else None,
        "registered": standing.registered.at,
        "promoted": standing.promoted[-1].at if standing.promoted else None,
        "retired": standing.retired is not None,
        "retracted": len(standing.retracted),
        **{key: record.body.get(key) for key in ("candidate", "data", "tokens", "test", "evaluation", "run_id")},
    }


def _params(a: Record, b: Record) -> dict[str, Any]:
    """{"differ": [{"name", "a", "b"}], "equal": how many}; None where one of the two says nothing of it."""
    settings = [_settings(record) for record in (a, b)]
    names = sorted(set(settings[0]) | set(settings[1]))
    pairs = [{"name": name, "a": settings[0].get(name), "b": settings[1].get(name)} for name in names]
    differ = [pair for pair in pairs if pair["a"] != pair["b"]]
    if a.run is None or b.run is None:  # one run away: what only the other tells is no difference
        differ = [pair for pair in differ if pair["a"] is not None and pair["b"] is not None]
    return {"differ": differ, "equal": sum(pair["a"] == pair["b"] for pair in pairs)}


def _settings(record: Record) -> dict[str, str]:
    """Dotted names and texts, as MLflow keeps them: the run's params, and over them the version's own sidecars."""
    own = {
        "base": {**(record.adapter.get("base") or {}), **(record.body.get("base") or {})},
        "tokenize": {key: record.adapter.get(key) for key in ("template", "system", "max_length")},
        **(record.adapter.get("recipe") or {}),
        "merge": record.merged.get("merge") or {},
        "code": (record.adapter.get("identity") or {}).get("code"),
        "git": {"commit": (record.body.get("git") or {}).get("commit")},
    }
    found = dict(record.run.params) if record.run else {}
    found |= {name: str(value) for name, value in flatten(own).items() if value is not None}
    return {name: value for name, value in found.items() if name not in LEFT_OUT}


def _rows(a: Record, b: Record) -> dict[str, Any] | None:
    """By split {"a", "b", "both", "added": [ids], "removed": [ids]}, and {"moved": {id: [split in a, in b]}}; None
    where one of them keeps no rows."""
    if a.rows is None or b.rows is None:
        return None
    ours, theirs = a.row_ids(), b.row_ids()
    names = [*SPLITS, *sorted((set(ours) | set(theirs)) - set(SPLITS))]
    splits = {}
    for name in names:
        first, second = set(ours.get(name, [])), set(theirs.get(name, []))
        splits[name] = {
            "a": len(first),
            "b": len(second),
            "both": len(first & second),
            "added": sorted(second - first),
            "removed": sorted(first - second),
        }
    where = [{row: split for split, ids in found.items() for row in ids} for found in (ours, theirs)]
    moved = {row: [where[0][row], where[1][row]] for row in sorted(set(where[0]) & set(where[1]))}
    return {"splits": splits, "moved": {row: pair for row, pair in moved.items() if pair[0] != pair[1]}}


def _figures(reports: Sequence[Mapping[str, Any] | None], records: Sequence[Record]) -> dict[str, Any]:
    """{"same_rows": whether both were measured on one test set, "measured": [...], "judged": [...]}.

    measured: {"model", "figure", "a", "b"}, numbers, and of suites shares with their intervals; judged: the checks of
    the decisions, {"name", "a", "b"}, each a finding or None.
    """
    measured = []
    for model in MODELS:
        sides = [((report or {}).get(model) or {}) for report in reports]
        for figure in dict.fromkeys([*sides[0], *sides[1]]):
            pair = [side.get(figure) for side in sides]
            if any(isinstance(value, int | float) for value in pair):
                measured.append({"model": model, "figure": figure, "a": pair[0], "b": pair[1]})
    for suite in dict.fromkeys(name for report in reports for name in ((report or {}).get("safety") or {})):
        measured += _suite(suite, [((report or {}).get("safety") or {}).get(suite) or {} for report in reports])
    findings = [
        {finding["name"]: finding for finding in (record.standing.decision.body.get("findings") or [])}
        if record.standing.decision
        else {}
        for record in records
    ]
    judged = [
        {"name": name, "a": findings[0].get(name), "b": findings[1].get(name)}
        for name in dict.fromkeys([*findings[0], *findings[1]])
    ]
    tests = [record.body.get("test") for record in records]
    return {"same_rows": tests[0] == tests[1] and tests[0] is not None, "measured": measured, "judged": judged}


def _suite(name: str, sides: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Shares of a suite. Counts of other prompts or by other rules are not laid beside these."""
    if all(sides) and [sides[0].get(k) for k in ("digest", "rules")] != [sides[1].get(k) for k in ("digest", "rules")]:
        return []
    shares = [side.get("adapter") or {} for side in sides]
    kinds = [
        kind for kind in dict.fromkeys([*shares[0], *shares[1]]) if _share(shares[0].get(kind) or shares[1].get(kind))
    ]
    return [
        {"model": "adapter", "figure": f"{name}.{kind}", "a": shares[0].get(kind), "b": shares[1].get(kind)}
        for kind in kinds
    ]


def _share(value: Any) -> bool:
    return isinstance(value, Mapping) and "passed" in value and "of" in value


def _paired(root: Path, a: Record, b: Record) -> dict[str, Any]:
    """The difference b minus a in nats a character on test rows that both were scored on: statistics.compare's record
    with "same_set", "trained_on"; or {"problem"}.

    Kept scores are filed by what was asked: rows, lengths, precision. Where both have a set in common it is taken, the
    largest first. Else rows are matched by their ids: the lengths and the precision may then differ, and `same_set` is
    false. A row that either version was trained on is no test of it and is left out.
    """
    from medtune.evaluation import statistics

    kept = [_scores(root, record) for record in (a, b)]
    if not all(kept):
        lacking = " and ".join(r.standing.name for r, found in zip((a, b), kept, strict=True) if not found)
        return {"problem": f"no scores of test rows are kept of {lacking}"}
    common = sorted(set(kept[0]) & set(kept[1]), key=lambda name: (-len(kept[0][name]), name))
    if common:
        ours, theirs = kept[0][common[0]], kept[1][common[0]]
    else:
        ours, theirs = ([row for rows in found.values() for row in rows] for found in kept)
        ours = list({row["row_id"]: row for row in ours}.values())
    trained = {row for r in (a, b) if r.rows is not None for row in r.rows["splits"].get("train", ())}
    held_out = [row for row in theirs if row["row_id"] not in trained]
    second, first = align(list({row["row_id"]: row for row in held_out}.values()), ours)
    told = statistics.compare(second, first)
    return told | {"same_set": bool(common), "trained_on": len(theirs) - len(held_out)}


def _scores(root: Path, record: Record) -> dict[str, list[dict[str, Any]]]:
    """By set, the rows that are kept of a version (evaluation/kept.py); a damaged file is left out and named."""
    from medtune.evaluation import kept

    found = {}
    for path in sorted((root / HOME / "scores" / record.standing.version).glob("*.json")):
        try:
            rows = kept.read(root, record.standing.version, path.stem)
        except UserError as error:
            record.unknown.append(str(error))
            continue
        if rows and all("nll" in row and "row_id" in row for row in rows):
            found[path.stem] = rows
    return found


def show(told: Mapping[str, Any], rows: bool = False, answers: int = 3, console: Any = None) -> None:
    """Tables as wide as the terminal. `rows`: name every row that only one has; answers: how many prompts."""
    from medtune.registry import compare_tables

    compare_tables.show(told, rows, answers, console)
