"""Which files are whole, and the hashes of their rows: each is read once, and again only when it changes.

    intake = Intake(root, quiet=20.0, now=time.time())
    verdict = intake.judge(Path("data/incoming/new.jsonl"))      # Whole | Waiting | Broken | None where it is gone
    intake.save()

What was read is kept in mlruns/incoming.json by size, both times and inode. Losing it costs one more reading, and one
more look before a file that may still grow is given up.
"""

from __future__ import annotations

import json
import math
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from medtune.corpus.arrivals import arrival_hash
from medtune.corpus.lines import Notes
from medtune.corpus.readers import read_rows
from medtune.corpus.sources import file_sha256
from medtune.params.errors import CorpusError

STATE = Path("mlruns/incoming.json")
HASH = 32  # characters of an arrival hash
PATIENCE_SECONDS = 600.0  # at least so long a file without its end is left alone: a copy over a bad line may rest
SETTLED_SECONDS = 1.0  # a younger file may be written to again within its time stamp's grain: what it holds isn't kept
# What the readers say of a file that may be on its way still (lines.cut_sentence, lines.refuse_foreign, read_rows).
MAY_GROW = ("the file ends in the middle of this line", "the file is empty", "there are no rows in it")


class Stamp(NamedTuple):
    """What changes when a file's bytes do. ctime as well as mtime: a copy may keep the old mtime, never the old ctime;
    and ctime as well as size: a file may be written over by one as long."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Whole(NamedTuple):
    """A file that can be read to its end. rows: the arrival hashes of its rows, in its order."""

    path: str
    sha256: str
    rows: list[str]


class Waiting(NamedTuple):
    path: str
    sentence: str


class Broken(NamedTuple):
    """A file that no wait will mend, and how it looked then."""

    path: str
    sentence: str
    stamp: Stamp


class Intake:
    """The files of one look. Paths are relative to `root` and stand so in every sentence."""

    def __init__(self, root: Path, quiet: float, now: float, known: Mapping[str, int] | None = None) -> None:
        """`quiet` in seconds, `now` as time.time() gives it; `known`: size in bytes by sha256 of files that were read
        whole before, so that one whose times alone changed (DVC linked it, git checked it out) need not wait."""
        self.root, self.quiet, self.now = root, quiet, now
        self.patience = max(10 * quiet, PATIENCE_SECONDS)
        self._known = dict(known or {})
        self._before, self._rows = _load(root / STATE)
        self._files: dict[str, dict] = {}
        self._sizes = {entry["stamp"][0] for entry in self._before.values() if "sha256" in entry}
        self._sizes |= set(self._known.values())

    def judge(self, path: Path) -> Whole | Waiting | Broken | None:
        """What is to be done with a file: read it, wait for it, set it aside; None where it is gone by now."""
        shown = path.as_posix()
        if (sentence := _bad_name(path.name)) is not None:
            return Broken(shown, sentence, self._stamp(path) or Stamp(0, 0, 0, 0))
        stamp = self._stamp(path)
        if stamp is None:
            if (self.root / path).is_symlink():
                return Broken(shown, f"{shown} is a link to nothing; put the file itself there", Stamp(0, 0, 0, 0))
            return None
        entry, seen_before = self._entry(shown, stamp)
        if (kept := self._kept(shown, entry)) is not None:
            return kept
        if not self._familiar(path, stamp) and (waits := self._quiet_yet(shown, stamp, entry, seen_before)):
            return Waiting(shown, waits)
        return self._read(path, stamp, entry, seen_before)

    def read_now(self, path: Path) -> tuple[Whole, str | None]:
        """A file that is read as it is, whole or not: the recipe's own. With it the sentence that it may be on its way
        still. CorpusError where it cannot be read."""
        shown, stamp = path.as_posix(), self._stamp(path)
        if stamp is None:
            raise CorpusError(f"{shown} does not exist; set download.path to a file or a folder with your rows")
        entry, seen_before = self._entry(shown, stamp)
        kept = self._kept(shown, entry)
        if isinstance(kept, Whole):
            return kept, None
        waits = None if self._familiar(path, stamp) else self._quiet_yet(shown, stamp, entry, seen_before)
        verdict = self._read(path, stamp, entry, seen_before)
        if not isinstance(verdict, Whole):
            raise CorpusError(verdict.sentence if verdict else f"{shown} is gone")
        if waits:
            entry.pop("sha256", None)  # read, and not known to be whole
        return verdict, waits

    def save(self) -> None:
        """Under a temporary name, then renamed. A disk that takes no more costs the next look its head start."""
        for shown, entry in self._before.items():  # of files that this look did not ask about
            if shown not in self._files and self._stamp(Path(shown)) is not None:
                self._files[shown] = entry
        if self._files == self._before:
            return
        used = {entry["sha256"] for entry in self._files.values() if "sha256" in entry}
        rows = {sha256: hashes for sha256, hashes in self._rows.items() if sha256 in used}
        path = self.root / STATE
        # two looks at once, of the watcher and of a flow, must not write into one temporary file
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"files": self._files, "rows": rows}), encoding="ascii")
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)

    def _stamp(self, path: Path) -> Stamp | None:
        try:
            about = (self.root / path).stat()
        except OSError:  # gone, a link to nothing, a ring of links
            return None
        return Stamp(about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)

    def _entry(self, shown: str, stamp: Stamp) -> tuple[dict, bool]:
        """What is kept of the file as it is now, and whether an earlier look has seen it so."""
        entry = self._before.get(shown)
        seen_before = entry is not None and entry["stamp"] == list(stamp)
        if not seen_before:
            entry = {"stamp": list(stamp), "seen": self.now}
        else:
            entry = dict(entry)
            if entry["seen"] > self.now:  # the clock went back
                entry["seen"] = self.now
        self._files[shown] = entry
        return entry, seen_before

    def _kept(self, shown: str, entry: dict) -> Whole | Broken | None:
        if "broken" in entry:
            return Broken(shown, entry["broken"], Stamp(*entry["stamp"]))
        rows = self._hashes(entry.get("sha256"))
        return None if rows is None else Whole(shown, entry["sha256"], rows)

    def _hashes(self, sha256: str | None) -> list[str] | None:
        """The rows' hashes of a file with these bytes, where it was read before."""
        joined = self._rows.get(sha256)
        return None if joined is None else [joined[i : i + HASH] for i in range(0, len(joined), HASH)]

    def _familiar(self, path: Path, stamp: Stamp) -> bool:
        """Whether its bytes were read whole before, under whatever name and times."""
        if stamp.size not in self._sizes or not (self.root / path).is_file():
            return False
        try:
            sha256 = file_sha256(self.root / path)
        except OSError:
            return False
        return sha256 in self._rows or sha256 in self._known

    def _quiet_yet(self, shown: str, stamp: Stamp, entry: dict, seen_before: bool) -> str | None:
        """None where nobody has written for long enough, else the sentence to wait with."""
        age = self.now - max(stamp.mtime_ns, stamp.ctime_ns) / 1e9
        rule = f"it is read when nobody has written to it for {self.quiet:g} s (retrain.quiet_seconds)"
        if age >= 0:
            return None if age >= self.quiet else f"{shown} was written to {math.floor(age)} s ago; {rule}"
        if seen_before and self.now - entry["seen"] >= self.quiet:
            return None
        return (
            f"{shown} has a time that lies {math.ceil(-age):,} s ahead (a clock that was set, here or where it came "
            f"from); it is read when two looks {self.quiet:g} s apart find it unchanged"
        )

    def _read(self, path: Path, stamp: Stamp, entry: dict, seen_before: bool) -> Whole | Waiting | Broken | None:
        shown, full = path.as_posix(), self.root / path
        may_grow = False
        try:
            if not stat.S_ISREG(full.stat().st_mode):
                raise CorpusError(f"{full} is no file; put the files themselves into its place")
            sha256 = file_sha256(full)
            rows = self._hashes(sha256)  # the same bytes under another name or time
            if rows is None:
                rows = [arrival_hash(row) for _, row in read_rows(full, Notes(path.name))]
        except FileNotFoundError:
            self._files.pop(shown, None)
            return None
        except CorpusError as error:
            sentence = str(error).replace(str(full.parent), path.parent.as_posix())
            may_grow = any(mark in sentence for mark in MAY_GROW)
        except PermissionError:
            sentence = f"{shown} cannot be read: permission denied; chmod u+r it, or copy it as the user who runs this"
        except OSError as error:
            sentence, may_grow = (
                f"{shown} cannot be read ({error.strerror}); copy it again",
                True,
            )  # a mount may recover
        except RecursionError:
            sentence = f"{shown}: a row is nested too deeply to be read; flatten it"
        else:
            sentence = None
        if self._stamp(path) != stamp:
            self._files[shown] = {"stamp": list(stamp), "seen": self.now}
            return Waiting(shown, f"{shown} changed while it was read; it is read again at the next look")
        last = max(stamp.mtime_ns, stamp.ctime_ns) / 1e9
        settled = not 0 <= self.now - last < SETTLED_SECONDS
        if sentence is None:
            if settled:
                entry["sha256"] = sha256
            self._rows[sha256] = "".join(rows)
            return Whole(shown, sha256, rows)
        if not may_grow:
            if settled and full.is_file():
                entry["broken"] = sentence
            return Broken(shown, sentence, stamp)
        # Two looks, too: where a clock is wrong, a file that is being written may seem an hour old.
        watched = self.now - entry["seen"]
        if seen_before and watched >= self.quiet and (self.now - last >= self.patience or watched >= self.patience):
            return Broken(shown, sentence, stamp)
        return Waiting(shown, f"{sentence}; it is set aside if it stays so for {self.patience / 60:.0f} minutes")


def show(text: str) -> str:
    """A path for people: bytes that are no UTF-8 and control characters as marks."""
    readable = os.fsencode(text).decode("utf-8", "replace")
    return "".join("\N{REPLACEMENT CHARACTER}" if ord(c) < 32 or ord(c) == 127 else c for c in readable)


def _bad_name(name: str) -> str | None:
    """Why a file cannot be taken under its name: no record of it could be written, nor could DVC list it."""
    if show(name) == name:
        return None
    return (
        f"data/incoming/{show(name)} has a name that is not UTF-8, or a line end in it, as archives made on another "
        "system leave it; rename it"
    )


def _load(path: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """(entry by path, joined hashes by sha256); both empty where there is no state, or none of ours."""
    try:
        state = json.loads(path.read_bytes())
        files, rows = state["files"], state["rows"]
        for entry in files.values():
            Stamp(*map(int, entry["stamp"]))
            float(entry["seen"])
        if not all(isinstance(hashes, str) and len(hashes) % HASH == 0 for hashes in rows.values()):
            raise ValueError
        for entry in files.values():
            if entry.get("sha256") not in rows:
                entry.pop("sha256", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
    return files, rows
