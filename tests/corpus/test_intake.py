"""What comes into data/incoming half-copied, cut, unreadable or misnamed: it waits or is set aside; none is lost."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medtune.corpus import newcomers
from medtune.corpus.intake import STATE
from medtune.corpus.newcomers import SET_ASIDE, look, look_at_incoming, set_aside
from medtune.corpus.readers import read_rows
from medtune.corpus.sources import INCOMING, gather
from medtune.params.errors import CorpusError
from medtune.params.retrain import Retrain
from tests.conftest import ROOT
from tests.corpus.incoming_rows import MINE, PATIENCE, QUIET, line, numbered, put, root, seen

__all__ = ["root"]


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
