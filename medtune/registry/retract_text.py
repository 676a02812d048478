"""A retraction as text for a terminal, and the list of all."""

from typing import TYPE_CHECKING, Any

from medtune.corpus.retracted import RETRACTED

if TYPE_CHECKING:
    from medtune.registry.retract import Retraction, RowRetraction

SHOWN = 10


def render(done: "Retraction") -> str:
    """What was found and done, the running champion last but for what to do next: it must not be overlooked."""
    lines = [line for row in done.rows for line in _row(row, done.model)]
    if done.unknown:
        names = _some([item.name for item in done.unknown])
        lines.append(
            f"unknown: {names}: no rows.json of theirs is here and their data version is gone, so they are neither "
            "cleared nor blocked; `medtune retire` takes one out of use"
        )
    if done.unknown_data:
        lines.append(
            f"unknown: data versions of dvc.lock's history that are not in DVC's cache (md5 "
            f"{_some([md5[:12] for md5 in done.unknown_data])}); `dvc fetch --all-commits` brings them where a remote "
            "has them, then retract again"
        )
    if done.listed:
        lines.append(
            f"{RETRACTED}: {len(done.listed)} rows more; keep it: git add {RETRACTED} && git commit -m 'Retract rows'"
        )
    if done.request:
        lines.append(
            f"a retrain without {_rows(len(done.request.body['without']))} is queued: `make run` or `dvc repro` does it"
        )
    if done.init:
        lines.append(
            f"BUT params.yaml has train.init: {done.init.adapter_number}, and {done.init.name} learned from a "
            "retracted row: set train.init to base or to a free version, or the retrain is blocked as well"
        )
    if not done.listed and not done.request and not any(row.new for row in done.rows):
        lines.append("all of this was said before; nothing was added")
    if done.champion:
        back = (
            f"`medtune rollback` goes back to {done.free.name}, which is free of every retracted row"
            if done.free
            else "`medtune rollback` has no earlier champion that is free of every retracted row"
        )
        lines += [
            f"WARNING: THE RUNNING CHAMPION of {done.model}, {done.champion.name}, was made from "
            f"{_rows(len(done.in_use))} of these, and stays in use until you act:",
            f"  1. {back}",
            "  2. or retrain: `make run` trains without, and the gate decides about the new version",
        ]
    lines.append(
        "retracted is not erased: the text stays in its source, data/raw, DVC's cache and the files of these versions"
    )
    return "\n".join(lines)


def render_list(rows: list[dict[str, Any]]) -> str:
    """`medtune retract --list`: one row a line, with what it blocks."""
    if not rows:
        return "no row is retracted"
    lines = []
    for row in rows:
        blocked = _some([f"{item['number']} ({item['version'][:12]})" for item in row["versions"]])
        lines.append(f"{row['row_id']}  {row['at'][:10]}  by {row['by']}: {row['reason']}")
        lines.append(f"  blocks {'version ' + blocked if blocked else 'no version'}")
        if not row["in_file"]:
            lines.append(
                f"  NOT in {RETRACTED} of this checkout, which may learn from it again: git pull, or retract it"
            )
        if not row["in_ledger"]:
            lines.append(
                f"  NOT in the ledger: no version is blocked; `medtune retract {row['row_id'][:12]} --reason …`"
            )
    return "\n".join(lines)


def _row(row: "RowRetraction", model: str) -> list[str]:
    again = "" if row.new else " (was retracted before)"
    lines = [f"row {row.row_id}{again}"]
    here: dict[str, list[str]] = {}
    for place in row.places:
        if place.kind == "checkout":
            here.setdefault(place.key, []).append(place.note or " and ".join(place.splits))
    if here:
        lines.append("  this checkout: " + ", ".join(f"{key} ({', '.join(notes)})" for key, notes in here.items()))
    else:
        lines.append("  this checkout: nowhere")
    if row.data:
        lines.append(f"  data versions: {_some([digest[:12] for digest in row.data])}")
    for item in row.touched:
        lines.append(f"  {model} and adapter {item.standing.adapter_number}, {item.sentence()}: blocked")
    if not row.touched:
        lines.append("  no registered version is known to be made from it")
    if row.near:
        lines.append(
            f"  near-duplicates of it that stay ({len(row.near)}): {_some([other[:12] for other in row.near])}; "
            "retract them too if they say the same"
        )
    return lines


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
