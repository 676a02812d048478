"""Hostile and unlucky artifact stores, without a server: MLflow's own file repository stands behind the run."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from medtune.params.errors import RegistryError
from medtune.registry.manifest import MANIFEST, verify_manifest, write_manifest
from medtune.registry.remote import fetch_version, upload_version
from medtune.registry.versions import version_path
from medtune.tracking.runs import candidate_run
from medtune.tracking.store import connect, open_store

VERSION = hashlib.sha256(b"version").hexdigest()


class Place:
    """A root with one sealed version, its run, and the folder that stands for the bucket."""

    def __init__(self, root: Path) -> None:
        self.root = root
        uri = open_store(root)
        self.client = connect(uri)
        self.run_id = candidate_run(uri, "files", VERSION, "candidate")
        self.folder = version_path(root, VERSION)
        for name in ("adapter/a.json", "merged/config.json", "merged/deep/b.json"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(json.dumps({"name": name}))
        write_manifest(self.folder, VERSION, "c" * 64)

    def upload(self, **more: bool) -> str:
        return upload_version(self.client, self.run_id, self.folder, VERSION, **more)["merged"]

    def fetch(self, source: str, manifest: str | None = None) -> Path:
        return fetch_version(self.client, source, VERSION, self.root, manifest)

    def bucket(self, source: str) -> Path:
        return Path(source.removeprefix("file://")).parent

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.parent.iterdir())


@pytest.fixture
def place(tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(fresh_store, tmp_path / "mlruns/mlflow.db")
    return Place(tmp_path)


def test_there_and_back(place: Place) -> None:
    source = place.upload()
    shutil.rmtree(place.folder)
    assert place.fetch(source) == place.folder
    verify_manifest(place.folder)
    assert place.left() == [VERSION]
    inode = (place.folder / MANIFEST).stat().st_ino
    assert place.fetch(source.rpartition("/")[0]) == place.folder  # either half, or the folder of both
    assert (place.folder / MANIFEST).stat().st_ino == inode  # sound: used as it is


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "file:///etc",
        f"file:///etc/{'1' * 32}/artifacts/versions/{VERSION}/{'0' * 16}/merged",
        f"runs:/{'1' * 32}/versions/{VERSION}/../../merged",
        f"mlflow-artifacts:/1/{'1' * 32}/artifacts/versions/{VERSION}/{'0' * 16}/merged#x",
        f"mlflow-artifacts:/1/{'1' * 32}/artifacts/versions/{VERSION}/{'0' * 16}/merged?x=1",
        f"mlflow-artifacts:/1/{'1' * 32}/artifacts/versions/{VERSION}/{'0' * 16}/merged/../../x",
        f"s3://other/{'1' * 32}/artifacts/versions/{'e' * 64}/{'0' * 16}/merged",
        "x" * 100_000,
        "a\x00b",
        "",
    ],
)
def test_sources_that_are_none_of_ours(place: Place, source: str) -> None:
    shutil.rmtree(place.folder)
    source = source.replace("1" * 32, place.run_id)
    with pytest.raises(RegistryError, match=r"nothing fetched") as told:
        place.fetch(source)
    assert len(str(told.value)) < 600
    assert place.left() == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "merged/../../evil", "/etc/evil", "merged/a#b", "merged/a?b=c", "merged/a\x00b", "file:///etc/passwd",
        "merged/%2e%2e/evil", "merged\\evil", "merged//evil", "merged/", ".", "merged/./evil", "x" * 600, "merged/a\nb",
    ],
)  # fmt: skip
def test_names_in_a_manifest(place: Place, name: str) -> None:
    """One that somebody wrote into the bucket, with a folder name that fits it."""
    source = place.upload()
    bucket = place.bucket(source)
    record = json.loads((bucket / MANIFEST).read_text())
    record["files"].append({"path": name, "sha256": "0" * 64, "bytes": 1})
    (bucket / MANIFEST).write_text(json.dumps(record))
    told = hashlib.sha256((bucket / MANIFEST).read_bytes()).hexdigest()[:16]
    bucket.rename(bucket.parent / told)
    shutil.rmtree(place.folder)
    with pytest.raises(RegistryError, match=r"no name that can travel|lists .*(?:version|impossible)"):
        place.fetch(f"{source.rpartition('/')[0].rpartition('/')[0]}/{told}/merged")
    assert place.left() == []
    assert not (place.root.parent / "evil").exists()


def test_names_in_the_listing(place: Place) -> None:
    source = place.upload()
    (place.bucket(source) / "merged/a#b").write_text("x")
    shutil.rmtree(place.folder)
    with pytest.raises(RegistryError, match=r"hostile name|no name that can travel"):
        place.fetch(source)
    (place.bucket(source) / "merged/a#b").rename(place.bucket(source) / "merged/planted.bin")
    with pytest.raises(RegistryError, match=r"planted\.bin .*does not belong"):
        place.fetch(source)
    assert place.left() == []


def test_names_that_cannot_be_sent(place: Place) -> None:
    (place.folder / "merged/환자.json").write_text("{}")  # sound here, and no name for every server
    write_manifest(place.folder, VERSION, "c" * 64)
    with pytest.raises(RegistryError, match="rename the file"):
        place.upload()


def test_wrong_bytes_and_sizes(place: Place) -> None:
    source = place.upload()
    kept = place.bucket(source) / "merged/config.json"
    sound = place.root / "sound"
    place.folder.rename(sound)
    kept.write_bytes(kept.read_bytes().replace(b"name", b"evil"))  # the size stays
    with pytest.raises(RegistryError, match=r"does not hold what was registered.*config\.json"):
        place.fetch(source)
    assert place.left() == []
    kept.write_bytes(b"longer than it was, by far and away")
    with pytest.raises(RegistryError, match=r"holds 35 bytes of .*config\.json where \d+ were registered"):
        place.fetch(source)
    sound.rename(place.folder)
    assert place.upload() == source  # a wrong size is sent again
    kept.write_bytes(kept.read_bytes().replace(b"name", b"evil"))
    assert place.upload(again=True) == source
    shutil.rmtree(place.folder)
    verify_manifest(place.fetch(source))


def test_another_manifest_than_the_registered(place: Place) -> None:
    source = place.upload()
    shutil.rmtree(place.folder)
    with pytest.raises(RegistryError, match="another manifest"):
        place.fetch(source, "0" * 64)


def test_no_whole_copy(place: Place) -> None:
    source = place.upload()
    (place.bucket(source) / MANIFEST).unlink()
    shutil.rmtree(place.folder)
    with pytest.raises(RegistryError, match="no whole copy"):
        place.fetch(source)


def test_a_full_disk_is_told_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.upload()
    shutil.rmtree(place.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1))
    with pytest.raises(RegistryError, match=r"too little room.* GiB are needed, 0\.0 GiB are free"):
        place.fetch(source)
    assert place.left() == []


def test_a_damaged_folder_is_fetched_anew(place: Place) -> None:
    source = place.upload()
    (place.folder / "merged/config.json").unlink()
    (place.folder / "merged/config.json").write_text("{}")
    verify_manifest(place.fetch(source))
    assert place.left() == [VERSION]
