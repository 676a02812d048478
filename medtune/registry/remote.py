"""A version's files in an artifact store: sent once, fetched when they are not here, believed only by the manifest.

upload_version(client, run_id, folder, digest)      # {"adapter": "mlflow-artifacts:/…/adapter", "merged": …}
fetch_version(client, source, digest, root)         # mlruns/artifacts/versions/<digest>, whole and verified

They lie among the artifacts of the candidate's run, in versions/<version digest>/<first 16 of the manifest's sha256>/.
So a name there belongs to one content for ever: what another attempt left can be completed but never mixed up, and
nothing is written over. manifest.json goes last; where it is, the rest is. MLflow's client carries the bytes: large
files go straight to the store in parts where it can (S3), through presigned addresses that the server hands out.
"""

import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from medtune.params.errors import RegistryError
from medtune.registry.manifest import (
    MANIFEST,
    SIGNATURE,
    SIGNATURE_BYTES,
    manifest_digest,
    read_manifest,
    verify_manifest,
    walk,
)
from medtune.registry.versions import ADAPTER, MERGED, version_path
from medtune.tracking.secrets import redact
from medtune.tracking.store import HOME, store_errors

FOLDER = "versions"
SOURCE = re.compile(
    rf"(?P<home>\S+/(?P<run>[0-9a-f]{{32}})/artifacts)"
    rf"/(?P<remote>{FOLDER}/(?P<version>[0-9a-f]{{64}})/(?P<manifest>[0-9a-f]{{16}}))(?:/(?:{ADAPTER}|{MERGED}))?"
)
# Every other character means something to some server, shell or path: # and ? end a URL's path, % and \ start another
# spelling, NUL ends a name. The files of a model have plain names.
NAME = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9_.+=,@-]+(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9_.+=,@-]+)*")
LONGEST_NAME = 500
MOST_FILES, DEEPEST = 10_000, 12
LARGEST_MANIFEST = 64 * 2**20
ATTEMPTS = 3  # of one file: MLflow retries requests, but not the parts of a large file
PART_FROM = 64 * 2**20  # bytes; files from here on go in parts of 10 MiB
GIB = 2**30


def upload_version(client: Any, run_id: str, directory: Path, digest: str, again: bool = False) -> dict[str, str]:
    """Send a sealed version folder; returns the sources that create_model_version takes with this `run_id`.

    What the store has already, in the right size, is not sent again, so that a rerun goes on where a kill fell; `again`
    sends all, over a store that lost or changed bytes. RegistryError where a file is not as its manifest says, has a
    name that cannot travel, or the store does not take it.
    """
    record = read_manifest(directory)
    if record["version"] != digest:
        raise RegistryError(f"{directory / MANIFEST} is of version {record['version'][:12]}, not {digest[:12]}")
    sizes = _listed(record, str(directory / MANIFEST))
    missing = sorted(set(sizes) - set(walk(directory)))
    wrong = missing or [name for name, size in sizes.items() if (directory / name).stat().st_size != size]
    if wrong:
        raise RegistryError(f"{directory / wrong[0]} is not as the manifest says; run `dvc repro -f -s register`")
    if (directory / SIGNATURE).is_file():
        sizes[SIGNATURE] = (directory / SIGNATURE).stat().st_size
    remote = f"{FOLDER}/{digest}/{manifest_digest(directory)[:16]}"
    with store_errors(client.tracking_uri):
        home, store = _store(client, run_id)
        # as MLflow's own register_model writes it; by runs:/ models load as well, but the server's pages show no files
        sources = {part: f"{home}/{remote}/{part}" for part in (ADAPTER, MERGED)}
        there = {} if again else _listing(store, remote)
        if there.get(MANIFEST) == (directory / MANIFEST).stat().st_size and all(
            there.get(name) == size for name, size in sizes.items()
        ):
            return sources
        unsent = {name: size for name, size in sizes.items() if there.get(name) != size}
        progress = _Progress(f"version {digest[:12]} to the artifact store", unsent)
        for name, size in unsent.items():
            _send(store, directory / name, f"{remote}/{name}")
            progress.done(size)
        kept = _listing(store, remote)
        for name, size in sizes.items():
            if kept.get(name) != size:
                raise RegistryError(
                    f"the artifact store holds {kept.get(name, 'nothing')} of {remote}/{name} where {size} bytes were "
                    "sent; look into the server's log and its disk, then run `dvc repro -f -s register`"
                )
        _send(store, directory / MANIFEST, f"{remote}/{MANIFEST}")
    return sources


