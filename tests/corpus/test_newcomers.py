"""What the watcher finds before download reads it: whole files, rows not seen yet, and one digest for what is there."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medtune.corpus import newcomers
from medtune.corpus.arrivals import JOURNAL, arrival_hash, in_order, read_journal, write_journal
from medtune.corpus.frozen import LIST, frozen, frozen_names, thaw
from medtune.corpus.intake import STATE
from medtune.corpus.newcomers import LEARNED, SET_ASIDE, Newcomers, look, look_at_incoming, mark_learned, set_aside
from medtune.corpus.readers import read_rows
from medtune.corpus.retracted import RETRACTED, RetractedRow, add_retracted
from medtune.corpus.sources import INCOMING, gather
from medtune.params.download import Download
from medtune.params.errors import CorpusError
from medtune.params.retrain import Retrain
from tests.conftest import ROOT
from tests.corpus import hub_server
from tests.corpus.hub_server import Hub, Repository, serve

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


def test_sixty_rows_in_one_file_are_enough(root: Path) -> None:
    assert (seen(root).enough, seen(root).why) == (False, "nothing new")
    put(root / INCOMING / "new.jsonl", *numbered(0, 60))
    new = seen(root)
    assert (new.new_rows, new.enough, new.whole) == (60, True, ("new.jsonl",))
    assert new.why == "60 new rows in 1 file (retrain.min_new_rows 50)"
    assert [(f["name"], f["rows"], f["new_rows"]) for f in new.files] == [
        ("rows.jsonl", 3, 0),
        ("incoming/new.jsonl", 60, 60),
    ]
    few = seen(root, min_new_rows=61)
    assert not few.enough
    assert few.why == "60 new rows in 1 file, and a retrain wants 61 (retrain.min_new_rows)"
    read(root)
    assert (seen(root).new_rows, seen(root).enough) == (0, False)
    assert seen(root).data == new.data  # the version that was announced is the one that was read


def test_each_distinct_row_counts_once(root: Path) -> None:
    put(root / INCOMING / "a.jsonl", "라", "라", "가")
    put(root / INCOMING / "b.jsonl", "라", "마")
    new = seen(root)
    assert new.new_rows == 2
    assert [(f["new_rows"], f["repeats"]) for f in new.files] == [(0, 3), (1, 2), (1, 1)]


def test_rows_that_were_seen_and_that_nobody_learned_are_new(root: Path) -> None:
    put(root / INCOMING / "a.jsonl", *numbered(0, 60))
    first = seen(root)
    assert (first.new_rows, first.unlearned) == (60, 60)
    read(root)
    mark_learned(root, first)
    after = seen(root)
    assert (after.new_rows, after.unlearned, after.enough, after.why) == (0, 0, False, "nothing new")
    shutil.copy(root / INCOMING / "a.jsonl", root / INCOMING / "again.jsonl")
    shutil.copy(root / "mine/rows.jsonl", root / INCOMING / "own.jsonl")
    assert (seen(root).unlearned, seen(root).why) == (0, "nothing new")
    put(root / INCOMING / "b.jsonl", *numbered(60, 60))
    put(root / INCOMING / "c.jsonl", *numbered(100, 30))
    read(root)  # by a sweep, or by a run that was interrupted
    swept = seen(root)
    assert (swept.new_rows, swept.unlearned, swept.enough) == (0, 70, True)
    assert swept.why == "70 new rows in 2 files (retrain.min_new_rows 50)"
    few = seen(root, min_new_rows=71)
    assert few.why == "70 new rows in 2 files, and a retrain wants 71 (retrain.min_new_rows)"
    mark_learned(root)  # by a run that is no retrain: what download has seen was learned
    assert (seen(root).unlearned, seen(root).enough) == (0, False)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3, "seen": 1}', '{"rows": []}'])
def test_without_a_record_of_what_was_learned_seen_is_learned(root: Path, text: str) -> None:
    put(root / INCOMING / "a.jsonl", *numbered(0, 60))
    read(root)
    (root / LEARNED).parent.mkdir(exist_ok=True)
    (root / LEARNED).write_text(text)
    assert (seen(root).unlearned, seen(root).enough) == (0, False)


def test_data_is_content_and_nothing_else(root: Path) -> None:
    empty = seen(root).data
    put(root / INCOMING / "a.jsonl", *numbered(0, 30))
    put(root / INCOMING / "b.jsonl", *numbered(30, 30))
    data = seen(root).data
    assert len(data) == 64
    assert data != empty
    os.utime(root / INCOMING / "a.jsonl", (1, 1))
    assert seen(root).data == data
    for name in "ab":
        (root / INCOMING / f"{name}.jsonl").unlink()
    put(root / INCOMING / "other.jsonl", *reversed(numbered(0, 60)))
    assert seen(root, later=10**6).data == data
    put(root / INCOMING / "half.jsonl", "새 행")
    assert seen(root, later=1).data == data  # it may be on its way
    assert seen(root).data != data


@pytest.mark.parametrize("of", ["data/incoming/old.jsonl", "mine/rows.jsonl"])
def test_a_duplicate_of_an_old_file_changes_nothing(root: Path, of: str) -> None:
    put(root / INCOMING / "old.jsonl", "라", "마")
    before = seen(root)
    shutil.copy(root / of, root / INCOMING / "copy.jsonl")
    after = seen(root)
    assert (after.data, after.new_rows) == (before.data, before.new_rows)
    assert after.files[1]["name"] == "incoming/copy.jsonl"


def test_a_retraction_is_another_data_version(root: Path) -> None:
    before = seen(root).data
    rows = [RetractedRow(row_id=c * 64, reason="asked to", by="kim", at="2026-11-22T00:00:00Z") for c in "ab"]
    add_retracted(root / RETRACTED, rows)
    both = seen(root).data
    assert both != before
    (root / RETRACTED).unlink()
    add_retracted(root / RETRACTED, rows[::-1])
    assert seen(root).data == both
    (root / RETRACTED).write_text("<<<<<<< HEAD\n")
    with pytest.raises(CorpusError, match=r"retracted.jsonl, line 1"):
        seen(root)


def test_the_recipes_own_file_is_watched_too(root: Path) -> None:
    before = seen(root).data
    put(root / "mine/rows.jsonl", "가", "나", "다", *numbered(0, 70))
    fresh = seen(root, later=3)
    assert (fresh.new_rows, fresh.enough) == (70, False)
    assert "mine/rows.jsonl was written to" in fresh.why
    assert fresh.waiting == (("mine/rows.jsonl", fresh.why),)
    assert not seen(root, later=4).enough  # having read it once does not make it whole
    new = seen(root)
    assert (new.new_rows, new.enough, new.data != before) == (70, True, True)
    limited = Download(**{**MINE.model_dump(), "limit": 5})
    assert seen(root, section=limited).new_rows == 2
    (root / "mine/rows.jsonl").write_text(line("가")[:-9])
    with pytest.raises(CorpusError, match=r"^mine/rows.jsonl, line 1: the file ends in the middle"):
        seen(root)


def test_a_slow_copy_is_read_when_it_is_whole_and_never_before(root: Path) -> None:
    """A writer of half lines, seen by looks in the middle, with the clock of this machine and a quiet of one second."""
    retrain = Retrain(quiet_seconds=1, min_new_rows=50)
    content = "".join(f"{line(q)}\n" for q in numbered(0, 60)).encode()
    path = root / INCOMING / "slow.jsonl"
    empty = seen(root).data

    def copy() -> None:
        with path.open("wb", buffering=0) as file:
            for part in range(12):
                file.write(content[len(content) * part // 12 : len(content) * (part + 1) // 12])
                time.sleep(0.15)

    writer = threading.Thread(target=copy)
    writer.start()
    looks = []
    while writer.is_alive() or not looks[-1].enough:
        looks.append(look(root, MINE, retrain))
        time.sleep(0.1)
    writer.join()
    assert {(new.new_rows, new.data == empty) for new in looks[:-1]} == {(0, True)}
    assert [new for new in looks if new.waiting and "slow.jsonl was written to" in new.waiting[0].sentence]
    assert not any(new.broken for new in looks)
    assert looks[-1].new_rows == 60


def test_a_copy_that_keeps_its_old_time_is_new_all_the_same(root: Path) -> None:
    path = put(root / INCOMING / "old.jsonl", "라")
    os.utime(path, (1e9, 1e9))  # as cp -p and rsync -t do
    assert [w.path for w in seen(root, later=5).waiting] == ["data/incoming/old.jsonl"]
    assert seen(root).new_rows == 1


def test_a_time_in_the_future_does_not_wait_for_ever(root: Path) -> None:
    path = put(root / INCOMING / "ahead.jsonl", "라")
    os.utime(path, (time.time() + 10**6,) * 2)
    first = seen(root)
    assert "has a time that lies 999,9" in first.waiting[0].sentence
    assert "two looks 20 s apart" in first.waiting[0].sentence
    assert seen(root, later=QUIET + 15).waiting  # ten seconds later
    put(path, "라", "마")
    os.utime(path, (time.time() + 10**6,) * 2)
    assert seen(root, later=2 * QUIET + 15).waiting  # it changed
    assert seen(root, later=-500).waiting  # the clock went back: counted anew from here
    assert seen(root, later=-470).new_rows == 2


def test_a_file_that_changes_while_it_is_read_waits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(root / INCOMING / "x.jsonl", "라", "마")

    def rows_and_more(*arguments: object) -> Iterator[tuple[int, dict]]:
        yield from read_rows(*arguments)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line('바')}\n")

    with monkeypatch.context() as patch:
        patch.setattr("medtune.corpus.intake.read_rows", rows_and_more)
        new = seen(root)
    assert new.new_rows == 0
    assert "x.jsonl changed while it was read" in new.waiting[0].sentence
    assert seen(root).new_rows == 3


def test_a_last_line_without_its_end_is_read_when_it_is_json(root: Path) -> None:
    (root / INCOMING / "new.jsonl").write_text(f"{line('라')}\n{line('마')}", encoding="utf-8")
    assert seen(root).new_rows == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            line("라").encode() + b"\n" + line("마").encode()[:-8],
            r"x.jsonl, line 2: the file ends in the middle of this",
        ),
        (
            line("라").encode() + b"\n" + '{"a": "가'.encode()[:-1],
            r"x.jsonl, line 2: the file ends in the middle of this",
        ),
        (b"", r"x.jsonl: the file is empty \(0 bytes\)"),
        (b"\n" * 600, r"x.jsonl: the file is empty"),
    ],
    ids=["cut", "cut in a letter", "empty", "blank"],
)
def test_a_file_that_may_still_grow_waits_long_and_is_then_broken(root: Path, content: bytes, said: str) -> None:
    (root / INCOMING / "x.jsonl").write_bytes(content)
    put(root / INCOMING / "good.jsonl", "라")
    new = seen(root)
    assert (new.broken, new.new_rows) == ((), 1)
    (waiting,) = new.waiting
    assert re.search(said, waiting.sentence)
    assert "it is set aside if it stays so for 10 minutes" in waiting.sentence
    assert not seen(root, PATIENCE - 30).broken
    (broken,) = seen(root, PATIENCE + 60).broken
    assert broken.path == "data/incoming/x.jsonl"
    put(root / INCOMING / "x.jsonl", "마")  # it came to its end after all
    assert seen(root, PATIENCE + 60).new_rows == 2


def test_an_hour_old_cut_file_is_not_given_up_at_first_sight(root: Path) -> None:
    """A file server whose clock lags makes a file that is being written look old."""
    (root / INCOMING / "x.jsonl").write_text(line("라")[:-8])
    assert not seen(root, 3600).broken
    assert seen(root, 3600 + QUIET).broken


UNREADABLE = {
    "not JSON": (f"{line('라')}\nnot json\n{line('마')}\n".encode(), "x.jsonl, line 2: not JSON"),
    "a list": (b"[1]\n", "x.jsonl, line 1: a row must be an object"),
    "CP949": (
        line("머리가 아파요").encode("cp949") + b"\n",
        "line 1: byte 17 is not UTF-8 but reads as Korean in CP949",
    ),
    "CP949 without an end": (f"{line('머리')}\n{line('가')}".encode("cp949"), "line 1: byte 17 is not UTF-8 but reads"),
    "UTF-16": (line("머리가 아파요").encode("utf-16"), "the file is UTF-16; convert it: iconv"),
    "a web page": (b"<!DOCTYPE html>", "this is a web page (HTML), not data"),
    "zero bytes": (line("라").encode() + b"\n" + bytes(50), "zero bytes from byte"),
    "compressed": (b"\x1f\x8b" + bytes(40), "the file is compressed"),
    "nested": (b'{"a":' + b"[" * 99999 + b"]" * 99999 + b"}\n", "a row is nested too deeply"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_files_are_broken_as_soon_as_they_are_quiet(root: Path, kind: str) -> None:
    content, said = UNREADABLE[kind]
    (root / INCOMING / "x.jsonl").write_bytes(content)
    put(root / INCOMING / "good.jsonl", "라")
    assert not seen(root, later=5).broken
    for _ in range(2):  # the second time out of the state file
        (broken,) = seen(root).broken
        assert said in broken.sentence
        assert str(root) not in broken.sentence
    assert seen(root).new_rows == 1
    with pytest.raises((CorpusError, RecursionError)):
        gather(MINE, root, print)  # so that it had to be found here
    (told,) = set_aside(root, seen(root).broken)
    assert "It was moved to data/set_aside/x.jsonl; x.jsonl.txt says what to do" in told
    assert (root / SET_ASIDE / "x.jsonl").read_bytes() == content
    assert len(gather(MINE, root, print).rows) == 4
    assert not seen(root).broken


def test_incoming_can_be_looked_at_without_the_rest(root: Path) -> None:
    """As the pipeline does that a person starts: no hub, no main source."""
    put(root / INCOMING / "good.jsonl", "라")
    (root / INCOMING / "bad.jsonl").write_bytes(b"not json\n")
    (root / INCOMING / "cut.jsonl").write_text(line("마")[:-8])
    retrain = Retrain(quiet_seconds=QUIET)
    assert look_at_incoming(root, retrain)[0] == ()
    whole, waiting, broken = look_at_incoming(root, retrain, now=time.time() + QUIET + 5)
    assert whole == ("good.jsonl",)
    assert [item.path for item in (*waiting, *broken)] == ["data/incoming/cut.jsonl", "data/incoming/bad.jsonl"]
    full = seen(root)
    assert (full.whole, full.broken) == (whole, broken)
    state = (root / STATE).read_bytes()
    look_at_incoming(root, retrain, now=time.time() + QUIET + 5)
    assert (root / STATE).read_bytes() == state  # what is kept of the main source stays


def test_what_is_no_file_is_set_aside_with_all_it_holds(root: Path) -> None:
    put(root / INCOMING / "folder.jsonl/inner.jsonl", "라")
    (root / INCOMING / "link.jsonl").symlink_to("nowhere.jsonl")
    os.mkfifo(root / INCOMING / "pipe.jsonl")
    broken = seen(root).broken
    assert [item.path.rpartition("/")[2] for item in broken] == ["folder.jsonl", "link.jsonl", "pipe.jsonl"]
    assert "is no file" in broken[0].sentence
    assert "link to nothing" in broken[1].sentence
    assert len(set_aside(root, broken)) == 3
    assert (root / SET_ASIDE / "folder.jsonl/inner.jsonl").read_text(encoding="utf-8") == f"{line('라')}\n"
    assert os.listdir(root / INCOMING) == []


def test_a_name_that_no_record_could_hold_is_broken(root: Path) -> None:
    """As archives made under Korean Windows leave it: download could write no dataset.json with it."""
    name = os.fsdecode("환자.jsonl".encode("cp949"))
    put(root / INCOMING / name, "라")
    put(root / INCOMING / "two\nlines.jsonl", "라")
    found = seen(root)
    assert found.new_rows == 0
    assert all("has a name that is not UTF-8, or a line end in it" in item.sentence for item in found.broken)
    for told in set_aside(root, found.broken):
        told.encode()
    assert len(list((root / SET_ASIDE).glob("*.jsonl"))) == 2
    assert not seen(root).broken


def test_a_file_without_permission_is_broken(root: Path) -> None:
    path = put(root / INCOMING / "x.jsonl", "라")
    path.chmod(0)
    if os.geteuid():
        (broken,) = seen(root).broken
        assert "permission denied; chmod u+r" in broken.sentence
        return
    # root may read everything: a child gives its rights up and looks
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from medtune.corpus.intake import Intake, Stamp\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); os.chdir(sys.argv[1])\n"
        "print(Intake(Path(), 20, time.time() + 30).judge(Path('data/incoming/x.jsonl')).sentence)"
    )
    for folder in (root, *root.parents):  # pytest's folders are closed to others
        if folder.owner() == "root" and folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, root], env=env, cwd=ROOT, capture_output=True, text=True)
    assert "data/incoming/x.jsonl cannot be read: permission denied; chmod u+r it" in done.stdout, done.stderr


def test_names_of_files_being_written_are_not_looked_at_and_others_are_told(root: Path) -> None:
    for name in (".x.jsonl", "x.jsonl.part", "y.jsonl.tmp", ".gitkeep", "README.md", "rows.csv", "UPPER.JSONL"):
        (root / INCOMING / name).write_text("half")
    put(root / INCOMING / "2026" / "rows.jsonl", "라")
    new = seen(root)
    assert (new.files[1:], new.waiting, new.broken) == ((), (), ())
    assert len(new.notes) == 1
    assert "data/incoming takes *.jsonl; not read: 2026, UPPER.JSONL, rows.csv" in new.notes[0]


def test_a_poisoned_row_is_validates_concern(root: Path) -> None:
    (root / INCOMING / "x.jsonl").write_text('{"instruction": null, "output": 7}\n{"무엇": "없음"}\n', encoding="utf-8")
    assert (seen(root).new_rows, seen(root).broken) == (2, ())


def test_set_aside_writes_over_nothing(root: Path) -> None:
    contents = [b"not json\n", b"nor this\n", b"not json\n"]
    for content in contents:
        (root / INCOMING / "x.jsonl").write_bytes(content)
        assert len(set_aside(root, seen(root).broken)) == 1
    names = ["x.jsonl", "x-2.jsonl", "x-3.jsonl"]
    assert [(root / SET_ASIDE / name).read_bytes() for name in names] == contents
    for name in names:
        note = (root / SET_ASIDE / f"{name}.txt").read_text(encoding="utf-8")
        assert f"data/set_aside/{name}, line 1: not JSON" in note
        assert "move it to data/incoming under a new name" in note


def test_a_note_tells_a_command_that_mends(root: Path) -> None:
    (root / INCOMING / "x.jsonl").write_bytes(line("머리가 아파요").encode("cp949") + b"\n")
    set_aside(root, seen(root).broken)
    note = (root / SET_ASIDE / "x.jsonl.txt").read_text(encoding="utf-8")
    command = note[note.index("iconv") : note.index(" and keep only")]
    subprocess.run(command, shell=True, cwd=root, check=True)
    assert seen(root).new_rows == 1


def test_a_kill_between_note_and_move_keeps_the_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / INCOMING / "x.jsonl").write_bytes(b"not json\n")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(newcomers, "_move", die)
        with pytest.raises(KeyboardInterrupt):
            set_aside(root, seen(root).broken)
    assert (root / INCOMING / "x.jsonl").exists()
    assert len(set_aside(root, seen(root).broken)) == 1
    assert sorted(os.listdir(root / SET_ASIDE)) == ["x.jsonl", "x.jsonl.txt"]


def test_a_file_that_was_mended_meanwhile_stays(root: Path) -> None:
    (root / INCOMING / "x.jsonl").write_bytes(b"not json\n")
    broken = seen(root).broken
    put(root / INCOMING / "x.jsonl", "라")
    assert "has changed since" in set_aside(root, broken)[0]
    (root / INCOMING / "x.jsonl").unlink()
    assert set_aside(root, broken) == []
    assert not (root / SET_ASIDE).exists()


def test_a_known_file_is_not_read_again_and_a_lost_state_costs_only_that(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / INCOMING / "a.jsonl", *numbered(100, 60))
    first = seen(root)
    for broken_state in (None, "", "[]", '{"files": {"x": 1}, "rows": {}}', '{"files": {}, "rows": {"a": 7}}'):
        if broken_state is None:
            (root / STATE).unlink()
        else:
            (root / STATE).write_text(broken_state)
        assert seen(root) == first
    with monkeypatch.context() as patch:
        patch.setattr("medtune.corpus.intake.read_rows", lambda *_: pytest.fail("it was read again"))
        assert seen(root) == first
    path = root / INCOMING / "a.jsonl"
    before = path.stat()
    put(path, *numbered(200, 60))  # as long, and its time put back: only ctime tells
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert seen(root).data != first.data


def test_what_was_read_whole_need_not_wait_when_only_its_times_change(root: Path) -> None:
    """DVC links the files it adds, and a clone's checkout writes them anew: the data version must not flicker."""
    put(root / INCOMING / "a.jsonl", *numbered(0, 60))
    new = seen(root)
    for lose_state in (False, True):
        if lose_state:
            read(root)
            (root / STATE).unlink()
        shutil.copy(root / INCOMING / "a.jsonl", root / INCOMING / "b.jsonl")
        (root / INCOMING / "b.jsonl").replace(root / INCOMING / "a.jsonl")
        assert seen(root, later=2).data == new.data


