"""The holdout is a budget: how often a set of test rows has been looked at, and how often it still may be.

Every decision that compares models on the test rows is a look. A set of rows is good for `gate.looks` of them, each at
gate.alpha / gate.looks (Bonferroni over looks), so that all comparisons ever made on it err with gate.alpha together.
New rows make a new test digest and with it a new budget; so does another split, and looks are counted in this checkout:
neither is a way to try again.

mlruns/looks/<test digest>.jsonl, one line a look, only ever appended:

    {"schema": 1, "key": <decision key>, "version": …, "champion": … | null, "alpha": <level spent>, "at": <UTC>}

A line is on the disk before the decision is computed, so that a kill gives no free look; the same decision, asked
again, is no second look. The caller holds registry_lock.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medtune.tracking.store import HOME

SCHEMA = 1


@dataclass(frozen=True)
class Looks:
    """used: looks written down; left: how many more the policy allows; of: what the policy allows a test set."""

    test_digest: str
    used: int
    left: int
    of: int

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def sentence(self) -> str:
        spent = "" if self.left else "; new rows make a new test set"
        return f"test set {self.test_digest[:12]}: {self.used} of {self.of} looks used, {self.left} left{spent}"


def read_looks(root: Path, test_digest: str, alpha: float, of: int) -> Looks:
    """What has been spent of a test set's budget; reads only."""
    return _budget(test_digest, _lines(_path(root, test_digest)), alpha, of)


def take_look(
    root: Path, test_digest: str, key: str, version: str, champion: str | None, alpha: float, of: int
) -> bool:
    """Write a look down before it is taken. False where the budget is spent; True at no cost where `key` is known."""
    path = _path(root, test_digest)
    lines = _lines(path)
    if any(line.get("key") == key for line in lines):
        return True
    if not _budget(test_digest, lines, alpha, of).left:
        return False
    line = {
        "schema": SCHEMA,
        "key": key,
        "version": version,
        "champion": champion,
        "alpha": alpha / of,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _append(path, line)
    return True


def _budget(test_digest: str, lines: list[dict[str, Any]], alpha: float, of: int) -> Looks:
    """In levels rather than in lines: who raises gate.looks has still spent what was spent at the old level."""
    each = alpha / of
    spent = sum(line.get("alpha", each) for line in lines)
    return Looks(test_digest, len(lines), max(0, int((alpha - spent) / each + 1e-6)), of)


def _path(root: Path, test_digest: str) -> Path:
    return root / HOME / "looks" / f"{test_digest}.jsonl"


def _lines(path: Path) -> list[dict[str, Any]]:
    """A last line without its line end was torn by a kill before anything was decided: no look. A whole line that is
    damaged counts as one, so that nobody gains by damaging it."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = text[: text.rfind(b"\n") + 1]
    return [_line(line) for line in whole.splitlines() if line.strip()]


def _line(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(line, dict):
        return {}
    number = line.get("alpha")
    usable = isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < 1
    return line if usable else {key: value for key, value in line.items() if key != "alpha"}


def _append(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)  # what a kill tore off
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name of a new file, too
    finally:
        os.close(folder)