def fetch_version(client: Any, source: str, digest: str, root: Path, manifest: str | None = None) -> Path:
    """The folder of a version, fetched from the store unless it is here and sound; it has been verified on return.

    `source` is what the registry keeps of either half; `manifest` the sha256 of manifest.json that the ledger or the
    registry keeps, held against before anything large is fetched. A fetch that was killed goes on. RegistryError where
    the source is none of ours, the disk is too small, or the store's files are not those that were registered.
    """
    found = SOURCE.fullmatch(source)
    if found is None or found["version"] != digest:
        raise RegistryError(
            f"{source[:200]!r} is no place that medtune keeps version {digest[:12]} in; nothing fetched"
        )
    if manifest and not manifest.startswith(found["manifest"]):
        raise RegistryError(f"{source} belongs to another manifest than the registered one, {manifest[:16]}")
    target = version_path(root, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root / HOME / "fetch.lock"):
        if target.exists():
            try:
                verify_manifest(target, manifest)
                return target
            except RegistryError as error:
                print(f"{error}\n{digest[:12]}: its files are fetched anew")
        making = target.parent / f".{digest}.fetching"
        with store_errors(client.tracking_uri):
            home, store = _store(client, found["run"])
            if home != found["home"]:
                raise RegistryError(
                    f"{source[:200]!r} is not among the artifacts of run {found['run']}; nothing fetched"
                )
            _fetch(store, found["remote"], making, digest, manifest or found["manifest"])
        _verify(making, manifest, source)
        if target.exists():
            damaged = target.parent / f".{digest}.damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            os.replace(target, damaged)
        os.replace(making, target)
        shutil.rmtree(target.parent / f".{digest}.damaged", ignore_errors=True)
    return target


def _fetch(store: Any, remote: str, making: Path, digest: str, manifest: str) -> None:
    """Bring the folder at `making` up to the manifest in the store. Nothing is written before all names are known."""
    there = _listing(store, remote)
    if MANIFEST not in there:
        raise RegistryError(
            f"the artifact store has no whole copy of version {digest[:12]}: {remote}/{MANIFEST} is not there; "
            "register again where its files are (`dvc repro -f -s register`)"
        )
    if (there[MANIFEST] or 0) > LARGEST_MANIFEST:
        raise RegistryError(
            f"{remote}/{MANIFEST} in the artifact store has {there[MANIFEST]} bytes: that is no manifest"
        )
    with tempfile.TemporaryDirectory(prefix="medtune-manifest-") as folder:
        _receive(store, f"{remote}/{MANIFEST}", Path(folder), Path(folder) / MANIFEST)
        told = manifest_digest(Path(folder))
        if not told.startswith(manifest):
            raise RegistryError(f"{remote}/{MANIFEST} in the artifact store is not the one that was registered")
        try:
            record = read_manifest(Path(folder))
        except RegistryError as error:
            told = str(error).replace(folder, f"{remote} of the artifact store, in")
            raise RegistryError(told) from None
        sizes = _listed(record, f"{remote}/{MANIFEST}")
        if 0 < there.get(SIGNATURE, 0) <= SIGNATURE_BYTES:  # no file of the manifest, which it signs
            sizes[SIGNATURE] = there[SIGNATURE]
        if record["version"] != digest:
            raise RegistryError(f"{remote}/{MANIFEST} is of version {record['version'][:12]}, not {digest[:12]}")
        for name, size in sizes.items():
            if there.get(name) != size:
                has = f"{there[name]} bytes" if name in there else "nothing"
                raise RegistryError(f"the artifact store holds {has} of {remote}/{name} where {size} were registered")
        if extra := sorted(set(there) - set(sizes) - {MANIFEST}):
            raise RegistryError(f"{remote}/{extra[0]} in the artifact store does not belong to this version; remove it")
        if making.exists():
            _keep_only(making, sizes)
        unfetched = {n: size for n, size in sizes.items() if not (making / n).is_file()}
        _room(making.parent, sum(unfetched.values()))
        progress = _Progress(f"version {digest[:12]} from the artifact store", unfetched)
        for name, size in unfetched.items():
            (making / name).parent.mkdir(parents=True, exist_ok=True)
            # whole or not there: MLflow makes a file in its full size before its parts arrive
            _receive(store, f"{remote}/{name}", making.parent / f".{digest}.part", making / name)
            if (making / name).stat().st_size != size:
                (making / name).unlink()
                raise RegistryError(
                    f"{remote}/{name} broke off on the way from the artifact store; run the command again"
                )
            progress.done(size)
        shutil.rmtree(making.parent / f".{digest}.part", ignore_errors=True)
        shutil.copyfile(Path(folder) / MANIFEST, making / MANIFEST)


def _keep_only(making: Path, sizes: dict[str, int]) -> None:
    """Of what a killed fetch left, the whole files of this version; RegistryError on a link among them."""
    for name in walk(making):
        path = making / name
        if name not in sizes or path.stat().st_size != sizes[name]:
            path.unlink()


def _verify(making: Path, manifest: str | None, source: str) -> None:
    try:
        verify_manifest(making, manifest)
    except RegistryError as error:
        shutil.rmtree(making)  # the next fetch must not go on from these bytes
        told = str(error).replace(str(making), making.name)
        raise RegistryError(
            f"{source}: the artifact store does not hold what was registered ({told}); where the files are sound, "
            "upload_version(…, again=True) sends them anew"
        ) from None


