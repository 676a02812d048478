"""Where rows are: in this checkout's data, in data versions of its git history, in every registered version.

    places = find_places(root, recipe, standings(ledger, model), rows_of_version(root))
    places.of(row_id)            # [Place(kind="version", key=<digest>, splits=("train",)), …]
    places.resolve("3f2a9c01")   # the whole id

A version's rows are those of its rows.json. One registered before there was such a file has the rows of its data
digest, where that data is still here: in data/valid, in another version, in DVC's cache. Of the rest the rows are
unknown, and `places.unknown` says so: nothing is passed over in silence.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medtune.corpus.dialogue import constant_instruction, to_messages
from medtune.corpus.records import read_records
from medtune.corpus.rows import row_id
from medtune.corpus.split import SIDES
from medtune.params.errors import CorpusError, RegistryError
from medtune.params.recipe import Recipe
from medtune.registry.standing import Standing
from medtune.registry.versions import ROWS, version_path

RAW, VALID, QUARANTINE = Path("data/raw/rows.jsonl"), Path("data/valid/rows.jsonl"), Path("data/valid/quarantine.jsonl")
TOKENS = Path("data/tokens")
SHORTEST = 8  # hex digits that name a row

Splits = Mapping[str, Iterable[str]]  # side of the split -> row ids
RowsOf = Callable[[Standing], dict[str, Any] | None]


@dataclass(frozen=True)
class Place:
    """kind: checkout (key: a path), data (key: data digest) or version (key: version digest). splits: sides that hold
    the row, none where the place has no sides; note: file and line of a raw row."""

    kind: str
    key: str
    splits: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Places:
    """Row id -> where it is, and what could not be looked into."""

    found: dict[str, list[Place]] = field(default_factory=dict)
    looked: list[str] = field(default_factory=list)
    unknown: list[Standing] = field(default_factory=list)  # versions whose rows nobody here knows
    unknown_data: list[str] = field(
        default_factory=list
    )  # md5 of data/valid/rows.jsonl of old commits, not in the cache
    clusters: dict[str, list[str]] = field(default_factory=dict)  # row of data/valid -> the others of its cluster

    def of(self, row: str) -> list[Place]:
        return self.found.get(row, [])

    def add(self, kind: str, keys: Iterable[str], splits: Splits) -> None:
        """Places that hold the same rows. A row may stand on several sides by mishap; each is named."""
        sides: dict[str, tuple[str, ...]] = {}
        for name, ids in splits.items():
            for row in ids:
                sides[row] = (*sides.get(row, ()), name)
        # shared by the rows: a thousand versions may have thousands of them
        made = {names: [Place(kind, key, names) for key in keys] for names in set(sides.values())}
        for row, names in sides.items():
            self.found.setdefault(row, []).extend(made[names])

    def resolve(self, text: str, more: Iterable[str] = ()) -> str:
        """A row's whole id from its first digits; `more`: ids known from elsewhere. A whole id is taken as it is.

        RegistryError for what is no id, for a beginning of several, and for one of none, with where was looked.
        """
        wanted = text.strip().lower()
        if re.fullmatch(r"[0-9a-f]{64}", wanted):
            return wanted
        if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},63}}", wanted):
            raise RegistryError(
                f"{text[:80]!r} is no row id: give its 64 hex digits, or at least the first {SHORTEST}; they stand in "
                f"{VALID} as row_id"
            )
        matching = sorted({row for row in (*self.found, *more) if row.startswith(wanted)})
        if not matching:
            raise RegistryError(f"no row id begins with {wanted}; looked in {', '.join(self.looked)}")
        if len(matching) > 1:
            shown = ", ".join(row[: len(wanted) + 8] for row in matching[:5])
            raise RegistryError(f"{wanted} begins the ids of {len(matching)} rows ({shown}); give more digits")
        return matching[0]


def rows_of_version(root: Path) -> RowsOf:
    """Reads rows.json of a version whose files are on this disk; None where it is not there or not as registered."""

    def read(standing: Standing) -> dict[str, Any] | None:
        try:
            content = (version_path(root, standing.version) / ROWS).read_bytes()
        except OSError:
            return None
        registered = standing.registered.body.get("rows")
        if registered and hashlib.sha256(content).hexdigest() != registered:
            return None  # somebody edited it: what it says is not what was trained on
        try:
            return json.loads(content)
        except ValueError:
            return None

    return read


def rows_wherever(root: Path) -> RowsOf:
    """As rows_of_version; of a version whose folder is not here, rows.json out of the store that it was sent to."""
    here = rows_of_version(root)

    def read(standing: Standing) -> dict[str, Any] | None:
        sent = standing.registered.body.get("files", "local") != "local"
        if not sent or version_path(root, standing.version).is_dir():
            return here(standing)
        from medtune.registry.version_record import read_record

        return read_record(root, standing).rows

    return read


def find_places(root: Path, recipe: Recipe, versions: Mapping[str, Standing], rows_of: RowsOf) -> Places:
    """Look everywhere. CorpusError where a file of this checkout is broken: a row might be in it."""
    places = Places()
    by_data = _checkout(root, recipe, places)
    by_data |= _history(root, places, by_data)
    by_file: dict[str, Splits] = {}  # sha256 of rows.json, which is one file for all versions of the same tokens
    for standing in versions.values():
        file, data = (standing.registered.body.get(name) for name in ("rows", "data"))
        if file not in by_file and (rows := rows_of(standing)) is not None:
            by_file[file or standing.version] = rows["splits"]
            by_data.setdefault(data, rows["splits"])
    groups: dict[int, tuple[Splits, list[str]]] = {}
    for digest, standing in versions.items():
        file, data = (standing.registered.body.get(name) for name in ("rows", "data"))
        splits = by_file.get(file or digest, by_data.get(data))
        if splits is None:
            places.unknown.append(standing)
        else:
            groups.setdefault(id(splits), (splits, []))[1].append(digest)
    for splits, digests in groups.values():
        places.add("version", digests, splits)
    places.looked.append(f"{len(versions) - len(places.unknown)} of {len(versions)} registered versions")
    return places


def _checkout(root: Path, recipe: Recipe, places: Places) -> dict[str, Splits]:
    """data/raw, data/valid, the quarantine, data/tokens. Returns the splits of data/valid by its digest."""
    by_data: dict[str, Splits] = {}
    if (root / RAW).exists():
        for row, source in _raw_rows(root / RAW, recipe):
            places.found.setdefault(row, []).append(Place("checkout", str(RAW), note=source))
        places.looked.append(str(RAW))
    if (root / VALID).exists():
        rows = list(read_records(root / VALID))
        splits = _by_split(rows)
        places.add("checkout", [str(VALID)], splits)
        digest = hashlib.sha256((root / VALID).read_bytes()).hexdigest()
        places.add("data", [digest], splits)
        by_data[digest] = splits
        places.clusters = _clusters(rows)
        places.looked.append(str(VALID))
    if (root / QUARANTINE).exists():
        for record in read_records(root / QUARANTINE):
            if row := record.get("row_id"):
                note = str(record.get("source", ""))
                places.found.setdefault(row, []).append(Place("checkout", str(QUARANTINE), note=note))
        places.looked.append(str(QUARANTINE))
    if (root / TOKENS).is_dir():
        places.add("checkout", [str(TOKENS)], {side: _token_rows(root / TOKENS / side) for side in SIDES})
        places.looked.append(str(TOKENS))
    return by_data


def _raw_rows(path: Path, recipe: Recipe) -> Iterable[tuple[str, str]]:
    """(row id, file and line) of the raw rows that can be read, as validate reads them."""
    records, columns = list(read_records(path)), recipe.download.columns
    constant = constant_instruction((record["row"] for record in records), columns)
    read = partial(to_messages, format=recipe.download.format, columns=columns, constant_instruction=constant)
    for record in records:
        try:
            yield row_id(read(record["row"])), record["source"]
        except CorpusError:  # never became a row; validate sets it aside
            continue


def _token_rows(folder: Path) -> list[str]:
    """Row ids of a split as `datasets` saved it: Arrow streams. Canaries among them are rows of nobody."""
    import pyarrow as pa

    ids: set[str] = set()
    for file in sorted(folder.glob("*.arrow")):
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
            for batch in batches:
                ids.update(batch.column("row_id").to_pylist())
    return sorted(ids)


def _history(root: Path, places: Places, here: Mapping[str, Splits]) -> dict[str, Splits]:
    """Data versions that commits of dvc.lock name and DVC's cache still has: data digest -> splits."""
    found: dict[str, Splits] = {}
    hashes = _locked_hashes(root)
    for md5 in hashes:
        path = _cache(root) / "files" / "md5" / md5[:2] / md5[2:]
        if not path.exists():
            places.unknown_data.append(md5)
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest not in here:
            found[digest] = _by_split(read_records(path))
            places.add("data", [digest], found[digest])
    if hashes:
        there = len(hashes) - len(places.unknown_data)
        places.looked.append(f"{there} of {len(hashes)} data versions of dvc.lock's history")
    return found


