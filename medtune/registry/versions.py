"""A version's files: mlruns/artifacts/versions/<version digest>/{adapter,merged}/, rows.json and manifest.json.

rows.json names the rows of each split that the version was made with, so that years later a row can be found in it.

The files are hard links to those of data/adapter and data/merged, so that 21 GB are kept once; across devices they are
copied. A link shares its bytes with DVC's workspace, and with DVC's cache where cache.type is hardlink or symlink.
That is sound because nobody writes into these files in place: DVC removes a stage's outs before it runs the stage and
on checkout, stages write to a temporary name and rename, and both leave the linked bytes alone. An editor that does
write in place is found by the manifest before anything loads. `dvc gc` only unlinks.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.contents import PICKLES
from medtune.registry.keys import sign
from medtune.registry.manifest import (
    hash_files,
    manifest_digest,
    read_manifest,
    verify_manifest,
    write_manifest,
)
from medtune.tracking.store import HOME

ADAPTER, MERGED = "adapter", "merged"
ROWS = "rows.json"


def versions_root(root: Path) -> Path:
    return root / HOME / "artifacts" / "versions"


def version_path(root: Path, digest: str) -> Path:
    """Where the files of a version lie, absolute."""
    return versions_root(root).resolve() / digest


def keep_version(
    root: Path,
    digest: str,
    sources: dict[str, Path],
    dress: Callable[[Path], None],
    registered: dict[str, str] | None = None,
    rows: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Have the files of a version in place, whole and as they should be; returns {"manifest", "content"} digests.

    `sources` maps ADAPTER and MERGED to their folders; `dress` adds MLflow's files to the merged folder; `rows` goes
    into rows.json. A new folder is signed where a key is there (registry.keys). `registered`
    are the digests that the registry keeps of this version, None before it is registered. A folder that is there and
    sound stays; one that is missing or damaged is made anew from the sources, if they still hold the same bytes.

    RegistryError where they do not, where the disk is too small for a copy, and on pickles and links.
    """
    target = version_path(root, digest)
    kept = _sound(target, registered and registered["manifest"])
    content = _content(sources, target, kept)
    if kept and (registered or kept["content"] == content):
        if kept["content"] != content:
            print(
                f"data/adapter and data/merged hold other bytes than version {digest[:12]}, which is registered and "
                "stands: training or merging does not repeat to the bit on this machine"
            )
        return {"manifest": manifest_digest(target), "content": kept["content"]}
    if registered and registered["content"] != content:
        raise RegistryError(
            f"the files of registered version {digest[:12]} are gone or damaged, and data/adapter and data/merged hold "
            "other bytes; `dvc checkout --force` may bring them back, then run `dvc repro -f -s register`. If that "
            "ends here again, training does not repeat to the bit on this machine: delete that version in the MLflow UI"
        )
    return {"manifest": _make(target, digest, content, sources, dress, rows), "content": content}


def _sound(target: Path, manifest: str | None) -> dict[str, Any] | None:
    """The manifest of a version whose files are all as it says, else None."""
    if not target.exists():
        return None
    try:
        return verify_manifest(target, manifest)
    except RegistryError as error:
        print(f"{error}\n{target.name[:12]}: its files are made anew")
        return None


def _make(
    target: Path,
    digest: str,
    content: str,
    sources: dict[str, Path],
    dress: Callable[[Path], None],
    rows: Mapping[str, Any] | None,
) -> str:
    """Build beside the place, then rename: the folder is whole or not there. Returns the manifest's digest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{digest}.*"):  # of a kill
        shutil.rmtree(stale)
    making = target.parent / f".{digest}.making"
    for part, source in sources.items():
        _link_tree(source, making / part)
    dress(making / MERGED)
    if rows is not None:
        (making / ROWS).write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")
    write_manifest(making, digest, content)
    sign(making)
    if target.exists():
        os.replace(target, target.parent / f".{digest}.damaged")
    os.replace(making, target)
    shutil.rmtree(target.parent / f".{digest}.damaged", ignore_errors=True)
    return manifest_digest(target)


def _link_tree(source: Path, target: Path) -> None:
    names = _files(source)
    target.mkdir(parents=True)
    copies = False
    for number, name in enumerate(names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        # DVC may have made the file a symbolic link into its cache: keep the file, not the link
        origin = (source / name).resolve()
        try:
            os.link(origin, target / name)
        except OSError:  # another device, or a file system without links
            if not copies:
                _check_room(source, names[number:], target)
            copies = True
            shutil.copyfile(origin, target / name)


def _check_room(source: Path, names: list[str], target: Path) -> None:
    """RegistryError where the files that are not linked yet do not fit beside mlruns."""
    needed = sum((source / name).stat().st_size for name in names)
    free = shutil.disk_usage(target).free
    if needed > free:
        raise RegistryError(
            f"{source} cannot be linked into mlruns and must be copied: {needed / 2**30:.1f} GiB are needed, "
            f"{free / 2**30:.1f} GiB are free; make room, or put both on one disk that has hard links"
        )


def _files(source: Path) -> list[str]:
    """Relative paths of a folder's files, refusing pickles."""
    if not source.is_dir():
        raise RegistryError(f"{source} is missing; run `dvc repro`")
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    for name in names:
        if PurePosixPath(name).suffix.lower() in PICKLES:
            raise RegistryError(f"{source / name} may be a pickle, which runs code when opened; a version takes none")
    return names


def _content(sources: dict[str, Path], target: Path, kept: dict[str, Any] | None) -> str:
    """Digest over the sources' paths and bytes. What is one file with a sound version's is not read again."""
    known = {item["path"]: item["sha256"] for item in kept["files"]} if kept else {}
    lines = []
    for part, source in sources.items():
        unread = []
        for name in _files(source):
            path = f"{part}/{name}"
            if path in known and os.path.samefile(source / name, target / path):
                lines.append(f"{path}\0{known[path]}\n")
            else:
                unread.append(name)
        lines += [f"{part}/{item['path']}\0{item['sha256']}\n" for item in hash_files(source, unread)]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def rows_of(root: Path, digest: str) -> dict[str, Any] | None:
    """rows.json of a version: {"data", "tokens", "splits": {split: [row ids]}}; None where it keeps none here."""
    try:
        return json.loads((version_path(root, digest) / ROWS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RegistryError(f"{version_path(root, digest) / ROWS} is no JSON ({error}); run `medtune doctor`") from None


def rows_digest_of(place: Path) -> str | None:
    """sha256 of a version's rows.json as its manifest lists it; None for a version from before there was one."""
    listed = {item["path"]: item["sha256"] for item in read_manifest(place)["files"]}
    return listed.get(ROWS)
