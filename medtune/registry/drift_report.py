"""New rows of data/valid against those that the champion learned.

    report = drift_report(root, recipe)                 # None: there is nothing to compare
    report, why = drift_or_why(root, recipe, digest)    # ... and the sentence why

New is a row that the champion's rows.json has on no side; old is one that it was trained on. Texts come from
data/valid, so of rows that have left it since (retracted, a source taken out) only the number is known. Writes nothing.
"""

import hashlib
from pathlib import Path
from typing import Any

from medtune.corpus.drift import Drift, measure
from medtune.corpus.records import read_records
from medtune.params.recipe import Recipe
from medtune.registry import tags
from medtune.registry.champion import named
from medtune.registry.ledger import read_ledger
from medtune.registry.row_places import VALID, rows_wherever
from medtune.registry.standing import Standing, resolve

LONGEST = 480  # characters of the sentence: MLflow's pages cut longer tags


def drift_report(root: Path, recipe: Recipe, against: str | None = None) -> dict[str, Any] | None:
    """The report, or None where there is no champion, nothing new, or the champion's rows are unknown.

    `against`: digest or number of a version instead of the champion. The report: model; against {"number", "version",
    "data"}; data (sha256 of data/valid/rows.jsonl); counts {"new", "old", "trained", "gone"} in rows, of which `gone`
    were trained on and are no longer in data/valid; drift (corpus.drift's record); and of that alarms, judged, markdown
    and one sentence. CorpusError where data/valid cannot be read, RegistryError where `against` is no version of ours.
    """
    return drift_or_why(root, recipe, against)[0]


def drift_or_why(root: Path, recipe: Recipe, against: str | None = None) -> tuple[dict[str, Any] | None, str]:
    """(report, "") or (None, the reason)."""
    standing, why = _version(root, recipe, against)
    if standing is None:
        return None, why
    learned = rows_wherever(root)(standing)
    if learned is None:
        return None, f"which rows {standing.name} learned is unknown: it keeps no rows.json that can be read"
    rows = list(read_records(root / VALID))
    splits = {side: set(ids) for side, ids in learned["splits"].items()}
    known, trained = set().union(*splits.values()), splits.get("train", set())
    new = [row for row in rows if row["row_id"] not in known]
    old = [row for row in rows if row["row_id"] in trained]
    if not new:
        return None, f"nothing new: {standing.name} knows every row of {VALID}"
    found = measure(old, new, recipe.retrain.drift)
    counts = {"new": len(new), "old": len(old), "trained": len(trained), "gone": len(trained) - len(old)}
    compared = {"number": standing.number, "version": standing.version, "data": learned.get("data")}
    sentence = _sentence(found, standing)
    return {
        "model": recipe.register_.model,
        "against": compared,
        "data": hashlib.sha256((root / VALID).read_bytes()).hexdigest(),
        "counts": counts,
        "alarms": found.alarms,
        "judged": found.why_not is None,
        "sentence": sentence,
        "drift": found.record(),
        "markdown": _markdown(recipe.register_.model, standing, counts, found),
    }, ""


def _version(root: Path, recipe: Recipe, against: str | None) -> tuple[Standing | None, str]:
    model, ledger = recipe.register_.model, read_ledger(root)
    if against is not None:
        return resolve(ledger, model, against), ""
    standing = named(ledger, model, tags.CHAMPION)
    return standing, "" if standing else f"{model} has no champion yet, so that every row is new"


def _sentence(found: Drift, standing: Standing) -> str:
    """What stands in the version's tag."""
    rows = f"{found.new:,} new row{'s' if found.new != 1 else ''} against version {standing.number}"
    if found.why_not is not None:
        return f"{rows}: not judged, {found.why_not}"[:LONGEST]
    moved = [one.label.lower() for one in found.measures if one.alarm]
    if not moved:
        return f"{rows}: nothing moved further than the recipe bears"
    return f"{rows}: {len(moved)} alarm{'s' if len(moved) != 1 else ''} ({'; '.join(moved)})"[:LONGEST]


def _markdown(model: str, standing: Standing, counts: dict[str, int], found: Drift) -> str:
    head = f"# New rows against those that {model} version {standing.number} learned\n\n"
    gone = (
        f"\n{counts['gone']:,} of the {counts['trained']:,} rows that it was trained on are no longer in {VALID} and "
        "are not among the old ones.\n"
        if counts["gone"]
        else ""
    )
    return head + found.markdown() + gone
