"""Data versions over a small real DVC project: recorded by every run, found by their first digits, replayed."""

import json
import shutil
from pathlib import Path

import pytest

from flows import data_version as module
from flows.data_version import (
    JOURNAL,
    POINTER,
    check_incoming,
    find_version,
    read_versions,
    record_version,
    restore_version,
)
from flows.graph import changed_stages
from flows.pipeline import pipeline
from medtune.params.errors import UserError
from tests.flows.small_project import SmallProject


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> SmallProject:
    """A project that was run on two data versions. Tests copy it."""
    project = SmallProject.create(tmp_path_factory.mktemp("two") / "project", ("download", "train", "register"))
    project.set_param("retrain", "quiet_seconds", 0)  # rows that were written just now are whole
    assert pipeline(root=project.root, return_state=True).is_completed()
    (project.root / "source.txt").write_text("머리가 아파요. 열이 나요.")
    assert pipeline(root=project.root, return_state=True).is_completed()
    return project


@pytest.fixture
def project(two: SmallProject, tmp_path: Path) -> SmallProject:
    copy = two.copy(tmp_path / "project")
    copy.ran()
    return copy


def register(project: SmallProject) -> str:
    return json.loads((project.root / "reports/register.json").read_text())["digest"]


def test_every_run_on_other_rows_is_a_line(two):
    first, second = read_versions(two.root)
    assert first.version != second.version
    assert second.download == two.lock()["download"]
    assert len(first.version) == 32
    (two.root / JOURNAL).read_text().encode("ascii")  # a journal for git: one line a version
    assert record_version(two.root).version == second.version  # nothing new, nothing written
    assert len(read_versions(two.root)) == 2


def test_a_version_is_replayed_and_the_next_run_is_of_the_newest_rows_again(project):
    first, second = read_versions(project.root)
    newest = register(project)
    state = pipeline(root=project.root, data_version=first.version[:8], return_state=True)
    assert state.is_completed(), state.message
    assert project.ran() == []  # DVC's run cache knows what comes of those rows, to the last stage
    assert register(project) != newest
    assert project.lock()["download"] == first.download
    project.set_param("train", "learning_rate", 5e-4)  # the rows of then, the recipe of today
    pipeline(root=project.root, data_version=first.version, return_state=True)
    assert project.ran() == ["train", "register"]
    project.set_param("train", "learning_rate", 1e-3)
    assert pipeline(root=project.root, return_state=True).is_completed()
    assert register(project) == newest
    assert project.lock()["download"] == second.download
    assert [item.version for item in read_versions(project.root)] == [first.version, second.version]


def test_it_is_found_by_what_the_retrain_claimed_too(project):
    made = record_version(project.root, "d" * 64)
    assert find_version(project.root, "dddddd") == made
    assert find_version(project.root, f"{made.version}.dir") == made
    assert len(read_versions(project.root)) == 2


def test_what_is_no_version(project):
    with pytest.raises(UserError, match="'latest' is no data version: give at least 6 hex digits"):
        find_version(project.root, "latest")
    first, second = read_versions(project.root)
    with pytest.raises(UserError, match=f"there is no data version ffffffff.*\n  {first.version[:12]}  20.*\n"):
        find_version(project.root, "ffffffff")
    state = pipeline(root=project.root, data_version="ffffffff", return_state=True)
    assert state.is_failed()
    assert "there is no data version" in state.message
    assert project.lock()["download"] == second.download
    with (project.root / JOURNAL).open("a") as file:
        file.write("<<<<<<< HEAD\n")
    with pytest.raises(UserError, match=r"data/versions.jsonl, line 3: '<<<<<<< HEAD' is no data version"):
        read_versions(project.root)


def test_rows_that_dvc_has_nowhere_leave_everything_as_it_is(project):
    first = read_versions(project.root)[0]
    lost = project.root / ".dvc/cache/files/md5" / first.version[:2] / first.version[2:]
    lost.unlink()
    before = (project.root / "dvc.lock").read_bytes()
    with pytest.raises(
        UserError, match=f"{first.version[:12]} can be had neither from DVC's cache nor from its remote"
    ):
        restore_version(project.root, first, print)
    assert (project.root / "dvc.lock").read_bytes() == before
    (project.root / "dvc.lock").unlink()
    with pytest.raises(UserError, match="can be had neither from"):
        restore_version(project.root, first, print)
    assert not (project.root / "dvc.lock").exists()
    (project.root / "dvc.lock").write_bytes(before)
    assert pipeline(root=project.root, return_state=True).is_completed()
    assert project.ran() == []


def test_rows_come_from_the_remote_where_the_cache_has_lost_them(project, tmp_path):
    project.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    first, second = read_versions(project.root)
    restore_version(project.root, first, print)
    project.dvc("push", "download")
    restore_version(project.root, second, print)
    shutil.rmtree(project.root / ".dvc/cache/files/md5" / first.version[:2])
    told = []
    restore_version(project.root, first, told.append)
    assert "asking the remote" in told[0]
    assert project.lock()["download"] == first.download


