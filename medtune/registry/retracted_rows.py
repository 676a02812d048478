"""Retracted rows in the ledger: which versions each touched, what stands there of it, the event that says so.

The registrar asks `mark_registered`; what looks for rows everywhere, and so reads the corpus, is registry.retract.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.corpus.retracted import RETRACTED, read_retracted
from medtune.registry.ledger import Event, Ledger
from medtune.registry.standing import Standing, standings

if TYPE_CHECKING:
    from medtune.registry.row_places import Places

EVENT, TRAIN = "retracted", "train"


@dataclass(frozen=True)
class Touched:
    """A version and how the row came into it. splits: sides that held it; through: the parent whose weights learned
    from it, None where the version did so itself."""

    standing: Standing
    splits: tuple[str, ...]
    through: Standing | None = None

    @property
    def learned(self) -> bool:
        """Whether the weights learned from the row."""
        return TRAIN in self.splits or self.through is not None

    def sentence(self) -> str:
        how = {
            "train": "its weights learned from the row",
            "validation": "the row was in its validation split",
            "test": "it was judged by the row",
        }
        said = [how.get(name, f"the row was in its {name} split") for name in self.splits]
        if self.through is not None:
            said.append(f"it goes on from {self.through.name}, whose weights learned from the row")
        return f"{self.standing.name}: {'; '.join(said)}"


def touched_versions(row: str, places: "Places", versions: Mapping[str, Standing], model: str) -> list[Touched]:
    """In the order of registration, a version after the one that it goes on from."""
    splits = {place.key: place.splits for place in places.of(row) if place.kind == "version"}
    learned: dict[str, Touched] = {}
    touched = []
    for digest, standing in versions.items():
        parent = next((learned[before] for before in parents(standing, versions, model) if before in learned), None)
        if digest in splits or parent is not None:
            item = Touched(standing, splits.get(digest, ()), parent and parent.standing)
            touched.append(item)
            if item.learned:
                learned[digest] = item
    return touched


def parents(standing: Standing, versions: Mapping[str, Standing], model: str) -> list[str]:
    """Digests of the versions whose weights this one goes on from: train.init's, and its base's where that is a version
    of this very registry."""
    body = standing.registered.body
    found = [body["parent"]] if body.get("parent") else []
    base = body.get("base") or {}
    if base.get("id") == model:
        found += [item.version for item in versions.values() if str(item.number) == str(base.get("revision"))]
    return found


def said_of(ledger: Ledger, model: str) -> dict[str, list[Event]]:
    """Row id -> its `retracted` events, oldest first."""
    said: dict[str, list[Event]] = {}
    for event in ledger.events(model, kinds={EVENT}):
        said.setdefault(event.body["row_id"], []).append(event)
    return said


def list_retracted(root: Path, ledger: Ledger | None, model: str) -> list[dict[str, Any]]:
    """Every retracted row: {"reason", "by", "at", "row_id", "in_file", "in_ledger", "versions": [{"version",
    "number"}], "data"}. `in_file`: this checkout leaves it out; `in_ledger`: the registry blocks its versions."""
    listed = read_retracted(root / RETRACTED)
    said = said_of(ledger, model) if ledger else {}
    known = standings(ledger, model, bodies=False) if said else {}
    rows = []
    for row in dict.fromkeys((*said, *listed)):
        events = said.get(row, [])
        first = {"at": events[0].at, **events[0].body} if events else vars(listed[row])
        digests = dict.fromkeys(digest for event in events for digest in event.body.get("versions", ()))
        rows.append(
            {
                **{name: first[name] for name in ("reason", "by", "at")},
                "row_id": row,
                "in_file": row in listed,
                "in_ledger": bool(events),
                "versions": [{"version": d, "number": known[d].number} for d in digests if d in known],
                "data": list(dict.fromkeys(d for event in events for d in event.body.get("data", ()))),
            }
        )
    return rows


def mark_registered(ledger: Ledger, model: str, version: str, rows: Mapping[str, Any] | None) -> list[str]:
    """Ids of retracted rows that a version just registered was made from, or goes on from; each is said of it in the
    ledger, so that it cannot be promoted. The registrar asks after its `registered` event and before anything is
    promoted: a row may be retracted while a version that learned from it is being trained.

    `rows`: what its rows.json holds. A version is said of once, however often this is called.
    """
    said = said_of(ledger, model)
    if not said:
        return []
    known = standings(ledger, model)
    standing = known[version]
    splits: dict[str, list[str]] = {}
    for side, ids in ((rows or {}).get("splits") or {}).items():
        for row in said.keys() & set(ids):
            splits.setdefault(row, []).append(side)
    before = set(parents(standing, known, model))
    marked = []
    for row, events in said.items():
        learned = {digest for event in events for digest in event.body.get("learned", ())}
        through = next((known[digest] for digest in sorted(before & learned)), None)
        if row in splits or through is not None:
            item = Touched(standing, tuple(splits.get(row, ())), through)
            first, data = events[0].body, standing.registered.body.get("data")
            record(
                ledger, model, row, first["reason"], first["by"], [item], [data] if data and row in splits else [], []
            )
            marked.append(row)
    return marked


class NothingNewError(Exception):
    """Raised inside an append to say that the ledger says it already."""


def record(
    ledger: Ledger,
    model: str,
    row: str,
    reason: str,
    by: str,
    touched: list[Touched],
    data: list[str],
    unknown: list[Standing],
) -> Event | None:
    """One `retracted` event, unless the ledger has said as much of this row; None then."""
    body = {
        "row_id": row,
        "reason": reason,
        "by": by,
        "versions": [item.standing.version for item in touched],
        "learned": [item.standing.version for item in touched if item.learned],
        "data": data,
        "unknown": [item.version for item in unknown],
    }

    def check(seen: Ledger) -> None:
        events = said_of(seen, model).get(row, [])
        said = {key: {item for e in events for item in e.body.get(key, ())} for key in ("versions", "learned", "data")}
        if events and all(said[key].issuperset(body[key]) for key in said):
            raise NothingNewError

    try:
        return ledger.append(EVENT, model, None, body, by, check)
    except NothingNewError:
        return None
