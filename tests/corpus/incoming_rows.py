"""A checkout with rows of its own and an empty data/incoming, for the tests of what the watcher finds there."""

import json
import time
from pathlib import Path

import pytest

from medtune.corpus.arrivals import JOURNAL, in_order, read_journal, write_journal
from medtune.corpus.newcomers import Newcomers, look
from medtune.corpus.sources import INCOMING, gather
from medtune.params.download import Download
from medtune.params.retrain import Retrain

QUIET, PATIENCE = 20, 600
MINE = Download(source="file", path="mine", pattern="*.jsonl", license="CC0-1.0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose own three rows have been read."""
    put(tmp_path / "mine/rows.jsonl", "가", "나", "다")
    (tmp_path / INCOMING).mkdir(parents=True)
    read(tmp_path)
    return tmp_path


def line(question: str) -> str:
    return json.dumps({"instruction": question, "input": "", "output": f"{question}에 대한 답"}, ensure_ascii=False)


def put(path: Path, *questions: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line(question)}\n" for question in questions), encoding="utf-8")
    return path


def numbered(start: int, count: int) -> list[str]:
    return [f"{n}일째 머리가 아파요" for n in range(start, start + count)]


def read(root: Path) -> None:
    """What stages.download does with rows and journal."""
    gathered = gather(MINE, root, print)
    journal = read_journal(root / JOURNAL)
    _, new = in_order(gathered.rows, journal)
    write_journal(root / JOURNAL, journal + new)
    (root / "data/raw").mkdir(parents=True, exist_ok=True)
    record = {"id": MINE.path, "revision": None, "files": gathered.files}
    (root / "data/raw/dataset.json").write_text(json.dumps(record))


def seen(root: Path, later: float = QUIET + 5, section: Download = MINE, **changes: object) -> Newcomers:
    """A look `later` seconds after now."""
    retrain = Retrain(**{"quiet_seconds": QUIET, "min_new_rows": 50, **changes})
    return look(root, section, retrain, now=time.time() + later, say=lambda text: None)


def given_up(root: Path) -> Newcomers:
    """Two looks, the second after the patience for a file that may still grow."""
    seen(root)
    return seen(root, PATIENCE + 60)