def test_what_came_in_is_handed_to_dvc(project):
    incoming = project.root / "data/incoming"
    assert incoming.is_dir()  # a clone has none, since git keeps no empty folder: the run made it
    told: list[str] = []
    module.track_incoming(project.root, set(), told.append)
    assert not (project.root / "data/incoming.dvc").exists()  # nothing there: nothing to keep
    (incoming / "new.jsonl").write_text('{"input": "가"}\n')
    pipeline(root=project.root, return_state=True)
    first = (project.root / "data/incoming.dvc").read_text()
    (incoming / "more.jsonl").write_text('{"input": "나"}\n')
    module.track_incoming(project.root, changed_stages(project.root), told.append)
    assert (project.root / "data/incoming.dvc").read_text() != first
    shutil.rmtree(incoming)
    project.dvc("checkout", "data/incoming.dvc")
    assert sorted(path.name for path in incoming.iterdir()) == ["more.jsonl", "new.jsonl"]
    assert told == []


def test_a_run_is_not_on_fewer_rows_than_git_knows_of(project):
    incoming, told = project.root / "data/incoming", []
    for name in ("one", "two"):
        (incoming / f"{name}.jsonl").write_text(f'{{"input": "{name}"}}\n')
    module.track_incoming(project.root, set(), told.append)
    pointer = (project.root / POINTER).read_text()
    (incoming / "one.jsonl").unlink()
    state = pipeline(root=project.root, return_state=True)
    assert state.is_failed()
    assert "data/incoming lacks 1 file(s) that data/incoming.dvc names (one.jsonl): `dvc pull" in state.message
    assert (project.root / POINTER).read_text() == pointer
    project.dvc("add", "--quiet", "data/incoming")  # as the mend says: it was meant
    assert pipeline(root=project.root, return_state=True).is_completed()
    assert [path.name for path in incoming.iterdir()] == ["two.jsonl"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose two files of data/incoming are in DVC's cache and in a remote."""
    root = tmp_path_factory.mktemp("kept") / "clone"
    incoming = root / "data/incoming"
    incoming.mkdir(parents=True)
    project = SmallProject(root)
    project.init()
    for name in ("one", "two"):
        (incoming / f"{name}.jsonl").write_text(f'{{"input": "{name}"}}\n')
    project.dvc("add", "--quiet", "data/incoming")
    project.dvc("remote", "add", "--default", "store", str(root.parent / "store"))
    project.dvc("push", "--quiet")
    return root


@pytest.fixture
def clone(kept: Path, tmp_path: Path) -> Path:
    """As it comes from git: no rows, no cache, no remote configured yet."""
    root = tmp_path / "clone"
    shutil.copytree(kept, root, ignore=shutil.ignore_patterns("incoming", "cache", "tmp"))
    (root / ".dvc/config").rename(tmp_path / "config")
    (root / ".dvc/config").touch()
    (root / "data/incoming").mkdir()
    return root


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "data/incoming").iterdir())


def test_a_clone_says_what_it_lacks_and_gets_it_where_it_can(kept, clone, tmp_path):
    with pytest.raises(UserError, match=r"lacks some of the 2 files that data/incoming.dvc names .*`dvc pull"):
        check_incoming(clone, print)
    (clone / "data/incoming/own.jsonl").write_text('{"input": "own"}\n')  # dropped before anybody thought of pulling
    with pytest.raises(UserError, match="lacks some of the 2 files"):
        check_incoming(clone, print)
    (tmp_path / "config").replace(clone / ".dvc/config")
    told: list[str] = []
    check_incoming(clone, told.append)
    assert names(clone) == ["one.jsonl", "own.jsonl", "two.jsonl"]
    assert (clone / "data/incoming/one.jsonl").read_text() == '{"input": "one"}\n'
    assert "2 file(s) that data/incoming did not have: brought" in told[-1]
    (clone / "data/incoming/one.jsonl").unlink()  # by a person: DVC's cache knows it now
    with pytest.raises(UserError, match=r"lacks 1 file\(s\) that data/incoming.dvc names \(one.jsonl\)"):
        check_incoming(clone, print)
    (clone / "data/set_aside").mkdir()
    (clone / "data/set_aside/one-2.jsonl").touch()  # a second one of its name that could not be read
    check_incoming(clone, print)
    assert names(clone) == ["own.jsonl", "two.jsonl"]


def test_an_empty_folder_is_filled_from_the_cache_and_a_lost_cache_is_no_lost_row(kept, tmp_path, monkeypatch):
    root = tmp_path / "clone"
    shutil.copytree(kept, root)
    shutil.rmtree(root / "data/incoming")
    (root / ".dvc/config").write_text("")
    told: list[str] = []
    check_incoming(root, told.append)
    assert names(root) == ["one.jsonl", "two.jsonl"]
    assert len(told) == 1
    shutil.rmtree(root / ".dvc/cache")
    monkeypatch.setattr(module, "_dvc", lambda *_: pytest.fail("DVC was started"))
    check_incoming(root, told.append)
    (root / POINTER).write_text("<<<<<<< HEAD\n")
    with pytest.raises(UserError, match=r"data/incoming.dvc cannot be read \(an unfinished merge"):
        check_incoming(root, told.append)
    (root / POINTER).unlink()
    check_incoming(root, told.append)
    assert len(told) == 1


def test_rows_of_a_run_that_came_to_a_decision_are_learned_and_a_replay_teaches_none(project):
    learned = project.root / "mlruns/learned.json"
    first = read_versions(project.root)[0]
    assert json.loads(learned.read_text())["seen"] == 0  # these stages keep no journal
    learned.unlink()
    assert pipeline(root=project.root, data_version=first.version, return_state=True).is_completed()
    assert not learned.exists()
