"""What the download stage would read now that it has not read before, told without downloading anything.

    new = look(root, recipe.download, recipe.retrain)
    set_aside(root, new.broken)
    if new.enough: …                # new.data names the data version, new.why says why

The watcher looks every minute, and the flow once more before it runs. What would make `stages.download` fail is found
here first, so that one bad file blocks no retrain.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.arrivals import JOURNAL, read_journal
from medtune.corpus.hub import Repo, offline
from medtune.corpus.intake import Broken, Intake, Waiting, Whole, show
from medtune.corpus.readers import data_files, is_unfinished
from medtune.corpus.records import write_text
from medtune.corpus.retracted import RETRACTED, read_retracted
from medtune.corpus.sources import INCOMING
from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    from medtune.params.download import Download
    from medtune.params.retrain import Retrain

DATASET = Path("data/raw/dataset.json")
SET_ASIDE = Path("data/set_aside")
LEARNED = Path("mlruns/learned.json")  # lost, the rows count as learned that data/first_seen.txt has


@dataclass(frozen=True)
class Newcomers:
    """One look. Paths and sentences are relative to the checkout.

    data: 64 hex, the data version before download: the main source (hub: id@commit; else its files' digests), the set
        of rows in whole incoming files, the set of retracted rows; no names, times or order.
    new_rows: distinct rows that data/first_seen.txt does not have.
    unlearned: distinct rows of the main source and of whole incoming files that no data version had which came to a
        decision here (mark_learned); new_rows where none did yet. A sweep, or a run that was interrupted, writes rows
        into data/first_seen.txt that nobody has learned.
    rows: the arrival hashes of all those files' rows, for mark_learned.
    files: {"name" as in data/raw/dataset.json, "sha256", "rows", "new_rows", "repeats"}, the main source's and the
        incoming; a row that stands in two counts as new in the first.
    whole: names in data/incoming that may be read. waiting: (path, sentence) of those that may still grow, the
        recipe's own too.
    broken: those that no wait will mend, for set_aside().
    revision: the hub's newest commit where it is not the recipe's.
    enough, why: whether a retrain is due, and one sentence for people. notes: sentences about the rest.
    """

    data: str
    new_rows: int
    files: tuple[dict, ...]
    whole: tuple[str, ...]
    waiting: tuple[Waiting, ...]
    broken: tuple[Broken, ...]
    revision: str | None
    enough: bool
    why: str
    notes: tuple[str, ...]
    unlearned: int = 0
    rows: frozenset[str] = field(default=frozenset(), repr=False)


def look(
    root: Path, section: Download, retrain: Retrain, now: float | None = None, say: Callable[[str], None] = print
) -> Newcomers:
    """What is there and has not been read. `now`: seconds as time.time() gives them.

    CorpusError where the recipe's own file cannot be read, or data/first_seen.txt or data/retracted.jsonl is damaged:
    that stops every run. A hub that does not answer is a note."""
    read, notes = _last_read(root), []
    intake = _intake(root, retrain, now, read)
    revision = _moved(section, notes, say) if section.source == "hub" else None
    main, unsettled = _main_files(intake, root, section)
    incoming, waiting, broken = _incoming_files(intake, root, notes)
    intake.save()

    journal = set(read_journal(root / JOURNAL))
    counted: set[str] = set()
    files = [_count(name, file, journal, counted) for name, file in main]
    old = {digest for _, file in main for digest in file.rows}
    files += [_count(f"incoming/{Path(file.path).name}", file, journal, counted) for file in incoming]
    follows = revision if retrain.follow_hub else None
    data = _data_version(section, follows, [file for _, file in main], old, incoming, root)
    rows = old | {digest for file in incoming for digest in file.rows}
    learned = _learned(root)
    unlearned = counted if learned is None else rows - learned
    fresh = max(counted, unlearned, key=len)
    holding = _holding([*(file for _, file in main), *incoming], fresh)
    enough, why = _verdict(section, retrain, follows, read, len(fresh), holding)
    if unsettled:
        enough, why = False, unsettled.sentence
        waiting.insert(0, unsettled)
    if revision and not retrain.follow_hub:
        notes.append(
            f"{section.id} has moved to commit {revision}, which the recipe does not follow (follow_hub false)"
        )
    return Newcomers(
        data=data,
        new_rows=len(counted),
        files=tuple(files),
        whole=tuple(Path(file.path).name for file in incoming),
        waiting=tuple(waiting),
        broken=tuple(broken),
        revision=revision,
        enough=enough,
        why=why,
        notes=tuple(notes),
        unlearned=len(unlearned),
        rows=frozenset(rows),
    )


def look_at_incoming(
    root: Path, retrain: Retrain, now: float | None = None
) -> tuple[tuple[str, ...], tuple[Waiting, ...], tuple[Broken, ...]]:
    """whole, waiting and broken of Newcomers alone: nothing is asked of the hub, and nothing else is read."""
    intake = _intake(root, retrain, now, _last_read(root))
    whole, waiting, broken = _incoming_files(intake, root, [])
    intake.save()
    return tuple(Path(file.path).name for file in whole), tuple(waiting), tuple(broken)


def mark_learned(root: Path, here: Newcomers | None = None) -> None:
    """The rows that data/first_seen.txt has now, and those of `here`, came to a decision: they are new no more.

    For the end of a run, with the pipeline's lock held: nobody else writes data/first_seen.txt meanwhile. CorpusError
    where that file is damaged."""
    told = {
        "data": here.data if here else None,
        "seen": len(read_journal(root / JOURNAL)),  # lines from the first: what comes after them nobody has learned
        "rows": sorted(here.rows) if here else [],
    }
    write_text(root / LEARNED, json.dumps(told))


def _learned(root: Path) -> set[str] | None:
    """Arrival hashes of rows that came to a decision; None where none is known to have."""
    try:
        told = json.loads((root / LEARNED).read_bytes())
        seen, rows = int(told["seen"]), set(map(str, told["rows"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows.union(read_journal(root / JOURNAL)[:seen])


def set_aside(root: Path, broken: Iterable[Broken]) -> list[str]:
    """Moves each to data/set_aside/NAME, beside it NAME.txt with the reason and the mend; a sentence for each.

    Nothing is written over. The note comes first, so that no file ever lies there without its reason: a kill in
    between leaves the file where it was, and the next call moves it to the place that the note has kept."""
    said = []
    for item in broken:
        path = root / item.path
        try:
            if not _unchanged(path, item):
                said.append(f"{show(item.path)} has changed since it was found broken; it is looked at again")
                continue
            place = _place(root / SET_ASIDE, show(path.name), item.sentence)
            _move(path, place)
        except FileNotFoundError:
            continue
        except OSError as error:
            said.append(
                f"{item.sentence}. It could not be moved to {SET_ASIDE} ({error.strerror}): make room there, or let "
                "the user who runs this write to data/"
            )
        else:
            said.append(f"{item.sentence}. It was moved to {SET_ASIDE / place.name}; {place.name}.txt says what to do")
    return said


@dataclass(frozen=True)
class _LastRead:
    id: str | None
    revision: str | None
    files: tuple[dict, ...]


def _intake(root: Path, retrain: Retrain, now: float | None, read: _LastRead) -> Intake:
    known = {file["sha256"]: file["bytes"] for file in read.files}
    return Intake(root, retrain.quiet_seconds, time.time() if now is None else now, known)


def _last_read(root: Path) -> _LastRead:
    """data/raw/dataset.json; nothing where there is none, or a damaged one: DVC restores it."""
    try:
        record = json.loads((root / DATASET).read_bytes())
        files = tuple({"sha256": str(f["sha256"]), "bytes": int(f["bytes"])} for f in record["files"])
        return _LastRead(record["id"], record["revision"], files)
    except (OSError, ValueError, KeyError, TypeError):
        return _LastRead(None, None, ())


def _moved(section: Download, notes: list[str], say: Callable[[str], None]) -> str | None:
    """The dataset's newest commit where it is another than the recipe's."""
    if offline():
        notes.append(f"the hub was not asked for new rows of {section.id}, since HF_HUB_OFFLINE is set")
        return None
    try:
        newest = Repo("dataset", section.id, "main", attempts=1, say=say).commit()
    except CorpusError as error:
        notes.append(f"whether {section.id} has new rows is not known: {error}")
        return None
    return newest if newest != section.revision else None


def _main_files(intake: Intake, root: Path, section: Download) -> tuple[list[tuple[str, Whole]], Waiting | None]:
    """(name, file) of the recipe's own files with the rows that its limit leaves, and the first of them that may still
    be on its way. None for the hub's: their commit stands for them."""
    if section.source == "hub":
        return [], None
    path = root / section.path
    folder = path if path.is_dir() else path.parent
    found, unsettled, left = [], None, section.limit
    for each in data_files(path, section.pattern):
        if left is not None and left <= 0:  # as sources.gather: what lies beyond the limit is not even opened
            break
        shown = each.relative_to(root) if each.is_relative_to(root) else each
        file, waits = intake.read_now(shown)
        if waits and unsettled is None:
            unsettled = Waiting(shown.as_posix(), waits)
        if left is not None:
            file = file._replace(rows=file.rows[:left])
            left -= len(file.rows)
        found.append((each.relative_to(folder).as_posix(), file))
    return found, unsettled


def _incoming_files(intake: Intake, root: Path, notes: list[str]) -> tuple[list[Whole], list[Waiting], list[Broken]]:
    """Those of data/incoming by name, as sources.incoming_files lists them, and what stands in their way."""
    try:
        names = sorted(os.listdir(root / INCOMING))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise CorpusError(
            f"{INCOMING} cannot be read ({error.strerror}); it must be a folder that we may read"
        ) from None
    whole, waiting, broken, unread = [], [], [], []
    for name in names:
        if is_unfinished(Path(name)):
            continue
        if not name.endswith(".jsonl"):
            unread.append(show(name))
            continue
        verdict = intake.judge(INCOMING / name)
        for kind, kept in ((Whole, whole), (Waiting, waiting), (Broken, broken)):
            if isinstance(verdict, kind):
                kept.append(verdict)
    unread = [name for name in unread if not name.lower().startswith("readme")]
    if unread:
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        notes.append(
            f"{INCOMING} takes *.jsonl; not read: {', '.join(unread[:5])}{more} (convert them, or move files out of "
            "folders)"
        )
    return whole, waiting, broken


def _count(name: str, file: Whole, journal: set[str], counted: set[str]) -> dict:
    fresh = set(file.rows) - journal - counted
    counted |= fresh
    rows = len(file.rows)
    return {"name": name, "sha256": file.sha256, "rows": rows, "new_rows": len(fresh), "repeats": rows - len(fresh)}


def _holding(files: Iterable[Whole], fresh: set[str]) -> int:
    """How many files hold rows of `fresh` that none before them does."""
    left, holding = set(fresh), 0
    for file in files:
        holding += not left.isdisjoint(file.rows)
        left.difference_update(file.rows)
    return holding


def _data_version(
    section: Download, follows: str | None, main: list[Whole], old: set[str], incoming: list[Whole], root: Path
) -> str:
    """sha256 over sets, each sorted. A row that the main source has too changes nothing by arriving again."""
    if section.source == "hub":
        source: object = f"{section.id}@{follows or section.revision}"
    else:
        source = sorted({file.sha256 for file in main})
    rows = {digest for file in incoming for digest in file.rows} - old
    what = {"source": source, "rows": sorted(rows), "retracted": sorted(read_retracted(root / RETRACTED))}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode("ascii", "backslashreplace")).hexdigest()


