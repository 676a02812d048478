"""Corrected answers become rows to learn from, each with where it came from.

    entries = read_entries(Path("corrected.csv"))
    sorted_out = sort_out(entries, held_out(Path(".")), known(Path(".")), recipe.validate_, recipe.download)
    write_rows(Path("."), sorted_out.rows)

A row is made of what somebody wrote to be learned from: a correction, and only where it is asked for an answer that
somebody called good. "Better than the other one" is no such word. What a model is judged by stays out: a question of
the test or validation split or of a suite, the same or nearly the same, would make the next figures a lie.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.corpus.clusters import shingles
from medtune.corpus.dialogue import to_messages
from medtune.corpus.quality import Dialogue, examine
from medtune.corpus.records import read_records, write_records
from medtune.corpus.retracted import RETRACTED, read_retracted
from medtune.corpus.rows import fold, row_id
from medtune.corpus.sources import INCOMING, incoming_files
from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    from medtune.params.download import Download
    from medtune.params.validate import Validate

VALID, SUITES = Path("data/valid/rows.jsonl"), Path("data/suites")
HELD_OUT = ("test", "validation")
NAMES = {
    "question": ("question", "instruction", "prompt", "질문"),
    "answer": ("answer", "output", "response", "답변"),
    "corrected": ("corrected", "correction", "수정", "교정", "수정답변"),
    "good": ("good", "approved", "적합"),
    "by": ("by", "reviewer", "검토자"),
    "at": ("at", "date", "날짜"),
    "model": ("model", "모델"),
    "version": ("version", "버전"),
}
# A question alone is short: one changed digit in 40 letters leaves 0.74 of validate's index, which is meant for whole
# dialogues. A row too many refused costs a row, one too few costs the test
CLOSE = 0.6
YES = ("1", "true", "yes", "y", "o", "예", "네")
ENCODINGS = ("utf-8-sig", "cp949")  # what Korean Excel writes: with a byte order mark, or the old Windows way


@dataclass(frozen=True)
class Entry:
    """One reviewed answer. place: file and line; kind: corrected | approved | preferred, None where there is nothing
    to learn from it; text: the answer to learn."""

    place: str
    question: str
    text: str
    kind: str | None
    by: str
    at: str
    model: str
    version: str


@dataclass
class SortedOut:
    """rows: as data/incoming takes them; refused: a sentence each; passed: reason -> how many were passed over."""

    rows: list[dict] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


class HeldOut:
    """Questions by which models are judged; tells which of them another question is, or nearly is."""

    def __init__(self, questions: Iterable[tuple[str, str]], threshold: float):
        """questions: (where it stands, text). threshold: Jaccard index of character 5-grams, as validate's."""
        self.threshold = min(threshold, CLOSE)
        self.where: list[str] = []
        self.sizes: list[int] = []
        self.exact: dict[str, int] = {}
        self.by_gram: dict[str, list[int]] = {}
        for number, (where, text) in enumerate(questions):
            self.where.append(where)
            self.exact.setdefault(bare(text), number)
            grams = shingles(fold(text))
            self.sizes.append(len(grams))
            for gram in grams:
                self.by_gram.setdefault(gram, []).append(number)

    def like(self, text: str) -> str | None:
        """Where a question stands that is the same, punctuation and spaces aside, or nearly; None for none."""
        if (number := self.exact.get(bare(text))) is not None:
            return self.where[number]
        grams = shingles(fold(text))
        shared = Counter(number for gram in grams for number in self.by_gram.get(gram, ()))
        best = max(((n / (len(grams) + self.sizes[number] - n), number) for number, n in shared.items()), default=None)
        return self.where[best[1]] if best and best[0] >= self.threshold else None


