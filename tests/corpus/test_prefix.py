"""Rows from an S3 store (moto's server, over HTTP) and from a mounted folder, with the real fsspec and s3fs."""

import hashlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medtune.corpus import prefix as prefix_module
from medtune.corpus.newcomers import SET_ASIDE
from medtune.corpus.prefix import STATE, fetch_prefix
from medtune.corpus.sources import ARRIVING, INCOMING, file_sha256
from medtune.params.errors import CorpusError
from tests.conftest import ROOT

ROWS = b'{"instruction": "a", "output": "b"}\n'
OTHER = b'{"instruction": "c", "output": "d"}\n'
FETCH = "import sys, pathlib; from medtune.corpus.prefix import fetch_prefix; fetch_prefix(pathlib.Path(), sys.argv[1])"


class S3:
    """The store and one bucket of this test's own."""

    def __init__(self, endpoint: str, key: str, secret: str) -> None:
        import boto3

        self.endpoint, self.bucket = endpoint, f"rows-{secrets.token_hex(4)}"
        self.key, self.secret = key, secret
        session = boto3.Session(aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1")
        self.client, self.iam = (session.client(name, endpoint_url=endpoint) for name in ("s3", "iam"))
        self.client.create_bucket(Bucket=self.bucket)
        self.url = f"s3://{self.bucket}/clinic/rows"

    def put(self, key: str, content: bytes = ROWS) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"clinic/rows/{key}", Body=content)

    def enforce(self, after: str) -> None:
        """From the so manieth request on keys and rights are checked."""
        post = urllib.request.Request(
            f"{self.endpoint}/moto-api/reset-auth", after.encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(post, timeout=10).close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    moto = pytest.importorskip("moto.server", reason="moto is not installed (pip install 'moto[s3]')")
    pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'medtune[server]')")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    store = S3(endpoint, f"AKIA{secrets.token_hex(8).upper()}", f"s3-{secrets.token_hex(16)}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):  # nobody's own
        monkeypatch.setenv(name, str(tmp_path / "none"))
    return store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def fetch(root: Path, url: str) -> tuple[list[str], list[str]]:
    said: list[str] = []
    return fetch_prefix(root, url, said.append), said


def refusal(root: Path, url: str) -> str:
    """The sentence of a fetch that must fail; no secret and no address may be in it."""
    hidden = [os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")]
    with pytest.raises(CorpusError) as caught:
        fetch(root, url)
    said = str(caught.value)
    assert not [value for value in hidden if value and value in said]
    assert "\n" not in said
    # what caused it quotes addresses, and must not stand in a traceback
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return said


def incoming(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / INCOMING).glob("*")}


def test_new_objects_arrive_once_under_names_that_tell_their_place(s3: S3, root: Path) -> None:
    s3.put("a.jsonl")
    s3.put("2026/01/환자 기록.jsonl", OTHER)
    for key in ("b.csv", ".hidden.jsonl", "half.jsonl.part", "folder/", ".tmp/x.jsonl", "note.txt"):
        s3.put(key)
    s3.put("empty.jsonl", b"")
    s3.client.put_object(Bucket=s3.bucket, Key="clinic/rows2/z.jsonl", Body=b'{"z": 1}\n')  # not below the prefix
    names, said = fetch(root, s3.url)
    digests = [hashlib.sha256(content).hexdigest()[:8] for content in (OTHER, ROWS)]
    assert names == [f"2026-01-환자-기록--{digests[0]}.jsonl", f"a--{digests[1]}.jsonl"]
    assert incoming(root) == dict(zip(names, (OTHER, ROWS), strict=True))
    assert said[1] == f"{s3.url}/a.jsonl → data/incoming/{names[1]} ({len(ROWS)} bytes)"
    assert fetch(root, s3.url) == ([], [])
    assert list((root / ARRIVING).iterdir()) == []