def _verdict(
    section: Download, retrain: Retrain, follows: str | None, read: _LastRead, new_rows: int, holding: int
) -> tuple[bool, str]:
    """`holding`: how many files hold the new rows."""
    reasons = []
    if follows:
        reasons.append(f"{section.id} has a new commit {follows[:12]} (retrain.follow_hub)")
    elif retrain.follow_hub and section.source == "hub" and read.id == section.id and read.revision != section.revision:
        # pinned by a run that went no further, or by hand
        reasons.append(f"commit {section.revision[:12]} of {section.id}, which the recipe names, was not read yet")
    counted = (
        f"{new_rows:,} new {'row' if new_rows == 1 else 'rows'} in {holding} {'file' if holding == 1 else 'files'}"
    )
    if new_rows >= retrain.min_new_rows:
        reasons.append(f"{counted} (retrain.min_new_rows {retrain.min_new_rows})")
    if reasons:
        return True, "; ".join(reasons)
    if new_rows:
        return False, f"{counted}, and a retrain wants {retrain.min_new_rows} (retrain.min_new_rows)"
    return False, "nothing new"


def _unchanged(path: Path, item: Broken) -> bool:
    if path.is_symlink() and not path.exists():
        return True
    about = path.stat()  # FileNotFoundError: somebody took it away
    return (about.st_size, about.st_mtime_ns) == (item.stamp.size, item.stamp.mtime_ns)


