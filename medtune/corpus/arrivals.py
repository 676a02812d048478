"""The order in which rows were first seen: a row keeps its place whatever is added before or after it.

data/first_seen.txt is an append-only journal with one line a row: 32 hex digits of a hash of its folded text. It is
meant for git, so that another machine sees the rows in the same order. Near-duplicate clusters grow in this order, and
sides of the split hang on the clusters: without the journal, one row inserted at the top of a file could move others.
"""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medtune.corpus.rows import fold
from medtune.params.errors import CorpusError

JOURNAL = Path("data/first_seen.txt")


def arrival_hash(row: dict) -> str:
    """32 hex digits of the row as it came, columns and all: canonical JSON with every text folded."""
    return hashlib.sha256(json.dumps(_folded(row), sort_keys=True).encode("ascii")).hexdigest()[:32]


def in_order(rows: Sequence[tuple[str, dict]], journal: list[str]) -> tuple[list[tuple[str, dict]], list[str]]:
    """(source, row) pairs in order of first sight, and the hashes to append to the journal.

    The n-th row of a hash takes the place of its n-th line, so that repeats keep their places too. Lines whose rows
    are gone stay, in case the rows come back."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, digest in enumerate(journal):
        places[digest].append(place)
    taken: dict[str, int] = defaultdict(int)
    placed: list[tuple[int, int]] = []
    new: list[str] = []
    for index, (_, row) in enumerate(rows):
        digest = arrival_hash(row)
        nth = taken[digest]
        taken[digest] += 1
        if nth < len(places[digest]):
            placed.append((places[digest][nth], index))
        else:
            placed.append((len(journal) + len(new), index))
            new.append(digest)
    return [rows[index] for _, index in sorted(placed)], new


def read_journal(path: Path) -> list[str]:
    """The journal's lines; empty where there is none yet. CorpusError names the line that is no hash."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(r"[0-9a-f]{32}", line):
            raise CorpusError(
                f"{path}, line {number}: {line[:40]!r} is no hash of a row (a merge conflict?); restore the file from "
                "git, keeping the lines of both sides; if you delete it, rows may change sides of the split"
            )
    return lines


def write_journal(path: Path, journal: list[str]) -> None:
    """Written whole and renamed: a kill leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(f"{line}\n" for line in journal)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _folded(value: object) -> object:
    if isinstance(value, str):
        return fold(value)
    if isinstance(value, dict):
        return {fold(key): _folded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_folded(inner) for inner in value]
    return value
