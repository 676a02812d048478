"""The votes file: one JSON line a vote, only ever appended to; the last line of a reviewer and item counts.

A line is on the disk before the vote is acknowledged. A server that was killed may leave a last line without its end:
that vote was never acknowledged, and the page sends it again.
"""

import json
import os
import re
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medtune.params.errors import EvaluationError

CHOICES = ("a", "b", "equal")
MAX_NAME, MAX_COMMENT = 40, 2000
_HEX = {"item": re.compile(r"[0-9a-f]{64}"), "a": re.compile(r"[0-9a-f]{16}")}
_KEY = re.compile(r"[A-Za-z0-9-]{8,64}")


@dataclass(frozen=True)
class Vote:
    """reviewer: a name. item: the item's id. a: text_id of the answer that stood at A.

    choice: a, b or equal; None takes the vote back. harmful: which of a, b the reviewer calls harmful. key: made by the
    page, the same when it sends a vote again. at: UTC, ISO 8601.
    """

    reviewer: str
    item: str
    a: str
    choice: str | None
    harmful: tuple[str, ...]
    comment: str
    key: str
    at: str


def clean_name(name: object) -> str:
    """A reviewer's name as it is stored: NFC, white space folded. ValueError says what is wrong with it."""
    if not isinstance(name, str):
        raise ValueError("reviewer is no text")
    folded = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(folded) <= MAX_NAME:
        raise ValueError(f"reviewer must have 1 to {MAX_NAME} characters")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in folded):
        raise ValueError("reviewer holds control characters")
    return folded


def parse_vote(row: object, at: str | None = None) -> Vote:
    """A vote out of JSON; ValueError says which key is wrong. `at` is set by the server, and read from a file."""
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    for key, form in _HEX.items():
        if not (isinstance(row.get(key), str) and form.fullmatch(row[key])):
            raise ValueError(f"{key} is {row.get(key)!r}, no digest")
    if "choice" not in row or row["choice"] not in (*CHOICES, None):
        raise ValueError(f"choice is {row.get('choice')!r}, not one of {', '.join(CHOICES)} or null")
    harmful = row.get("harmful", [])
    if not isinstance(harmful, list) or any(side not in ("a", "b") for side in harmful):
        raise ValueError(f"harmful is {harmful!r}, no list of a and b")
    comment = row.get("comment", "")
    if not isinstance(comment, str) or len(comment) > MAX_COMMENT:
        raise ValueError(f"comment is no text of up to {MAX_COMMENT} characters")
    if not (isinstance(row.get("key"), str) and _KEY.fullmatch(row["key"])):
        raise ValueError(f"key is {row.get('key')!r}, not 8 to 64 letters, digits and -")
    at = at or row.get("at")
    if not isinstance(at, str) or not at:
        raise ValueError("at is missing")
    # a lone surrogate is legal in JSON and in no UTF-8 file
    comment = comment.encode("utf-8", "replace").decode()
    return Vote(
        clean_name(row.get("reviewer")), row["item"], row["a"], row["choice"], tuple(sorted(set(harmful))), comment,
        row["key"], at,
    )  # fmt: skip


def read_votes(path: Path) -> tuple[list[tuple[int, Vote]], bool]:
    """([(line number, vote)] in order, whether the last line is torn).

    EvaluationError names file and line of a line that is no vote; a torn last line is no error and no vote.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise EvaluationError(f"{path} is no votes file; `medtune review serve` writes one") from None
    whole, torn = _split_torn(content)
    return list(_parse_lines(path, whole)), bool(torn)


def _split_torn(content: bytes) -> tuple[bytes, bytes]:
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def _parse_lines(path: Path, content: bytes) -> Iterator[tuple[int, Vote]]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, parse_vote(json.loads(line))
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise EvaluationError(f"{path} line {number} is no vote: {error}; mend or remove the line") from None


class VoteLog:
    """The file opened by one server. Every method may be called from several threads.

    Opening repairs a torn last line (its bytes go to <name>.torn) and refuses a file that another server holds.
    """

    def __init__(self, path: Path) -> None:
        from filelock import FileLock, Timeout

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._held = FileLock(path.with_name(path.name + ".lock"))  # the system lets go of it when the process dies
        try:
            self._held.acquire(timeout=0)
        except Timeout:
            raise EvaluationError(f"{path} is in use by another `medtune review serve`; end that one first") from None
        self.repaired = b""
        new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        if new:
            _sync_folder(path.parent)
        content, torn = _split_torn(path.read_bytes())
        if torn:
            self._set_aside(torn, len(content))
        self._size = len(content)
        self._latest: dict[str, dict[str, Vote]] = {}
        self._keys: set[tuple[str, str]] = set()
        try:
            for _, vote in _parse_lines(path, content):
                self._take(vote)
        except EvaluationError:
            self.close()
            raise

    def append(self, vote: Vote) -> bool:
        """Write a vote and wait until it is on the disk; False where it had been written before (a page sent again).

        OSError where the disk did not take it; the file is then as it was.
        """
        line = (json.dumps(asdict(vote), ensure_ascii=False) + "\n").encode()
        with self._lock:
            if (vote.reviewer, vote.key) in self._keys:
                return False
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError("the disk took a part of the line")
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
            self._size += len(line)
            self._take(vote)
            return True

    def of(self, reviewer: str) -> dict[str, Vote]:
        """A reviewer's votes that count, by item."""
        with self._lock:
            return {item: vote for item, vote in self._latest.get(reviewer, {}).items() if vote.choice is not None}

    def close(self) -> None:
        os.close(self._file)
        self._held.release()

    def _take(self, vote: Vote) -> None:
        self._keys.add((vote.reviewer, vote.key))
        self._latest.setdefault(vote.reviewer, {})[vote.item] = vote

    def _set_aside(self, torn: bytes, size: int) -> None:
        """Nothing is thrown away: what a killed server left of its last line stays readable beside the file."""
        with self.path.with_name(self.path.name + ".torn").open("ab") as aside:
            aside.write(torn + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        os.ftruncate(self._file, size)
        os.fsync(self._file)
        self.repaired = torn


def latest(votes: list[tuple[int, Vote]]) -> dict[tuple[str, str], Vote]:
    """(reviewer, item) -> the vote that counts: the last line, unless it takes the vote back."""
    last: dict[tuple[str, str], Vote] = {}
    for _, vote in votes:
        last[vote.reviewer, vote.item] = vote
    return {key: vote for key, vote in last.items() if vote.choice is not None}


def _sync_folder(folder: Path) -> None:
    """So that the file's name, too, survives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def as_row(vote: Vote) -> dict[str, Any]:
    """What the page may know of its own vote."""
    return {"choice": vote.choice, "harmful": list(vote.harmful), "comment": vote.comment}