def bare(text: str) -> str:
    """Letters and digits alone, NFKC, lower case."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", text).lower() if sign.isalnum())


def held_out(root: Path, threshold: float) -> HeldOut:
    """Questions of the test and validation splits and of every suite. CorpusError where the splits are unknown."""
    if not (root / VALID).is_file():
        raise CorpusError(
            f"{VALID} is missing, so that nobody can tell which questions are held out for tests; run `make run` (or "
            "`dvc pull`) first"
        )
    found = []
    for record in read_records(root / VALID):
        if record["split"] in HELD_OUT:
            asked = Dialogue(record["messages"]).question
            if asked:
                found.append((f"the {record['split']} split (row {record['row_id'][:12]})", asked))
    for path in sorted((root / SUITES).glob("*.jsonl")):
        for number, record in enumerate(read_records(path), 1):
            if isinstance(record.get("prompt"), str):
                found.append((f"the suite {path.stem} ({record.get('id', f'line {number}')})", record["prompt"]))
    return HeldOut(found, threshold)


def known(root: Path, section: Download) -> dict[str, str]:
    """row id -> where it is: in the corpus, in data/incoming, or retracted."""
    found = {row["row_id"]: "in the corpus already" for row in read_records(root / VALID)}
    for path in incoming_files(root):
        try:
            rows = list(read_records(path))
        except CorpusError:  # half-copied or broken: whoever reads it next says so
            continue
        for row in rows:
            try:
                messages = to_messages(row, section.format, section.columns, None)
            except CorpusError:  # validate sets it aside
                continue
            found.setdefault(row_id(messages), "in data/incoming already")
    return found | dict.fromkeys(read_retracted(root / RETRACTED), "retracted")


def read_entries(path: Path, approved: bool = False, by: str | None = None, **default: str | None) -> list[Entry]:
    """Reviewed answers of a JSONL or CSV file, UTF-8 or CP949. CorpusError names file, line, column and mend.

    approved: answers marked good, without a correction, count too. by, model, version: where a row tells none.
    """
    rows = _csv(path) if path.suffix.lower() in (".csv", ".tsv") else _jsonl(path)
    columns = {name: next((habit for habit in habits if any(habit in row for _, row in rows)), None)
               for name, habits in NAMES.items()}  # fmt: skip
    found = ", ".join(dict.fromkeys(key for _, row in rows for key in row)) or "none"
    if columns["question"] is None or (columns["corrected"] is None and not (approved and columns["good"])):
        needed = "question and corrected" + (" (or answer and good)" if approved else "")
        raise CorpusError(f"{path}: it needs the columns {needed}; it has {found}")
    entries = []
    for line, row in rows:
        told = {name: _text(row.get(column)) if column else "" for name, column in columns.items()}
        told = {name: told[name] or (default | {"by": by}).get(name) or "" for name in told}
        answer, corrected = told["answer"], told["corrected"]
        kind, text = None, corrected
        if corrected and fold(corrected) != fold(answer):
            kind = "corrected"
        elif approved and told["good"].lower() in YES and (corrected or answer):
            kind, text = "approved", corrected or answer
        entries.append(
            Entry(
                f"{path.name}:{line}",
                told["question"],
                text,
                kind,
                *(told[n] for n in ("by", "at", "model", "version")),
            )
        )
    return entries


def sort_out(
    entries: list[Entry],
    judged_by: HeldOut,
    there: Mapping[str, str],
    limits: Validate,
    section: Download,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> SortedOut:
    """Which entries become rows. A refusal names the place and the reason, and never quotes the text."""
    if section.format == "text":
        raise CorpusError("the recipe learns from plain text (download.format: text): there are no questions to answer")
    told = SortedOut()
    answers: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.kind is not None:
            answers.setdefault(bare(entry.question), []).append(entry)
    seen: set[str] = set()
    for entry in entries:
        if entry.kind is None:
            told.passed["without a correction"] += 1
            continue
        messages = [
            {"role": "user", "content": entry.question.strip()},
            {"role": "assistant", "content": entry.text.strip()},
        ]
        identity = row_id(messages)
        if identity in seen:
            told.passed["twice in the file"] += 1
            continue
        seen.add(identity)
        if there.get(identity, "retracted") != "retracted":
            told.passed[there[identity]] += 1
            continue
        others = [other for other in answers[bare(entry.question)] if fold(other.text) != fold(entry.text)]
        if problem := _refusal(entry, messages, others, judged_by, identity in there, limits):
            told.refused.append(f"{entry.place}: {problem}")
            continue
        row = _shaped(entry, messages, section)
        row["origin"] = {
            "source": "feedback",
            "kind": entry.kind,
            "model": entry.model or None,
            "version": entry.version or None,
            "by": entry.by,
            "at": entry.at or now().isoformat(timespec="seconds"),
            "file": entry.place,
        }
        told.rows.append(row)
    return told


def write_rows(root: Path, rows: list[dict], now: datetime | None = None) -> Path | None:
    """data/incoming/feedback-<UTC date>-<8 hex of the rows>.jsonl, whole or not at all; None where there are none."""
    if not rows:
        return None
    told = [{key: value for key, value in row.items() if key != "origin"} for row in rows]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    date = (now or datetime.now(UTC)).strftime("%Y-%m-%d")
    path = root / INCOMING / f"feedback-{date}-{digest}.jsonl"
    write_records(path, rows)
    return path


def _refusal(
    entry: Entry, messages: list[dict], others: list[Entry], judged_by: HeldOut, retracted: bool, limits: Validate
) -> str | None:
    if not entry.question.strip():
        return "the question is empty; fill it in"
    if not entry.by:
        return "nobody answers for it; fill in the column by, or give --by"
    if retracted:
        return "this very row was retracted (`medtune retract --list` says why)"
    if where := judged_by.like(entry.question):
        return f"its question is, or nearly is, one of {where}: models are judged by it, so that none may learn it"
    if others:
        return f"the same question has another answer in {others[0].place}; agree on one and delete the other"
    problems = examine(Dialogue(messages), limits)
    return "; ".join(problems.values()) or None


def _shaped(entry: Entry, messages: list[dict], section: Download) -> dict[str, Any]:
    """In the columns that the recipe reads, so that the row comes out as it went in."""
    columns = section.columns
    if section.format in ("sharegpt", "messages") or columns.messages:
        row: dict[str, Any] = {columns.messages or "messages": messages}
    else:
        asks = columns.instruction or columns.input or "instruction"
        row = {asks: messages[0]["content"], columns.output or "output": messages[1]["content"]}
    if to_messages(row, section.format, columns, None) != messages:
        raise CorpusError(f"{entry.place}: the recipe's download section would read this row as another; check columns")
    return row


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise CorpusError(
            f"{path} is not there; give a CSV or JSONL file with question, answer, corrected, by"
        ) from None
    for encoding in ENCODINGS:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise CorpusError(f"{path} is neither UTF-8 nor CP949; save it as 'CSV UTF-8' in Excel")


def _jsonl(path: Path) -> list[tuple[int, dict]]:
    rows = []
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{path}, line {number}: not JSON ({error}); mend or delete the line") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{path}, line {number}: not an object; write one {{…}} a line")
        rows.append((number, row))
    return rows or _nothing(path)


def _csv(path: Path) -> list[tuple[int, dict]]:
    text = _decoded(path)
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",\t;", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, start, header = [], 1, None
    try:
        for cells in reader:
            first, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header):
                raise CorpusError(f"{path}, line {first}: {len(cells)} fields, and the header has {len(header)}")
            else:
                rows.append((first, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise CorpusError(f"{path}, line {start}: {error}; a double quote from there on is not closed") from None
    return rows or _nothing(path)


def _nothing(path: Path) -> list[tuple[int, dict]]:
    raise CorpusError(f"{path} holds no row; give a CSV or JSONL file with question, answer, corrected, by")


def _text(value: object) -> str:
    return str(value).strip() if isinstance(value, str | int | float | bool) else ""