def test_the_same_content_is_one_file_whatever_its_key_and_state(s3: S3, root: Path) -> None:
    s3.put("a.jsonl")
    s3.put("b/a.jsonl")
    names, _ = fetch(root, s3.url)
    assert len(names) == 1
    for broken in (None, '{"x": {"y": {}}}', "[]"):
        if broken is None:
            (root / STATE).unlink()
        else:
            (root / STATE).write_text(broken)
        assert fetch(root, s3.url) == ([], [])
    assert list(incoming(root)) == names
    s3.put("c.jsonl")
    assert fetch(root, s3.url) == ([], [])


def test_what_was_set_aside_does_not_come_back(s3: S3, root: Path) -> None:
    s3.put("a.jsonl", b"not json\n")
    (name,), _ = fetch(root, s3.url)
    (root / SET_ASIDE).mkdir(parents=True)
    (root / INCOMING / name).rename(root / SET_ASIDE / name)
    assert fetch(root, s3.url) == ([], [])
    (root / STATE).unlink()
    assert fetch(root, s3.url) == ([], [])
    assert incoming(root) == {}


def test_keys_that_would_share_a_name_do_not_collide(s3: S3, root: Path) -> None:
    s3.put("x/y.jsonl", ROWS)
    s3.put("x-y.jsonl", OTHER)
    s3.put(f"{'가' * 150}.jsonl", b'{"long": 1}\n')
    s3.put("...JSONL", b'{"dots": 1}\n')
    names, _ = fetch(root, s3.url)
    assert len(set(names)) == 3
    assert set(incoming(root).values()) == {ROWS, OTHER, b'{"long": 1}\n'}
    assert all(len(name.encode()) <= 255 and not name.startswith(".") for name in names)