def test_a_full_disk_costs_only_the_state(root: Path) -> None:
    put(root / INCOMING / "a.jsonl", "라")
    (root / "mlruns").mkdir(exist_ok=True)
    (root / STATE).unlink(missing_ok=True)
    (root / STATE).mkdir()  # nothing can be written there
    assert seen(root).new_rows == 1


def test_two_looks_at_once_do_not_disturb_each_other(root: Path) -> None:
    put(root / INCOMING / "a.jsonl", *numbered(0, 300))
    code = (
        "import sys, time; from pathlib import Path\n"
        "from medtune.corpus.intake import Intake\n"
        "for n in range(60):\n"
        "    i = Intake(Path(sys.argv[1]), 0, time.time() + 30 + n)\n"
        "    i._before = {}\n"
        "    assert len(i.judge(Path('data/incoming/a.jsonl')).rows) == 300\n"
        "    i.save()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([sys.executable, "-c", code, root], env=env, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(child.communicate()[1], child.returncode) for child in both] == [(b"", 0)] * 2
    assert [path.name for path in (root / "mlruns").iterdir()] == [STATE.name]


def test_watcher_and_download_agree_on_rows(root: Path) -> None:
    (root / INCOMING / "flaws.jsonl").write_bytes(
        b"\xef\xbb\xbf" + line("라").encode() + b"\r\n\r\n" + line("마").encode() + b"\r\n"
    )
    new = seen(root)
    rows = {arrival_hash(row) for _, row in gather(MINE, root, print).rows}
    assert new.new_rows == len(rows - set(read_journal(root / JOURNAL))) == 2
    assert [f["sha256"] for f in new.files] == [f["sha256"] for f in gather(MINE, root, print).files]


# The hub

ID, OLD, NEW = "clinic/dialogues", "0" * 40, "1" * 40
HUB = Download(source="hub", path="data/README.md", id=ID, revision=OLD)


class WithMain(hub_server.Handler):
    """The stand-in, with the branch main beside its commit."""

    def answer(self) -> None:
        for repository in self.hub.repositories.values():
            self.path = self.path.replace("/revision/main", f"/revision/{repository.commit}")
        super().answer()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(hub_server, "Handler", WithMain)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("datasets", ID, Repository(OLD, {"rows.jsonl": b"{}\n"}))
        yield hub


def test_a_new_commit_is_enough_and_is_part_of_the_data(hub: Hub, tmp_path: Path) -> None:
    before = seen(tmp_path, section=HUB)
    assert (before.revision, before.enough, before.why) == (None, False, "nothing new")
    hub.repositories["datasets", ID].commit = NEW
    moved = seen(tmp_path, section=HUB)
    assert (moved.revision, moved.enough) == (NEW, True)
    assert moved.why == f"{ID} has a new commit {NEW[:12]} (retrain.follow_hub)"
    assert moved.data != before.data
    pinned = seen(tmp_path, section=HUB.model_copy(update={"revision": NEW}))
    assert (pinned.data, pinned.revision) == (moved.data, None)  # before and after params.yaml is pinned anew
    told = seen(tmp_path, section=HUB, follow_hub=False)
    assert (told.revision, told.enough, told.data) == (NEW, False, before.data)
    assert f"has moved to commit {NEW}" in told.notes[0]


def test_a_pinned_commit_that_was_never_read_is_due(hub: Hub, tmp_path: Path) -> None:
    """A run that died after it pinned the recipe anew must not lose the commit."""
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/dataset.json").write_text(json.dumps({"id": ID, "revision": NEW, "files": []}))
    due = seen(tmp_path, section=HUB)
    assert due.enough
    assert "which the recipe names, was not read yet" in due.why


@pytest.mark.parametrize("trouble", ["gone", "refused", "page", "offline"])
def test_a_hub_that_does_not_answer_is_a_note(
    hub: Hub, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / INCOMING / "new.jsonl", *numbered(0, 60))
    before = seen(tmp_path, section=HUB)
    if trouble == "gone":
        hub.repositories.clear()
    elif trouble == "refused":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    elif trouble == "page":
        hub.html_everywhere = True
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    new = seen(tmp_path, section=HUB)
    assert (new.data, new.new_rows, new.enough, new.revision) == (before.data, 60, True, None)
    (note,) = new.notes
    assert ID in note
    assert "http" not in note


# What DVC and download see while a flow runs


def test_a_frozen_intake_hides_from_dvc_what_is_not_whole(root: Path) -> None:
    """`dvc add` of a half-copied file would link it into the cache, where its writer goes on writing."""
    names = ["a.jsonl", "b c [1]*.jsonl", "환자?.jsonl", "!x#.jsonl"]
    for name in names:
        put(root / INCOMING / name, name)
    (root / ".dvcignore").write_text("/data/incoming/*\n!/data/incoming/*.jsonl\n")
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}

    def dvc(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("init", "--no-scm", "-q")
    new = seen(root)
    assert sorted(new.whole) == sorted(names)
    (root / INCOMING / "half.jsonl").write_text(line("라")[:-8])
    put(root / INCOMING / "b c 1x.jsonl", "a name that the pattern of another must not match")
    with frozen(root, new.whole):
        assert frozen_names(root) == frozenset(names)
        dvc("add", "-q", "data/incoming")
        assert dvc("status", "--json").strip() == "{}"
    (listing,) = (root / ".dvc/cache").rglob("*.dir")
    assert {item["relpath"] for item in json.loads(listing.read_text())} == set(names)
    assert (root / INCOMING / "half.jsonl").stat().st_nlink == 1
    assert "data/incoming.dvc" in dvc("status", "--json")  # and afterwards it is seen that more has come
    assert frozen_names(root) is None


def test_the_list_of_a_killed_flow_is_taken_away(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt), frozen(root, ["a.jsonl"]):
        raise KeyboardInterrupt
    assert not thaw(root)
    (root / LIST).write_text("/mine\n")
    with pytest.raises(CorpusError, match=r"data/.dvcignore was not written by a flow"):
        frozen_names(root)
    for own in ("/mine\n", '/mine\n# ["a.jsonl"]\n'):
        (root / LIST).write_text(own)
        with pytest.raises(CorpusError, match=r"was not written by a flow; move what it says"), frozen(root, []):
            pass
        assert (root / LIST).read_text() == own  # somebody's own patterns are not written over
    assert thaw(root)