def _locked_hashes(root: Path) -> list[str]:
    """md5 of data/valid/rows.jsonl in dvc.lock as it is and as every commit has it; empty outside git."""
    texts = []
    if (root / "dvc.lock").exists():
        texts.append((root / "dvc.lock").read_bytes())
    try:
        log = _git(root, "log", "--all", "--format=%H:./dvc.lock", "--", "dvc.lock")
        texts.append(_git(root, "cat-file", "--batch", given=log))
    except (OSError, subprocess.SubprocessError):
        pass  # no git, or no repository: then there is no history to look into
    pattern = re.compile(rb"- path: data/valid/rows\.jsonl\s+hash: md5\s+md5: ([0-9a-f]{32})\b")
    return list(dict.fromkeys(md5.decode() for text in texts for md5 in pattern.findall(text)))


def _git(root: Path, *arguments: str, given: bytes = b"") -> bytes:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, input=given, capture_output=True, timeout=60, check=True).stdout


def _cache(root: Path) -> Path:
    """DVC's cache: cache.dir of .dvc/config.local or .dvc/config, by default .dvc/cache."""
    for name in ("config.local", "config"):
        config = ConfigParser(interpolation=None)
        try:
            config.read(root / ".dvc" / name, encoding="utf-8")
        except ConfigError:
            continue  # DVC will say so itself
        if place := config.get("cache", "dir", fallback=None):
            return root / ".dvc" / place.strip("'\"")
    return root / ".dvc" / "cache"


def _by_split(rows: Iterable[dict]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for row in rows:
        splits.setdefault(row["split"], []).append(row["row_id"])
    return splits


def _clusters(rows: list[dict]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for row in rows:
        members.setdefault(row["cluster"], []).append(row["row_id"])
    return {row: [other for other in ids if other != row] for ids in members.values() if len(ids) > 1 for row in ids}