def test_eight_digits_that_agree_by_chance_cost_nobody_a_row(
    s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a.jsonl", ROWS)
    (name,), _ = fetch(root, s3.url)
    (root / INCOMING / name).write_bytes(OTHER)  # as if another content had the same first digits
    (root / STATE).unlink()
    (longer,), _ = fetch(root, s3.url)
    assert incoming(root) == {name: OTHER, longer: ROWS}
    assert len(longer) == len(name) + 56


def test_a_replaced_object_comes_beside_the_old_and_a_deleted_one_takes_nothing(s3: S3, root: Path) -> None:
    s3.put("a.jsonl", ROWS)
    fetch(root, s3.url)
    s3.put("a.jsonl", OTHER)  # as long as before: its etag tells
    assert len(fetch(root, s3.url)[0]) == 1
    s3.client.delete_object(Bucket=s3.bucket, Key="clinic/rows/a.jsonl")
    assert fetch(root, s3.url) == ([], [])
    assert sorted(incoming(root).values()) == [ROWS, OTHER]


def test_an_object_that_is_replaced_while_it_is_read_is_left(
    s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    s3.put("a.jsonl", ROWS)
    s3.put("b.jsonl", OTHER)
    get = s3fs.S3FileSystem.get_file

    def meanwhile(self: Any, path: str, *rest: Any, **more: Any) -> None:
        get(self, path, *rest, **more)
        if path.endswith("a.jsonl"):
            s3.put("a.jsonl", ROWS + OTHER)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "get_file", meanwhile)
        names, said = fetch(root, s3.url)
    assert list(incoming(root).values()) == [OTHER]
    assert said[0] == f"{s3.url}/a.jsonl was replaced while it was read; it is left for the next look"
    assert len(names) == 1
    fetch(root, s3.url)
    assert sorted(incoming(root).values()) == sorted([ROWS + OTHER, OTHER])
    assert list((root / ARRIVING).iterdir()) == []


def test_an_object_that_goes_away_stands_in_no_others_way(s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("a.jsonl", ROWS)
    s3.put("b.jsonl", OTHER)
    listed = prefix_module._Place.list

    def then_gone(*arguments: Any) -> list:
        things = listed(*arguments)
        s3.client.delete_object(Bucket=s3.bucket, Key="clinic/rows/a.jsonl")
        return things

    monkeypatch.setattr(prefix_module._Place, "list", then_gone)
    _, said = fetch(root, s3.url)
    assert said[0] == f"{s3.url}/a.jsonl was removed before it could be read"
    assert list(incoming(root).values()) == [OTHER]


def test_an_empty_prefix_is_no_error(s3: S3, root: Path) -> None:
    assert fetch(root, s3.url) == ([], [])


def test_a_kill_at_any_moment_leaves_whole_files_and_no_duplicates(s3: S3, root: Path) -> None:
    """SIGKILL after the first output line, then after some more; then one call to the end."""
    content = {f"{n:02}.jsonl": b'{"n": %d}\n' % n * 2000 for n in range(12)}
    for key, value in content.items():
        s3.put(key, value)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    for lines in (1, 4):
        child = subprocess.Popen([sys.executable, "-c", FETCH, s3.url], cwd=root, env=env, stdout=subprocess.PIPE)
        for _ in range(lines):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert all(value in content.values() for value in incoming(root).values())
    fetch(root, s3.url)
    assert sorted(incoming(root).values()) == sorted(content.values())
    assert fetch(root, s3.url) == ([], [])


def test_one_process_fetches_at_a_time(s3: S3, root: Path) -> None:
    s3.put("a.jsonl")
    with prefix_module._alone(root) as alone:
        assert alone
        assert fetch(root, s3.url) == ([], [f"{s3.url} is being fetched by another process; nothing to do here"])
    assert len(fetch(root, s3.url)[0]) == 1


# What goes wrong, each a sentence


def test_no_credentials(s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    said = refusal(root, s3.url)
    assert "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or mount" in said


def test_unknown_profile(s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "AWS_PROFILE" in refusal(root, s3.url)


def test_wrong_keys_and_missing_rights(s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("a.jsonl")
    user = f"user-{secrets.token_hex(4)}"
    s3.iam.create_user(UserName=user)
    granted = s3.iam.create_access_key(UserName=user)["AccessKey"]
    s3.enforce("0")
    try:
        assert "the store refused the credentials (InvalidAccessKeyId)" in refusal(root, s3.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", granted["AccessKeyId"])
        assert "the store refused the credentials (SignatureDoesNotMatch)" in refusal(root, s3.url)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", granted["SecretAccessKey"])
        said = refusal(root, s3.url)
        assert said.startswith(f"{s3.url}: access denied")
        assert "s3:ListBucket" in said
    finally:
        s3.enforce("inf")
    assert incoming(root) == {}


def test_a_store_that_goes_in_the_middle_keeps_what_has_arrived(
    s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, content in {"a.jsonl": ROWS, "b.jsonl": OTHER, "c.jsonl": b'{"c": 1}\n'}.items():
        s3.put(key, content)
    second = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    second.start()  # on the same buckets
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*second.get_host_and_port()))
        with pytest.raises(CorpusError, match=r"b.jsonl: the store does not answer \(EndpointConnectionError\)"):
            fetch_prefix(root, s3.url, lambda text: second.stop())  # said when a.jsonl has arrived
    assert list(incoming(root).values()) == [ROWS]
    assert len(fetch(root, s3.url)[0]) == 2


def test_one_object_that_may_not_be_read_stands_in_no_others_way(s3: S3, root: Path) -> None:
    s3.client.put_object(Bucket=s3.bucket, Key="clinic/rows/a.jsonl", Body=ROWS, StorageClass="GLACIER")
    s3.put("b.jsonl", OTHER)
    names, said = fetch(root, s3.url)
    assert len(names) == 1
    assert f"{s3.url}/a.jsonl" in said[-1]
    assert list(incoming(root).values()) == [OTHER]


def test_missing_bucket(s3: S3, root: Path) -> None:
    said = refusal(root, "s3://rows-that-nobody-made/x")
    assert (
        "there is no bucket rows-that-nobody-made at this endpoint; correct retrain.prefix and AWS_ENDPOINT_URL" in said
    )


def test_a_name_that_no_bucket_can_have(s3: S3, root: Path) -> None:
    assert "write retrain.prefix as s3://bucket/folder" in refusal(root, "s3://No_Bucket!/x")


@pytest.mark.parametrize("endpoint_url", ["http://127.0.0.1:9", "http://nowhere.invalid:9000"])
def test_unreachable_endpoint(s3: S3, root: Path, endpoint_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url)
    assert "the store does not answer (EndpointConnectionError); check the network and AWS_ENDPOINT_URL" in refusal(
        root, s3.url
    )


def test_no_address(s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "store:9000")
    assert "AWS_ENDPOINT_URL is no address" in refusal(root, s3.url)


def test_an_endpoint_that_takes_calls_and_says_nothing(s3: S3, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called as often as we say, not as often again by s3fs: the whole wait is TRIES x READ_SECONDS."""
    assert prefix_module.TRIES * prefix_module.READ_SECONDS <= 20
    monkeypatch.setattr(prefix_module, "READ_SECONDS", 1)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert "the store does not answer (ReadTimeoutError)" in refusal(root, s3.url)
        deaf.setblocking(False)
        for _ in range(prefix_module.TRIES):
            deaf.accept()[0].close()
        with pytest.raises(BlockingIOError):
            deaf.accept()


def test_unknown_protocol_and_missing_library(root: Path) -> None:
    assert "fsspec knows no 'ftq'; write s3://bucket/folder or file:///folder" in refusal(root, "ftq://somewhere/rows")
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from pathlib import Path; from medtune.corpus.prefix import fetch_prefix\n"
        "try: fetch_prefix(Path(), 's3://bucket/rows')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True)
    assert (
        "CorpusError s3://bucket/rows needs a library that is not installed: pip install 'medtune[server]'"
        in done.stdout
    )


def test_no_password_of_an_address_is_told(root: Path) -> None:
    said = refusal(root, "ftq://me:hunter22@somewhere/rows?token=abc123")
    assert "hunter22" not in said
    assert "abc123" not in said


def test_importing_needs_no_fsspec() -> None:
    code = "import sys; sys.modules['fsspec'] = None; import medtune.corpus.prefix"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


# A mounted folder


def test_a_mounted_folders_young_file_is_fetched_when_two_calls_find_it_the_same(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "mount"
    (mount / "2026").mkdir(parents=True)
    file = mount / "2026/x.jsonl"
    file.write_bytes(ROWS)
    url = mount.as_uri()
    assert fetch(root, url) == ([], [])
    with file.open("ab") as more:
        more.write(OTHER)
    assert fetch(root, url) == ([], [])
    (name,), _ = fetch(root, url)
    assert name.startswith("2026-x--")
    assert incoming(root) == {name: ROWS + OTHER}
    assert file_sha256(root / INCOMING / name)[:8] in name
    assert fetch(root, url) == ([], [])
    monkeypatch.setattr(prefix_module, "MOUNT_QUIET_SECONDS", 0)
    (mount / "y.jsonl").write_bytes(b'{"y": 1}\n')
    assert len(fetch(root, url)[0]) == 1
    assert set(json.loads((root / STATE).read_text())[url]) == {"2026/x.jsonl", "y.jsonl"}


def test_a_folder_that_is_not_there_and_one_that_feeds_itself(root: Path, tmp_path: Path) -> None:
    assert "does not exist; make the folder or mount it" in refusal(root, f"file://{tmp_path}/nothing")
    (root / INCOMING).mkdir(parents=True)
    assert "lies in this checkout's data/, which it feeds" in refusal(root, f"file://{root}/data/incoming")


def test_a_disk_that_takes_nothing_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount/x.jsonl").write_bytes(ROWS)
    url = (tmp_path / "mount").as_uri()
    fetch(root, url)
    part = hashlib.sha256(str(tmp_path / "mount/x.jsonl").encode()).hexdigest()[:16]
    (root / ARRIVING / f"prefix-{part}.part").mkdir(parents=True)  # in the way
    said = refusal(root, url)
    assert "cannot be written to data/.arriving" in said
