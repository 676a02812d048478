"""Lines of JSON between the stages: read with the line's number at hand, written whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from medtune.params.errors import CorpusError


def read_records(path: Path) -> Iterator[dict]:
    """Objects of a file that an earlier stage wrote, one a line. CorpusError names the line that is none."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise CorpusError(f"{path}, line {number}: not JSON ({error.msg}); run `dvc repro` again") from None
                if not isinstance(record, dict):
                    raise CorpusError(f"{path}, line {number}: not an object; run `dvc repro` again")
                yield record
    except FileNotFoundError:
        raise CorpusError(f"{path} is missing; run `dvc repro`, which makes it first") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 ({error.reason}); run `dvc repro` again") from None


def write_records(path: Path, records: Iterable[dict]) -> int:
    """Write one object a line, under a temporary name until all are there; returns how many."""
    count = 0
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        for record in records:
            file.write(_line(record))
            count += 1
    os.replace(temporary, path)
    return count


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name until it is whole."""
    temporary = _temporary(path)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.part")


def _line(record: dict) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair: legal in JSON as an escape, impossible in UTF-8
        return json.dumps(record).encode("ascii") + b"\n"
