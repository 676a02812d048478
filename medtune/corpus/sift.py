"""From raw rows to good rows and quarantine: checks, exact repeats, near-duplicate clusters, the split.

Every raw row ends in exactly one of the two; `sift` counts and raises if one got lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medtune.corpus.clusters import Clusters
from medtune.corpus.personal import mask
from medtune.corpus.quality import CHECKS, Dialogue, count_line_breaks, examine
from medtune.corpus.rows import row_id
from medtune.corpus.split import SIDES, side
from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    from medtune.params.validate import Validate

# What can set a row aside: it cannot be read as a dialogue, a check of quality.CHECKS, it is there already, it bridges
REASONS = ("unreadable", *CHECKS, "duplicate", "bridges_splits")
# ... and what is no fault of the row: somebody wants it back. The table of expectations leaves such rows out.
RETRACTED = "retracted"


@dataclass
class Row:
    """One raw row on its way. `reasons`: name -> sentence; a row without any is good and has a cluster and a split."""

    source: str
    raw: dict
    dialogue: Dialogue | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    id: str | None = None
    cluster: str | None = None
    split: str | None = None
    near_duplicate: bool = False

    @property
    def good(self) -> bool:
        return not self.reasons

    @property
    def retracted(self) -> bool:
        return RETRACTED in self.reasons

    def record(self) -> dict:
        """A line of data/valid/rows.jsonl; with its origin where the row names one (medtune feedback)."""
        told = {
            "row_id": self.id,
            "cluster": self.cluster,
            "split": self.split,
            "source": self.source,
            "messages": self.dialogue.messages,
        }
        origin = self.raw.get("origin") if isinstance(self.raw, dict) else None
        return told | ({"origin": origin} if isinstance(origin, dict) else {})

    def quarantined(self) -> dict:
        """A line of data/valid/quarantine.jsonl: the row as it came, the reasons without its personal data. `row_id`
        is null for a row that cannot be read; a retracted row's text is not copied, there is nothing to mend in it."""
        return {
            "source": self.source,
            "row_id": self.id,
            "reasons": [f"{name}: {sentence}" for name, sentence in self.reasons.items()],
            "row": None if self.retracted else self.raw,
        }

    def measures(self) -> dict:
        """A line of the table that the expectations are held against. None where there is nothing to measure."""
        dialogue = self.dialogue
        table = {
            "source": self.source,
            "columns": ", ".join(sorted(self.raw)),
            "question": None,
            "answer": None,
            "question_chars": None,
            "answer_chars": None,
            "hangul_share": None,
            "line_breaks": None,
            "near_duplicate": self.near_duplicate,
            "accepted": int(self.good),
            "split": self.split,
        }
        if dialogue:
            table |= {
                # half surrogate pairs are a reason of their own; a column of text cannot hold them
                "question": dialogue.question.encode("utf-8", "replace").decode() or None,
                "answer": dialogue.answer.encode("utf-8", "replace").decode() or None,
                "question_chars": len(dialogue.question) or None,
                "answer_chars": len(dialogue.answer) or None,
                "hangul_share": dialogue.hangul_share if dialogue.answer else None,
                "line_breaks": count_line_breaks(dialogue),
            }
        return table | {f"is_{name}": name in self.reasons for name in REASONS}


@dataclass(frozen=True)
class Sifted:
    rows: list[Row]  # all of them, in order of first sight

    @property
    def clusters(self) -> int:
        """Clusters of near-duplicates that hold a good row."""
        return len({row.cluster for row in self.good})

    @property
    def good(self) -> list[Row]:
        return [row for row in self.rows if row.good]

    @property
    def bad(self) -> list[Row]:
        return [row for row in self.rows if not row.good]

    def reasons(self) -> dict[str, int]:
        """Rows per reason, most frequent first. A row with two reasons counts for both."""
        return dict(Counter(name for row in self.rows for name in row.reasons).most_common())

    def splits(self) -> dict[str, int]:
        """Good rows on each side."""
        counts = Counter(row.split for row in self.good)
        return {name: counts[name] for name in SIDES}

    def worst(self, count: int = 10) -> list[Row]:
        """The quarantined rows with the most reasons, earlier rows first among equals; none that was retracted."""
        return sorted((row for row in self.bad if not row.retracted), key=lambda row: -len(row.reasons))[:count]


def sift(
    records: Iterable[dict],
    limits: Validate,
    to_messages: Callable[[dict], list[dict]],
    retracted: Mapping[str, str] | None = None,
) -> Sifted:
    """Sift records of {"source", "row"} in order of first sight.

    `to_messages` turns a row into messages, or raises CorpusError with the sentence why not; `retracted`: row id ->
    sentence why the row may not be used. CorpusError also if a row got lost on the way, which would be a defect of this
    code.
    """
    rows = [_examined(record, limits, to_messages) for record in records]
    _set_repeats_aside(rows)
    _cluster(rows, limits)
    _set_retracted_aside(rows, retracted or {})
    sifted = Sifted(rows)
    if any(row.good == (row.split is None) for row in rows):
        raise CorpusError(
            f"{len(rows)} rows in, but {len(sifted.good)} kept of which {sum(sifted.splits().values())} have a side of "
            f"the split, and {len(sifted.bad)} set aside: this is a defect of medtune, please report it"
        )
    return sifted


def _examined(record: dict, limits: Validate, to_messages: Callable[[dict], list[dict]]) -> Row:
    row = Row(source=record["source"], raw=record["row"])
    try:
        row.dialogue = Dialogue(to_messages(row.raw))
    except CorpusError as error:
        row.reasons["unreadable"] = mask(str(error))
        return row
    row.reasons = {name: mask(sentence) for name, sentence in examine(row.dialogue, limits).items()}
    row.id = row_id(row.dialogue.messages)
    return row


def _set_repeats_aside(rows: list[Row]) -> None:
    """A row that repeats an earlier good one goes; a repeat of a bad one has that one's faults, or has them mended."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.good and first.setdefault(row.id, row) is not row:
            row.reasons["duplicate"] = f"the same text as {first[row.id].source}: remove one of them"


def _cluster(rows: list[Row], limits: Validate) -> None:
    """Give every good row its cluster and side, set bridging rows aside."""
    good = [row for row in rows if row.good]
    clusters = Clusters(limits.near_duplicate, limits.minhash_permutations, lambda name: side(name, limits.split))
    # The system prompt has no say: it is the same for all rows, and another one must not move any of them
    named = ((row_id([m for m in row.dialogue.messages if m["role"] != "system"]), row) for row in good)
    placements = clusters.add((name, f"{row.dialogue.question}\n{row.dialogue.answer}") for name, row in named)
    for row, placement in zip(good, list(placements), strict=True):
        row.near_duplicate = bool(placement.matches)
        if placement.cluster is None:
            there = ", ".join(
                f"{good[match].source} ({side(clusters.name(match), limits.split)})" for match in placement.matches
            )
            row.reasons["bridges_splits"] = f"bridges splits: nearly the same text as {there}; remove it or those"
    for position, row in enumerate(good):
        if row.good:
            row.cluster = clusters.name(position)
            row.split = side(row.cluster, limits.split)


def _set_retracted_aside(rows: list[Row], retracted: Mapping[str, str]) -> None:
    """Last, so that a retracted row has had its say where clusters grow: were it left out there, its near-duplicates
    would be a cluster of another name, perhaps on the other side of the split. Every copy of the row goes."""
    for row in rows:
        if row.id in retracted:
            row.reasons = {RETRACTED: mask(retracted[row.id])}
            row.cluster = row.split = None
            row.near_duplicate = False