def _place(folder: Path, name: str, sentence: str) -> Path:
    """A free name for the file, whose note now lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = Path(name).stem, Path(name).suffix
    number = 1
    while True:
        place = folder / (name if number == 1 else f"{stem}-{number}{suffix}")
        note = place.with_name(f"{place.name}.txt")
        text = _note(sentence, name, place)
        if not os.path.lexists(place):
            try:
                with note.open("x", encoding="utf-8") as file:  # two calls at once get a place each
                    file.write(text)
                return place
            except FileExistsError:
                if note.read_text(encoding="utf-8", errors="replace") == text:  # of a call that was killed here
                    return place
        number += 1


def _note(sentence: str, name: str, place: Path) -> str:
    here = (SET_ASIDE / place.name).as_posix()
    said = sentence.replace((INCOMING / name).as_posix(), here)
    return (
        f"{said}.\n\n{name} was moved from {INCOMING} to {here}, so that it holds no retrain up. Nothing in it was\n"
        "changed. To give its rows back, mend it as the first line says and move it to "
        f"{INCOMING} under a new name.\nIf nobody needs its rows, delete it and this note.\n"
    )


def _move(path: Path, place: Path) -> None:
    try:
        path.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = place.with_name(f".{place.name}.{os.getpid()}.tmp")  # data/incoming is another disk's
        shutil.move(path, beside)
        beside.rename(place)
