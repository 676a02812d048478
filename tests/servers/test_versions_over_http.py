"""A version's files by HTTP into an S3 store and back, and its models by MLflow's own loader."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from servers.conftest import BUCKET

from medtune.params.errors import RegistryError
from medtune.registry import remote
from medtune.registry.flavor import write_flavor
from medtune.registry.manifest import MANIFEST, verify_manifest
from medtune.registry.remote import fetch_version, upload_version
from medtune.registry.versions import keep_version, version_path
from medtune.tracking.runs import candidate_run
from medtune.tracking.store import connect, open_store

# a process of its own: whoever set MLflow's address in this one would be asked instead of the environment's server
LOAD = (
    "import sys, mlflow\n"
    "parts = mlflow.transformers.load_model(sys.argv[1], return_type='components')\n"
    "print(type(parts['model']).__name__, mlflow.pyfunc.load_model(sys.argv[1]).metadata.run_id)"
)


class Sealed:
    def __init__(self, checkout, name: str) -> None:
        self.root = checkout.root
        self.version = checkout.candidate(name)
        uri = open_store(self.root)
        self.client = connect(uri)
        self.run_id = candidate_run(uri, "versions", self.version, name)
        parts = {part: self.root / "data" / part for part in ("adapter", "merged")}
        keep_version(self.root, self.version, parts, self._dress)
        self.folder = version_path(self.root, self.version)

    def _dress(self, merged: Path) -> None:
        write_flavor(merged, self.version, "tiny", datetime.now(UTC), self.run_id)

    def upload(self) -> dict[str, str]:
        return upload_version(self.client, self.run_id, self.folder, self.version)

    def fetch(self, source: str) -> Path:
        return fetch_version(self.client, source, self.version, self.root)


@pytest.fixture
def sealed(server_environment, checkout, request: pytest.FixtureRequest) -> Sealed:
    return Sealed(checkout, request.node.name)


def test_round_trip_and_mlflows_own_loader(sealed: Sealed, store, mlflow_server) -> None:
    sources = sealed.upload()
    assert sources["merged"].startswith("mlflow-artifacts:/")
    sent = {key.partition("/artifacts/")[2].split("/", 3)[3]: size for key, size in store.keys(sealed.version).items()}
    here = {p.relative_to(sealed.folder).as_posix() for p in sealed.folder.rglob("*") if p.is_file()}
    assert set(sent) == here

    name = "http-model"
    sealed.client.create_registered_model(name)
    made = sealed.client.create_model_version(name, sources["merged"], sealed.run_id)
    sealed.client.set_registered_model_alias(name, "champion", made.version)
    done = subprocess.run([sys.executable, "-c", LOAD, f"models:/{name}@champion"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["LlamaForCausalLM", sealed.run_id]
    assert mlflow_server.get(f"/model-versions/get-artifact?name={name}&version=1&path=MLmodel") == 200  # its page

    shutil.rmtree(sealed.folder)
    verify_manifest(sealed.fetch(sources["merged"]))
    said = mlflow_server.log.read_text(errors="replace")
    assert mlflow_server.password not in said


def test_a_kill_half_way_and_large_files_in_parts(sealed: Sealed, store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that arrived is sent again, the manifest comes last, and a large file travels in parts."""
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(200_000))
    send, sent = remote._send, []

    def killed(repository, path: Path, name: str) -> None:
        if len(sent) == 5:
            raise KeyboardInterrupt
        send(repository, path, name)
        sent.append(name)

    monkeypatch.setattr(remote, "_send", killed)
    with pytest.raises(KeyboardInterrupt):
        sealed.upload()
    there = store.keys(sealed.version)
    assert len(there) == 5
    assert not any(key.endswith(MANIFEST) for key in there)
    monkeypatch.setattr(
        remote, "_send", lambda repository, path, name: (sent.append(name), send(repository, path, name))
    )
    sources = sealed.upload()
    assert len(sent) == len(set(sent)) == len(store.keys(sealed.version))
    assert sent[-1].endswith(f"/{MANIFEST}")
    parts = [key for key in store.multipart() if sealed.version in key]
    assert [key.rpartition("/")[2] for key in parts] == ["model.safetensors"]
    assert sealed.upload() == sources
    assert len(sent) == len(set(sent))  # the third time nothing is

    # and back: what a killed fetch has whole is kept, and what MLflow had begun is not taken for whole
    receive, got = remote._receive, []

    def cut(repository, name: str, folder: Path, target: Path) -> None:
        if len(got) == 6:
            raise KeyboardInterrupt
        receive(repository, name, folder, target)
        got.append(name)

    shutil.rmtree(sealed.folder)
    monkeypatch.setattr(remote, "_receive", cut)
    with pytest.raises(KeyboardInterrupt):
        sealed.fetch(sources["merged"])
    assert not sealed.folder.exists()

    def counted(repository, name: str, folder: Path, target: Path) -> None:
        got.append(name)
        receive(repository, name, folder, target)

    monkeypatch.setattr(remote, "_receive", counted)
    verify_manifest(sealed.fetch(sources["merged"]))
    again = [name for name in got if got.count(name) > 1]
    assert {name.rpartition("/")[2] for name in again} <= {MANIFEST}
    assert [p.name for p in sealed.folder.parent.iterdir()] == [sealed.version]


def test_wrong_bytes_in_the_bucket(sealed: Sealed, store) -> None:
    sources = sealed.upload()
    shutil.rmtree(sealed.folder)
    key = next(key for key in store.keys(sealed.version) if key.endswith("model.safetensors"))
    body = bytearray(store.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    body[-1] ^= 1
    store.client().put_object(Bucket=BUCKET, Key=key, Body=bytes(body))
    with pytest.raises(RegistryError, match=r"does not hold what was registered.*model\.safetensors"):
        sealed.fetch(sources["merged"])
    assert list(sealed.folder.parent.iterdir()) == []


@pytest.mark.parametrize("source", ["file:///etc", "/etc", "mlflow-artifacts:/1/../../etc", "runs:/{other}/merged"])
def test_the_server_takes_no_foreign_source(sealed: Sealed, source: str) -> None:
    from mlflow.exceptions import MlflowException

    name = f"hostile-{abs(hash(source))}"
    sealed.client.create_registered_model(name)
    with pytest.raises(MlflowException, match="Invalid model version source"):
        sealed.client.create_model_version(name, source.format(other="0" * 32), sealed.run_id)


def test_names_and_tags_that_would_be_something_else(sealed: Sealed) -> None:
    """Names come from the recipe, which takes plain ones alone; tags may say anything and mean nothing."""
    from medtune.params.register import Register
    from medtune.registry import tags
    from medtune.registry.registrar import find

    hostile = ["a' OR name LIKE '%", "a\nb", "a`b", "A B", "../a", "a/b", "x" * 10_000, "", "'; DROP TABLE runs;--"]
    for name in hostile:
        with pytest.raises(ValueError, match="model"):
            Register(model=name)
    sources = sealed.upload()
    sealed.client.create_registered_model("tagged")
    said = "'\"`; DROP TABLE model_versions;--\n" + "x" * 4000
    made = sealed.client.create_model_version(
        "tagged", sources["merged"], sealed.run_id, tags={tags.VERSION: sealed.version, "note": said}
    )
    assert find(sealed.client, "tagged", sealed.version).tags["note"] == said
    with pytest.raises(RegistryError, match="64 hexadecimal digits"):
        find(sealed.client, "tagged", f"{sealed.version}' or name like '%")
    assert str(made.version) == "1"