def _listed(record: dict[str, Any], where: str) -> dict[str, int]:
    """{name: bytes} of a manifest; RegistryError for a name that cannot travel."""
    if len(record["files"]) > MOST_FILES:
        raise RegistryError(f"{where} lists {len(record['files'])} files; a version has {MOST_FILES} at most")
    sizes: dict[str, int] = {}
    for item in record["files"]:
        name, size = _plain(item["path"], where), item["bytes"]
        if name in sizes or name == MANIFEST or not isinstance(size, int) or size < 0:
            raise RegistryError(f"{where} lists {name!r} twice or with an impossible size")
        sizes[name] = size
    return sizes


def _plain(name: Any, where: str) -> str:
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not NAME.fullmatch(name):
        raise RegistryError(
            f"{where}: {str(name)[:200]!r} is no name that can travel to or from an artifact store (letters, digits "
            "and _ . + = , @ - only, no .. and no leading /); rename the file"
        )
    return name


def _store(client: Any, run_id: str) -> tuple[str, Any]:
    """Where a run's artifacts lie, and MLflow's repository of them; the settings hold unless the environment says
    otherwise. RegistryError where a server sends us to our own disk."""
    os.environ.setdefault("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(PART_FROM))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar a file; lines are enough
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    home = client.get_run(run_id).info.artifact_uri
    if client.tracking_uri.startswith(("http:", "https:")) and urlsplit(home).scheme in ("", "file"):
        raise RegistryError(
            f"run {run_id} keeps its artifacts in {home[:200]}, a folder of the server's machine: start "
            "`mlflow server` with --serve-artifacts and --artifacts-destination"
        )
    return home.rstrip("/"), get_artifact_repository(home, tracking_uri=client.tracking_uri)


def _listing(store: Any, remote: str) -> dict[str, int]:
    """{name below remote: bytes} of every file; RegistryError for hostile names and a listing that does not end."""
    from mlflow.exceptions import MlflowException

    sizes: dict[str, int] = {}
    folders = [remote]
    while folders:
        folder = folders.pop()
        try:
            items = store.list_artifacts(folder)
        except MlflowException as error:
            if "Invalid path" in str(error):
                raise RegistryError(
                    f"the artifact store lists a hostile name in {folder}; nothing was fetched"
                ) from None
            raise
        for item in items:
            name = _plain(item.path.removeprefix(f"{remote}/"), f"the artifact store's listing of {folder}")
            if item.path != f"{remote}/{name}" or not item.path.startswith(f"{folder}/"):
                raise RegistryError(f"the artifact store lists {item.path[:200]!r} in {folder}, where it cannot be")
            if item.is_dir:
                folders.append(item.path)
            else:
                sizes[name] = item.file_size
            if name.count("/") > DEEPEST or len(sizes) + len(folders) > MOST_FILES:
                raise RegistryError(f"the artifact store's listing of {remote} does not end; nothing was fetched")
    return sizes


def _send(store: Any, path: Path, remote: str) -> None:
    _again(lambda: store.log_artifact(str(path), remote.rpartition("/")[0]), remote)


def _receive(store: Any, remote: str, folder: Path, target: Path) -> None:
    """One file to `target`, whole or not at all, by way of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)

    def receive() -> None:
        arrived = Path(store.download_artifacts(remote, str(folder)))
        if arrived.is_symlink() or not arrived.is_file():
            raise RegistryError(f"{remote} in the artifact store is no file")
        os.replace(arrived, target)

    _again(receive, remote)


def _again(action: Any, remote: str) -> None:
    """A transfer with further attempts: of a connection that broke, not of a refusal or a full disk."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (RegistryError, OSError) as error:
            # requests' errors are OSErrors too; a full or closed disk has a number
            if isinstance(error, RegistryError) or type(error).__module__ == "builtins" or attempt == ATTEMPTS:
                raise
            problem = error
        except Exception as error:
            if attempt == ATTEMPTS or "error code 4" in str(error):
                raise
            problem = error
        print(f"{remote}: {type(problem).__name__}: {redact(problem)[:200]}; once more ({attempt + 1} of {ATTEMPTS})")
        time.sleep(2**attempt)
    return None


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RegistryError(
            f"{folder} has too little room for this version: {needed / GIB:.1f} GiB are needed, {free / GIB:.1f} GiB "
            "are free; make room, or point mlruns at a larger disk"
        )


class _Progress:
    """A line for a transfer that takes time, at most one in ten seconds."""

    def __init__(self, what: str, sizes: dict[str, int]) -> None:
        self.what, self.files, self.total = what, len(sizes), sum(sizes.values())
        self.at = self.sent = 0
        self.began = self.told = time.monotonic()
        if self.total > PART_FROM:
            print(f"{what}: {self.files} files, {self.total / GIB:.2f} GiB")

    def done(self, size: int) -> None:
        self.at, self.sent, now = self.at + 1, self.sent + size, time.monotonic()
        if now - self.told >= 10 or (self.at == self.files and now - self.began >= 10):
            self.told = now
            print(
                f"{self.what}: {self.at} of {self.files} files, {self.sent / GIB:.2f} of {self.total / GIB:.2f} GiB, "
                f"{self.sent / 2**20 / (now - self.began):.0f} MiB/s"
            )
