"""Rows out of files: jsonl, json, csv, parquet; one file, or a folder and a pattern.

    for path in data_files(Path("data/mine"), "*.jsonl"):
        for line, row in read_rows(path, notes := Notes(path.name)):
            ...

A file that is broken raises a CorpusError with file, line and mend. A flaw that can be read past (byte order mark,
Windows line ends, decomposed Hangul, blank lines) is noted, and the row is given as it came.
"""

import csv
import unicodedata
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from medtune.corpus.json_rows import is_really_jsonl, json_rows, jsonl_rows
from medtune.corpus.lines import Notes, read_lines, refuse_foreign
from medtune.params.errors import CorpusError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def data_files(path: Path, pattern: str = "*") -> list[Path]:
    """The data files under `path`, by name. A file stands for itself; a folder for those in it, at any depth, whose
    name or path in it matches `pattern`. Hidden and half-copied files (.part, .tmp) are passed over.
    CorpusError where nothing is left."""
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise CorpusError(f"{path} is none of {', '.join(SUFFIXES)}; convert it, or name another download.path")
        return [path]
    if not path.exists():
        raise CorpusError(f"{path} does not exist; set download.path to a file or a folder with your rows")
    names = [p for p in sorted(path.rglob("*")) if p.is_file() and not is_unfinished(p.relative_to(path))]
    found = [p for p in names if is_wanted(p.relative_to(path).as_posix(), pattern)]
    if not found:
        here = ", ".join(p.relative_to(path).as_posix() for p in names[:8]) or "nothing"
        raise CorpusError(
            f"{path} holds no {', '.join(SUFFIXES)} file that matches download.pattern {pattern!r}; it holds: {here}"
        )
    return found


def is_wanted(name: str, pattern: str) -> bool:
    """Whether a file of a folder or a repository is data and matches, by its name or by its path in there."""
    return name.lower().endswith(SUFFIXES) and (fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern))


def is_unfinished(relative: Path) -> bool:
    """Half-copied by its name: hidden (itself or a folder above it), or ending in .part or .tmp."""
    return any(part.startswith(".") for part in relative.parts) or relative.suffix.lower() in (".part", ".tmp")


def read_rows(path: Path, notes: Notes) -> Iterator[tuple[int, dict]]:
    """(line, row) of one file in its order: the line on which the row begins, from 1; for parquet the row's number.

    Keys are texts, values what JSON can hold. CorpusError for a broken file, and for one without rows."""
    refuse_foreign(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows = _csv_rows(path, notes)
    elif suffix == ".parquet":
        rows = _parquet_rows(path)
    elif suffix == ".json" and not is_really_jsonl(path):
        rows = json_rows(path, notes)
    else:
        rows = jsonl_rows(path, notes)
    line = None
    for line, row in rows:
        if not all(unicodedata.is_normalized("NFC", text) for text in _texts(row)):
            notes.see("nfd", line)
        yield line, row
    if line is None:
        raise CorpusError(f"{path}: there are no rows in it; copy or download it again, or remove it")


def _csv_rows(path: Path, notes: Notes) -> Iterator[tuple[int, dict]]:
    lines = read_lines(path, notes, blanks=True)
    header_line = next(text for _, text in lines if text)
    delimiter = max(",\t;", key=header_line.count)  # the spreadsheets of some countries write ; or tabs

    def with_ends() -> Iterator[str]:
        yield header_line + "\n"
        for _, text in lines:
            yield text + "\n"

    before = csv.field_size_limit(1 << 30)  # the default of 131,072 characters refuses a long document
    reader = csv.reader(with_ends(), delimiter=delimiter, strict=True)
    start = 1
    try:
        header = [column.strip() for column in next(reader)]
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise CorpusError(f"{path}, line 1: columns {', '.join(map(repr, twice))} stand twice; rename one of each")
        start = reader.line_num + 1
        for record in reader:
            first, start = start, reader.line_num + 1
            if not record:
                notes.see("blank", first)
            elif len(record) != len(header):
                raise CorpusError(
                    f"{path}, line {first}: {len(record)} fields, and the header has {len(header)} "
                    f"({', '.join(header)}); put text that holds {delimiter!r} or a line end into double quotes"
                )
            else:
                yield first, dict(zip(header, record, strict=True))
    except csv.Error as error:
        raise CorpusError(f"{path}, line {start}: {error}; a double quote from there on is not closed") from None
    finally:
        csv.field_size_limit(before)


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise CorpusError(f"{path}: columns {', '.join(map(repr, twice))} stand twice; rename one of each")
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, {key: _plain(value, key, path) for key, value in row.items()}
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise CorpusError(f"{path}: not a whole parquet file ({why}); copy or download it again") from None


def _plain(value: object, column: str, path: Path) -> object:
    """A parquet value as JSON has it: dates and decimals as text, NaN as null."""
    if isinstance(value, dict):
        return {key: _plain(inner, column, path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, column, path) for inner in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # NaN compares False
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, bytes):
        raise CorpusError(f"{path}: column {column!r} holds bytes, not text; cast it to string, or leave it out")
    return str(value)


def _texts(value: object) -> Iterator[str]:
    """Every text inside a row, its keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
