"""Taking a row back: which versions it touched, the events that say so, and the retrain without it.

    done = retract(root, recipe, open_ledger(root), ["3f2a9c01"], "consent withdrawn", "kim")
    print(done.text())

A row touches a version whose training split held it (its weights learned from it), whose validation or test split did
(it was judged by it), and every version that goes on from weights that learned from it. Each is blocked from promotion
(Standing.refusal). The ledger has one event `retracted` a row, and one more whenever later knowledge adds versions to
it; one `retrain_requested` for all. data/retracted.jsonl is what keeps the row out of the next data version.

Retracting is not erasing: the text stays where it came from, in data/raw, in DVC's cache and in backups.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from medtune.corpus.retracted import RETRACTED, RetractedRow, add_retracted, read_retracted
from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.registry.ledger import Event, Ledger
from medtune.registry.retracted_rows import (
    NothingNewError,
    Touched,
    mark_registered,
    record,
    said_of,
    touched_versions,
)
from medtune.registry.row_places import TOKENS, VALID, Place, Places, RowsOf, find_places, rows_wherever
from medtune.registry.standing import Standing, champion, previous_champions, standings
from medtune.tracking.store import HOME

REQUEST = "retrain_requested"


@dataclass(frozen=True)
class RowRetraction:
    """One row: where it is, what it touched, and whether this call said so first."""

    row_id: str
    places: list[Place]
    touched: list[Touched]
    data: list[str]  # data digests
    near: list[str]  # rows of the same cluster of near-duplicates, which stay
    new: bool  # an event was added


@dataclass(frozen=True)
class Retraction:
    """What `retract` found and did. unknown: versions whose rows nobody here knows."""

    model: str
    reason: str
    by: str
    rows: list[RowRetraction]
    unknown: list[Standing]
    unknown_data: list[str]
    in_use: list[str]  # ids that touched the running champion
    champion: Standing | None
    free: Standing | None  # the newest earlier champion that `medtune rollback` may go back to
    listed: list[str]  # ids that data/retracted.jsonl did not have before
    request: Event | None  # the retrain that this call queued
    init: Standing | None  # what the recipe's train.init goes on from, if a row is in its weights

    def record(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "model": self.model,
            "reason": self.reason,
            "by": self.by,
            "rows": [
                {
                    "row_id": row.row_id,
                    "new": row.new,
                    "places": [vars(place) for place in row.places if place.kind == "checkout"],
                    "data": row.data,
                    "versions": [
                        {
                            "version": item.standing.version,
                            "number": item.standing.number,
                            "adapter_number": item.standing.adapter_number,
                            "splits": list(item.splits),
                            "learned": item.learned,
                            "through": item.through and item.through.version,
                        }
                        for item in row.touched
                    ],
                    "near_duplicates": row.near,
                }
                for row in self.rows
            ],
            "unknown": [{"version": item.version, "number": item.number} for item in self.unknown],
            "unknown_data": self.unknown_data,
            "champion": self.champion
            and {"version": self.champion.version, "number": self.champion.number, "rows": self.in_use},
            "rollback_to": self.free and self.free.version,
            "listed": self.listed,
            "retrain": self.request and {"seq": self.request.seq, **self.request.body},
            "train_init": self.init and self.init.version,
        }

    def text(self) -> str:
        """The same for a terminal."""
        from medtune.registry.retract_text import render

        return render(self)


def retract(
    root: Path,
    recipe: Recipe,
    ledger: Ledger,
    ids: Iterable[str],
    reason: str,
    by: str,
    rows_of: RowsOf | None = None,
    even_unknown: bool = False,
) -> Retraction:
    """Take rows back; see the module. Doing it again adds nothing, and finishes what a kill left half done.

    `ids`: whole or from SHORTEST digits on. RegistryError for an id of no row, unless `even_unknown` (it may come in
    later; a whole id is then needed), and for an empty reason or name. Nothing is written before every id is known.
    """
    reason, by = reason.strip(), by.strip()
    if not reason or not by:
        raise RegistryError(
            "a retraction says why and who: give --reason, and --by where the login name says too little"
        )
    model, listed = recipe.register_.model, read_retracted(root / RETRACTED)
    versions = standings(ledger, model)
    read = rows_of or rows_wherever(root)
    places = find_places(root, recipe, versions, read)
    said = said_of(ledger, model)
    wanted = list(dict.fromkeys(places.resolve(text, (*listed, *said)) for text in ids))
    if not wanted:
        raise RegistryError("no row id was given: `medtune retract ROW_ID … --reason TEXT`, or --file ids.txt")
    missing = [row for row in wanted if not places.of(row) and row not in listed and row not in said]
    if missing and not even_unknown:
        raise RegistryError(
            f"row {missing[0]} is nowhere{f' (nor are {len(missing) - 1} more)' if missing[1:] else ''}; looked in "
            f"{', '.join(places.looked)}{_blind(places)}. --even-unknown records it all the same, so that it is left "
            "out should it come in"
        )
    found = {row: touched_versions(row, places, versions, model) for row in wanted}
    # First the file, which keeps the rows out of what is trained next; then what blocks, then what asks for a retrain
    now = datetime.now(UTC).isoformat(timespec="seconds")
    (root / HOME).mkdir(parents=True, exist_ok=True)
    with FileLock(root / HOME / "retracted.lock"):
        added = add_retracted(root / RETRACTED, [RetractedRow(row, reason, by, now) for row in wanted])
    new = {
        row: record(ledger, model, row, reason, by, found[row], _data(row, places, found[row]), places.unknown)
        for row in wanted
    }
    versions = _mark_late(ledger, model, versions, places, read)
    found = {row: touched_versions(row, places, versions, model) for row in wanted}
    rows = [
        RowRetraction(
            row, places.of(row), found[row], _data(row, places, found[row]), places.clusters.get(row, []),
            new[row] is not None,
        )
        for row in wanted
    ]  # fmt: skip
    due = [row.row_id for row in rows if _due(row, versions)]
    running = champion(ledger, model)
    in_use = [row for row in wanted if running and any(t.standing.version == running.version for t in found[row])]
    return Retraction(
        model, reason, by, rows, places.unknown, places.unknown_data, in_use,
        champion=versions.get(str(running.version)) if running and in_use else None,
        free=_free(ledger, model) if in_use else None,
        listed=added, request=_request(ledger, model, reason, by, due), init=_init(recipe, found),
    )  # fmt: skip


def pending_retrain(ledger: Ledger, model: str, rows_of: RowsOf) -> dict[str, Any] | None:
    """The newest retrain that was asked for and has not come: {"seq", "at", "reason", "by", "without": ids}; or None.

    It has come when a version was registered later that has none of the rows on any side and goes on from no weights
    that learned from them. A version whose rows are unknown settles nothing.
    """
    requests = ledger.events(model, kinds={REQUEST})
    if not requests:
        return None
    known = standings(ledger, model)
    first = {event.version: event.seq for event in reversed(ledger.events(model, kinds={"registered"}, bodies=False))}
    read: dict[str, frozenset[str] | None] = {}

    def rows(standing: Standing) -> frozenset[str] | None:
        if standing.version not in read:
            found = rows_of(standing)
            read[standing.version] = found and frozenset(row for ids in found["splits"].values() for row in ids)
        return read[standing.version]

    for request in reversed(requests):
        without = set(request.body.get("without", ()))
        later = [item for digest, item in reversed(known.items()) if first[digest] > request.seq]
        clean = (item for item in later if without.isdisjoint(item.retracted))
        if not any((held := rows(item)) is not None and without.isdisjoint(held) for item in clean):
            body = {name: request.body.get(name) for name in ("reason", "by")}
            return {"seq": request.seq, "at": request.at, **body, "without": sorted(without)}
    return None


def _mark_late(
    ledger: Ledger, model: str, read: Mapping[str, Standing], places: Places, rows_of: RowsOf
) -> dict[str, Standing]:
    """Versions registered since the standings were `read`: the registrar asked what is retracted before these events
    were there. Adds them to `places` and marks them; the standings of now. Holds the registry's lock."""
    with ledger.lock(model):
        now = standings(ledger, model)
        for digest in [digest for digest in now if digest not in read]:
            rows = rows_of(now[digest])
            if rows is None:
                places.unknown.append(now[digest])
            else:
                places.add("version", [digest], rows["splits"])
            mark_registered(ledger, model, digest, rows)
        return now


