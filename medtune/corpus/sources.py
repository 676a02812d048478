"""Where rows come from: the sample, files, or a dataset of the hub; and what was put into data/incoming since.

gathered = gather(recipe.download, Path("."))
gathered.rows, gathered.files, gathered.license
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.cache import cache_dir
from medtune.corpus.dialogue import HABITS, constant_instruction, to_messages
from medtune.corpus.frozen import frozen_names
from medtune.corpus.hub import HubFile, Repo
from medtune.corpus.lines import Notes
from medtune.corpus.readers import data_files, is_unfinished, is_wanted, read_rows
from medtune.corpus.records import write_text
from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    from medtune.params.download import Download

ARRIVING = Path("data/.arriving")  # half-done downloads: outside every DVC out, which DVC empties before a stage runs
INCOMING = Path("data/incoming")


@dataclass
class Gathered:
    """Rows as they came, with where each came from ("file:line"), and what is known of the files."""

    rows: list[tuple[str, dict]] = field(default_factory=list)
    files: list[dict] = field(default_factory=list)  # {"name", "sha256", "bytes", "rows", "notes"}
    license: str | None = None


def gather(section: Download, root: Path = Path(), say: Callable[[str], None] = print) -> Gathered:
    """The main source's rows (the first `limit` of them), then those of data/incoming by name."""
    gathered = Gathered(license=section.license)
    if section.source == "hub":
        named = _from_hub(section, root, gathered, say)
    else:
        path = root / section.path
        folder = path if path.is_dir() else path.parent
        named = [(p.relative_to(folder).as_posix(), p) for p in data_files(path, section.pattern)]
    for name, path in named:
        left = None if section.limit is None else section.limit - len(gathered.rows)
        if left is None or left > 0:
            _read(name, path, gathered, left)
    for path in incoming_files(root):
        _read(f"incoming/{path.name}", path, gathered, None)
    _must_map(gathered.rows, section)
    return gathered


def incoming_files(root: Path = Path()) -> list[Path]:
    """data/incoming/*.jsonl by name, without those that are half-copied by their name; while a flow runs, only those
    that it has found whole (medtune/corpus/frozen.py)."""
    listed = frozen_names(root)
    found = [p for p in sorted((root / INCOMING).glob("*.jsonl")) if p.is_file() and not is_unfinished(Path(p.name))]
    return [p for p in found if listed is None or p.name in listed]


def _read(name: str, path: Path, gathered: Gathered, limit: int | None) -> None:
    """Appends the file's rows. The whole file is read even under a limit: broken further on is broken."""
    notes = Notes(name)
    rows = read_rows(path, notes)
    taken = [(f"{name}:{line}", row) for line, row in islice(rows, limit)]
    for _ in rows:
        pass
    gathered.rows += taken
    gathered.files.append(
        {
            "name": name,
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
            "rows": len(taken),
            "notes": notes.sentences(),
        }
    )


def _must_map(rows: list[tuple[str, dict]], section: Download) -> None:
    """CorpusError where no row at all is understood, or a column of the recipe is in none of them: that is a wrong
    recipe, and not a matter of single rows, which validate sets aside."""
    columns = section.columns
    for name in (*HABITS, "text"):
        column = getattr(columns, name)
        if column is not None and not any(column in row for _, row in rows):
            found = ", ".join(list(rows[0][1])[:12])
            raise CorpusError(f"download.columns.{name} is {column!r}, which no row has; columns found: {found}")
    constant = constant_instruction((row for _, row in rows), columns)
    first: CorpusError | None = None
    for source, row in rows:
        try:
            to_messages(row, section.format, columns, constant)
            return
        except CorpusError as error:
            first = first or CorpusError(f"no row is understood; the first, {source}: {error}")
    raise first


def _from_hub(section: Download, root: Path, gathered: Gathered, say: Callable) -> list[tuple[str, Path]]:
    """(name, path) of the dataset's files, from the cache or fetched into it. What arrives is parsed to its last row
    before it is renamed into the cache: whatever a server says, the cache holds only files that can be read."""
    kept = cache_dir() / "datasets" / section.id.replace("/", "--") / section.revision
    about = kept / "repository.json"
    repo = Repo("dataset", section.id, section.revision, section.attempts, say)
    if about.exists():
        known = json.loads(about.read_text(encoding="utf-8"))
        files = [HubFile(**entry) for entry in known["files"]]
    else:
        files, licence = repo.about()
        known = {"license": licence, "files": [vars(file) for file in files]}
        write_text(about, json.dumps(known, ensure_ascii=False, indent=1))
    gathered.license = section.license or known["license"]
    wanted = sorted((f for f in files if is_wanted(f.path, section.pattern)), key=lambda f: f.path)
    if not wanted:
        here = ", ".join(f.path for f in files[:8])
        raise CorpusError(
            f"{section.id} at {section.revision[:12]} has no data file that matches download.pattern "
            f"{section.pattern!r}; it has: {here}"
        )
    named = []
    for file in wanted:
        path = kept / "files" / file.path
        if not path.exists():
            say(f"{section.id}: fetching {file.path} ({file.size:,} bytes)")
            _arrive(repo.fetch(file, root / ARRIVING), path, section.id)
        named.append((file.path, path))
    return named


def _arrive(part: Path, path: Path, id: str) -> None:
    """Checks that the fetched file can be read to its end, then renames it into its place in the cache."""
    checked = part.with_name(f"{part.stem}{path.suffix}")  # readers go by the suffix
    part.replace(checked)
    try:
        for _ in read_rows(checked, Notes(path.name)):
            pass
    except CorpusError as error:
        checked.unlink()
        raise CorpusError(
            f"{id}, {path.name} as the hub has it: {str(error).replace(str(checked), path.name)}"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.move(checked, beside)  # the cache may lie on another disk; the rename is then within it
    beside.replace(path)


def file_sha256(path: Path) -> str:
    """64 hex digits over the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
