"""The holdout is a budget: how often a set of test rows has been looked at, and how often it still may be.

Every decision that compares models on the test rows is a look. A set of rows is good for `gate.looks` of them, each at
gate.alpha / gate.looks (Bonferroni over looks), so that all comparisons ever made on it err with gate.alpha together.
New rows make a new test digest and with it a new budget; so does another split: neither is a way to try again.

A look is an event `looked` of the ledger, so that all checkouts and all models of one ledger share a test set's budget:

    version: the candidate's digest; body: {"key": <look key>, "test": <test digest>, "champion": … | null,
    "alpha": <level spent>}

It is committed before the decision is computed, so that a kill gives no free look; the same decision, asked again, is
no second look. Counting and writing are one transaction: of two that want the last look one gets it.

Looks were once kept in mlruns/looks/<test digest>.jsonl. The next look takes such files over (with each line's "at" in
the body) and renames them to .moved; until then their lines count where they lie.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.tracking.store import HOME

if TYPE_CHECKING:
    from medtune.registry.ledger import Ledger

LOOKED = "looked"


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


class _Spent(Exception):
    """The budget allows no further look."""


class _Known(Exception):
    """This very look was taken before."""


def read_looks(root: Path, ledger: "Ledger | None", test_digest: str, alpha: float, of: int) -> Looks:
    """What has been spent of a test set's budget, by everybody who shares the ledger; reads only.

    `ledger`: None where none was made yet.
    """
    taken = _taken(ledger, test_digest) if ledger is not None else {}
    # what is not taken over yet, counted where it lies
    taken = dict(_lines(_path(root, test_digest))) | taken
    return _budget(test_digest, taken, alpha, of)


def take_look(
    root: Path,
    ledger: "Ledger",
    model: str,
    test_digest: str,
    key: str,
    version: str,
    champion: str | None,
    alpha: float,
    of: int,
) -> bool:
    """Write a look down before it is taken. False where the budget is spent; True at no cost where `key` is known."""
    take_over(root, ledger, model)

    def check(ledger: "Ledger") -> None:
        taken = _taken(ledger, test_digest)
        if key in taken:
            raise _Known
        if not _budget(test_digest, taken, alpha, of).left:
            raise _Spent

    body = {"key": key, "test": test_digest, "champion": champion, "alpha": alpha / of}
    try:
        ledger.append(LOOKED, model, version, body, check=check)
    except _Known:
        return True
    except _Spent:
        return False
    return True


def take_over(root: Path, ledger: "Ledger", model: str) -> int:
    """Bring the looks of this checkout's old files into the ledger, each once; how many came new.

    A kill anywhere is mended by the next call: a file is renamed after the last of its lines, and a line whose key the
    ledger has is not written again.
    """
    moved = 0
    for path in sorted((root / HOME / "looks").glob("*.jsonl")):
        test_digest = path.stem
        for key, line in _lines(path):
            version = line.get("version")

            def check(ledger: "Ledger", key: str = key, test_digest: str = test_digest) -> None:
                if key in _taken(ledger, test_digest):
                    raise _Known

            body = {name: line.get(name) for name in ("champion", "alpha", "at")}
            with suppress(_Known):
                ledger.append(
                    LOOKED,
                    model,
                    version if isinstance(version, str) and len(version) <= 64 else None,
                    {"key": key, "test": test_digest, **body},
                    check=check,
                )
                moved += 1
        with suppress(FileNotFoundError):  # another process of this checkout was faster
            os.replace(path, path.with_name(f"{path.name}.moved"))
    return moved


def _taken(ledger: "Ledger", test_digest: str) -> dict[str, dict[str, Any]]:
    """Looks at a test set by their key, of whatever model: the rows are what is worn out."""
    bodies = (event.body for event in ledger.events(kinds={LOOKED}))
    return {body["key"]: body for body in bodies if body["test"] == test_digest}


def _budget(test_digest: str, taken: dict[str, dict[str, Any]], alpha: float, of: int) -> Looks:
    """In levels rather than in looks: who raises gate.looks has still spent what was spent at the old level."""
    each = alpha / of
    spent = sum(look.get("alpha") or each for look in taken.values())
    return Looks(test_digest, len(taken), max(0, int((alpha - spent) / each + 1e-6)), of)


def _path(root: Path, test_digest: str) -> Path:
    return root / HOME / "looks" / f"{test_digest}.jsonl"


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, look) of an old file. A last line without its line end was torn by a kill before anything was decided: no
    look. A whole line that is damaged counts as one, under a key of its own: nobody gains by damaging it."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return
    whole = text[: text.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines()):
        if line.strip():
            look = _line(line)
            key = look.get("key")
            if not isinstance(key, str):
                key = f"damaged line {number + 1}: {hashlib.sha256(line).hexdigest()[:16]}"
            yield key, look


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
