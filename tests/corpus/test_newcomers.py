"""What the watcher finds before download reads it: whole files, rows not seen yet, and one digest for what is there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medtune.corpus.arrivals import JOURNAL, arrival_hash, read_journal
from medtune.corpus.frozen import LIST, frozen, frozen_names, thaw
from medtune.corpus.intake import STATE
from medtune.corpus.newcomers import LEARNED, mark_learned
from medtune.corpus.retracted import RETRACTED, RetractedRow, add_retracted
from medtune.corpus.sources import INCOMING, gather
from medtune.params.download import Download
from medtune.params.errors import CorpusError
from tests.conftest import ROOT
from tests.corpus import hub_server
from tests.corpus.hub_server import Hub, Repository, serve
from tests.corpus.incoming_rows import MINE, line, numbered, put, read, root, seen

__all__ = ["root"]


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