def _blind(places: Places) -> str:
    """What could not be looked into, as the end of a sentence."""
    blind = [f"the rows of {item.name} are not known here" for item in places.unknown[:3]]
    blind += [f"and of {len(places.unknown) - 3} more versions"] * (len(places.unknown) > 3)
    blind += ["the other data versions are not in DVC's cache"] * bool(places.unknown_data)
    return f" ({', '.join(blind)})" if blind else ""


def _data(row: str, places: Places, touched: list[Touched]) -> list[str]:
    """Data digests that hold the row: of the checkout, of git's history, of the versions that have it themselves."""
    digests = [place.key for place in places.of(row) if place.kind == "data"]
    digests += [str(item.standing.registered.body["data"]) for item in touched
                if item.splits and item.standing.registered.body.get("data")]  # fmt: skip
    return list(dict.fromkeys(digests))


def _due(row: RowRetraction, versions: Mapping[str, Standing]) -> bool:
    """Whether a retrain would change anything: the next one would learn from the row, or the newest version did. Where
    both are free of it already a retrain makes the same version again."""
    here = {place.key for place in row.places if place.kind == "checkout"}
    newest = next(reversed(versions), None)
    return bool(here & {str(TOKENS), str(VALID)}) or any(item.standing.version == newest for item in row.touched)


def _request(ledger: Ledger, model: str, reason: str, by: str, ids: list[str]) -> Event | None:
    """Ask for a retrain without those rows that none was asked for yet; None where there is no such row."""
    body = {"reason": f"rows were retracted: {reason}", "by": by, "without": list(ids)}

    def check(seen: Ledger) -> None:
        asked = {row for event in seen.events(model, kinds={REQUEST}) for row in event.body.get("without", ())}
        if asked.issuperset(ids):
            raise NothingNewError

    try:
        return ledger.append(REQUEST, model, None, body, by, check)
    except NothingNewError:
        return None


def _free(ledger: Ledger, model: str) -> Standing | None:
    """The newest earlier champion that may be one again, asked after the events of this call were written."""
    known = standings(ledger, model)
    earlier = (known[digest] for digest in previous_champions(ledger, model) if digest in known)
    return next((item for item in earlier if not item.barred), None)


def _init(recipe: Recipe, found: Mapping[str, list[Touched]]) -> Standing | None:
    """The version that the next training would go on from, where its weights learned from one of the rows."""
    items = {item.standing.adapter_number: item for touched in found.values() for item in touched if item.learned}
    start = items.get(recipe.train.init) if isinstance(recipe.train.init, int) else None
    return start and start.standing
