"""data/retracted.jsonl: ids of the rows that may no longer be learned from, with who said so and why.

Git keeps the file, so that every checkout leaves the same rows out; it holds no text of any row. `medtune retract`
writes it, validate reads it. A line is {"row_id": 64 hex, "reason", "by", "at": UTC, ISO 8601}.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from medtune.corpus.records import write_records
from medtune.params.errors import CorpusError

RETRACTED = Path("data/retracted.jsonl")
_KEYS = {"row_id", "reason", "by", "at"}


@dataclass(frozen=True)
class RetractedRow:
    """One line of the file."""

    row_id: str
    reason: str
    by: str
    at: str

    @property
    def sentence(self) -> str:
        """What the quarantine says of the row."""
        return f"{self.reason} (by {self.by}, {self.at[:10]})"


def read_retracted(path: Path) -> dict[str, RetractedRow]:
    """Row id -> its line, in the file's order; empty where there is no file. Of two lines for one row (branches that
    were merged) the first stands. CorpusError names the line that is none of ours: a row must not come back unseen."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    rows: dict[str, RetractedRow] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _parse(line, path, number)
            rows.setdefault(row.row_id, row)
    return rows


def add_retracted(path: Path, rows: Iterable[RetractedRow]) -> list[str]:
    """Append the rows that are not there yet; returns their ids. The file is written whole and renamed. The caller sees
    to it that nobody else writes at the same time."""
    there = read_retracted(path)
    new: dict[str, RetractedRow] = {}
    for row in rows:
        if row.row_id not in there:
            new.setdefault(row.row_id, row)
    if new:
        write_records(path, (asdict(row) for row in (there | new).values()))
    return list(new)


def _parse(line: bytes, path: Path, number: int) -> RetractedRow:
    place = f"{path}, line {number}"
    mend = "restore the file from git, keeping the lines of both sides of a merge; `medtune retract` writes it"
    try:
        record = json.loads(line)
    except ValueError:
        shown = line[:40].decode("utf-8", "replace")
        raise CorpusError(f"{place}: {shown!r} is not JSON (a merge conflict?); {mend}") from None
    if not isinstance(record, dict) or set(record) != _KEYS or not all(isinstance(v, str) for v in record.values()):
        raise CorpusError(f"{place}: a line has the texts row_id, reason, by and at, and nothing else; {mend}")
    if not re.fullmatch(r"[0-9a-f]{64}", record["row_id"]):
        raise CorpusError(f"{place}: row_id {record['row_id'][:70]!r} is not 64 hex digits; {mend}")
    return RetractedRow(**record)
