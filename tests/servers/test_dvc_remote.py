"""DVC's remote on an S3 store: push, a fresh clone, pull, and nothing is left to run. Needs no PostgreSQL.

The project is this repository with its own dvc.yaml; what its stages make is written by hand and committed to DVC: that
takes seconds where a run takes minutes.
"""

import http.server
import json
import os
import subprocess
import sys
import threading
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo
from e2e.project import ROOT, Project, copy_checkout
from registry_checkout import Checkout

from flows.data_version import find_version, read_versions, record_version, restore_version
from flows.graph import changed_stages
from flows.remote import RemoteTrouble, default_remote, push
from medtune.params.errors import UserError

BUCKET = "dvc-remote"
OUTS = ("data/raw", "data/valid", "data/tokens", "data/adapter", "data/merged", "data/incoming", "reports/evaluate")


class Team:
    """The first clone, finished, with two data versions in the remote."""

    def __init__(self, root: Path, base: Path, adapter: Path, endpoint: str):
        self.endpoint = endpoint
        self.made: Project = copy_checkout(root, base)
        self.root = root
        Checkout(root, adapter, base).candidate("one")
        for name in ("data/tokens/train.arrow", "reports/data_docs/index.html", "reports/card/card.html"):
            _write(root / name, name)
        for name in ("lengths.csv", "lengths.png", "loss/train.csv", "loss/validation.csv", "card/card.json"):
            _write(root / "reports" / name, name)
        _write(root / "reports/metrics.json", json.dumps({"nll_per_char": 1.5}))
        _write(root / "reports/register.json", json.dumps({"decision": "approved", "reasons": []}))
        _write(root / "data/raw/rows.jsonl", "the first rows\n")
        _write(root / "data/incoming/first.jsonl", '{"question": "머리가 아파요.", "answer": "쉬세요."}\n')
        self.dvc("remote", "add", "--quiet", "--default", "store", f"s3://{BUCKET}/team")
        self.commit("one run")
        (root / "data/raw/rows.jsonl").unlink()  # a link into the cache: never in place
        _write(root / "data/raw/rows.jsonl", "the first rows\nand one more\n")
        self.commit("another")

    def dvc(self, *arguments: str, root: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=root or self.root,
            env=self.made.env | {name: os.environ[name] for name in os.environ if name.startswith("AWS_")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def commit(self, message: str) -> None:
        """As a run ends: DVC has the bytes, git the names, the remote both."""
        with chdir(self.root), Repo() as repo:
            repo.add("data/incoming")
            repo.commit(force=True)
        record_version(self.root)
        self.made.run("git", "add", "-A")
        self.made.run("git", "commit", "-qm", message)
        self.said = push(self.root)

    def clone(self, to: Path) -> Path:
        self.made.run("git", "clone", "-q", str(self.root), str(to))
        return to


@pytest.fixture(scope="module")
def team(tiny_base: Path, tiny_adapter: Path, store, tmp_path_factory: pytest.TempPathFactory):
    store.client().create_bucket(Bucket=BUCKET)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL_S3", store.endpoint)
        yield Team(tmp_path_factory.mktemp("team") / "first", tiny_base, tiny_adapter, store.endpoint)


@pytest.fixture
def keys(team: Team, store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A client's environment, to take things from. No file of this machine's user has a say."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # else an address where nobody is takes 20 s to be told
    return monkeypatch


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for out in OUTS for p in (root / out).rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def pulled(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone after `dvc pull`."""
    clone = team.clone(tmp_path_factory.mktemp("second") / "clone")
    assert _files(clone) == {}
    team.dvc("pull", "--quiet", root=clone)
    return clone


def test_push_clone_pull_and_nothing_is_left_to_run(team: Team, pulled: Path) -> None:
    assert _files(pulled) == _files(team.root)
    assert {out for out in OUTS if not (pulled / out).is_dir()} == set()
    assert not (pulled / "mlruns").exists()  # the registry is not DVC's
    assert changed_stages(pulled) == set()
    assert "Data and pipelines are up to date." in team.dvc("repro", root=pulled)
    assert team.made.run("git", "-C", str(pulled), "status", "--porcelain") == ""


def test_an_earlier_data_version_comes_from_the_remote(team: Team, keys, tmp_path: Path) -> None:
    clone = team.clone(tmp_path / "third")
    first, _ = read_versions(clone)
    restore_version(clone, find_version(clone, first.version[:12]), lambda _: None)
    assert (clone / "data/raw/rows.jsonl").read_text() == "the first rows\n"


def test_the_cache_and_the_data_share_their_bytes(pulled: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.write_text("x")
    if subprocess.run(["cp", "--reflink=always", probe, tmp_path / "copy"], capture_output=True).returncode == 0:
        pytest.skip("this file system clones files, which DVC prefers and no link count shows")
    files = [path for out in OUTS for path in (pulled / out).rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 10
    assert min(path.stat().st_nlink for path in files) >= 2
    cached = {path.stat().st_ino for path in (pulled / ".dvc/cache/files").rglob("*") if path.is_file()}
    assert {path.stat().st_ino for path in files} <= cached


def test_what_a_push_says(team: Team, keys, tmp_path: Path) -> None:
    assert team.said is not None
    assert team.said.endswith(f"file(s) went to s3://{BUCKET}/team")
    assert push(team.root) == f"s3://{BUCKET}/team has everything already"
    assert default_remote(team.root) == f"s3://{BUCKET}/team"
    clone = team.clone(tmp_path / "bare")
    _point_at(clone, f"s3://{BUCKET}/empty")
    with pytest.raises(RemoteTrouble, match=r"neither in DVC's cache nor in s3://dvc-remote/empty.*`dvc repro`"):
        push(clone)


def test_no_remote_is_no_trouble(team: Team, keys, tmp_path: Path) -> None:
    clone = team.clone(tmp_path / "alone")
    (clone / ".dvc/config").write_bytes((ROOT / ".dvc/config").read_bytes())  # as this repository ships it
    assert (default_remote(clone), push(clone)) == (None, None)
    (clone / ".dvc/config").write_text("[core]\n    remote = gone\n")
    with pytest.raises(UserError, match=r"'gone'.*dvc remote list"):
        push(clone)


def test_a_remote_without_credentials(team: Team, keys) -> None:
    keys.delenv("AWS_ACCESS_KEY_ID")
    keys.delenv("AWS_SECRET_ACCESS_KEY")
    _is_said(team.root, "wants credentials and there are none: set AWS_ACCESS_KEY_ID", passing=False)


def test_a_remote_that_does_not_answer(team: Team, keys) -> None:
    from servers.processes import free_port

    keys.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    _is_said(team.root, r"does not answer: is it running.*AWS_ENDPOINT_URL_S3", passing=True)


def test_a_bucket_that_is_not_there(team: Team, keys, tmp_path: Path) -> None:
    clone = team.clone(tmp_path / "clone")
    _point_at(clone, "s3://no-such-bucket/team")
    _is_said(clone, "the bucket of s3://no-such-bucket/team does not exist.*dvc remote modify store url", passing=False)


def test_a_remote_whose_package_is_not_installed(team: Team, keys, tmp_path: Path) -> None:
    if __import__("importlib.util").util.find_spec("dvc_ssh"):
        pytest.skip("dvc-ssh is installed here")
    clone = team.clone(tmp_path / "clone")
    _point_at(clone, "ssh://somebody:hunter2secret@127.0.0.1/data")
    said = _is_said(clone, r"ssh://somebody:\*\*\*@127.0.0.1/data needs dvc-ssh.*pip install dvc-ssh", passing=False)
    assert "hunter2secret" not in said


def test_credentials_that_are_refused(team: Team, keys) -> None:
    """As a store answers a wrong key. The stand-in takes any, so that this answer is given by hand."""

    class Refuses(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = b"<Error><Code>InvalidAccessKeyId</Code><Message>The AWS Access Key Id you provided does not exist"
            body += b" in our records.</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        keys.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        said = _is_said(team.root, "refuses our credentials", passing=False)
    finally:
        server.shutdown()
        server.server_close()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said


def _point_at(clone: Path, url: str) -> None:
    (clone / ".dvc/config.local").write_text(f"['remote \"store\"']\n    url = {url}\n")


def _is_said(root: Path, pattern: str, passing: bool) -> str:
    """A push there fails with these words, and keeps the local cache as it was."""
    before = sum(1 for _ in (root / ".dvc/cache").rglob("*"))
    with pytest.raises(RemoteTrouble, match=pattern) as caught:
        push(root)
    assert caught.value.passing is passing
    assert sum(1 for _ in (root / ".dvc/cache").rglob("*")) == before
    return str(caught.value)
