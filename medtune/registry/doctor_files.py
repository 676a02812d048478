"""Files of versions on this disk: whole or not, leftovers of a kill, folders of nobody, room for the next."""

import re
import shutil
import time
from pathlib import Path

from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.registry.doctor_trouble import Examination, Trouble
from medtune.registry.manifest import read_manifest
from medtune.registry.standing import Standing
from medtune.registry.verify import verify_version
from medtune.registry.versions import version_path, versions_root

LEFTOVER = re.compile(r"\.[0-9a-f]{64}\..*")  # what building a version's folder writes beside its place
FOLDER = re.compile(r"[0-9a-f]{64}")
LOCAL = "local"


def check_files(seen: Examination) -> list[Trouble]:
    """Every registered version that was not retired: names, sizes, manifest and signature; with deep every byte."""
    wanted = [item for item in seen.standings.values() if item.retired is None and _is_local(seen, item)]
    troubles = []
    for position, standing in enumerate(wanted, start=1):
        path, manifest = version_path(seen.root, standing.version), standing.registered.body.get("manifest")
        try:
            if seen.deep:
                size = sum(item["bytes"] for item in read_manifest(path)["files"])
                seen.tell(f"reading {standing.name}: {size / 2**30:.2f} GiB, {position} of {len(wanted)}")
            verify_version(path, manifest, quick=not seen.deep)
        except RegistryError as error:
            champion = seen.champion is not None and seen.champion.version == standing.version
            troubles.append(
                Trouble(
                    "files_damaged",
                    f"{'the champion, ' if champion else ''}{standing.name}: {error}",
                    "it is not loaded as it is; "
                    + (
                        "`medtune rollback` goes back to the one before"
                        if champion
                        else f"`medtune retire {standing.number} --by NAME --reason TEXT` if it may go"
                    )
                    + "; or, with its recipe in params.yaml, `dvc repro` and `dvc repro -f -s register` make it anew",
                )
            )
    return troubles


def _is_local(seen: Examination, standing: Standing) -> bool:
    """Files of a version in an artifact store are fetched when they are needed, and checked where they are here."""
    return standing.registered.body.get("files", LOCAL) == LOCAL or version_path(seen.root, standing.version).exists()


def check_leftovers(seen: Examination) -> list[Trouble]:
    """Half-made folders that a kill left; whole ones have other names."""
    stale = [path for path in _below(seen) if LEFTOVER.fullmatch(path.name) and _age(path) > seen.age]
    return [
        Trouble(
            "leftover",
            f"{path.relative_to(seen.root)} was left half-made, {_size(path) / 2**30:.2f} GiB",
            "remove it: `medtune doctor`",
            lambda path=path: _remove(seen, path),
        )
        for path in stale
    ]


def check_strangers(seen: Examination) -> list[Trouble]:
    """Whole folders of no registered version. Not removed: they may be all that is left of a version."""
    if seen.ledger is None or not seen.trusted:
        return []  # whose they are is not known
    known = set(seen.standings)
    for versions in seen.versions.values():  # from before the ledger
        known |= {version.tags.get(tags.VERSION) for version in versions.values()}
    troubles = []
    for path in _below(seen):
        if FOLDER.fullmatch(path.name) and path.name not in known and _age(path) > seen.age:
            troubles.append(
                Trouble(
                    "unregistered_folder",
                    f"{path.relative_to(seen.root)} is of no version in the ledger, {_size(path) / 2**30:.2f} GiB, of "
                    f"which {_size(path, alone=True) / 2**30:.2f} GiB are nowhere else",
                    f"`rm -r {path.relative_to(seen.root)}` if nobody needs it",
                    warning=True,
                )
            )
    return troubles


def check_space(seen: Examination) -> list[Trouble]:
    """Room for one more version of the newest one's size."""
    for standing in sorted(seen.standings.values(), key=lambda item: -item.registered.seq):
        path = version_path(seen.root, standing.version)
        if not path.is_dir():
            continue
        needed, free = _size(path), shutil.disk_usage(path).free
        if free >= needed:
            return []
        return [
            Trouble(
                "disk_space",
                f"{free / 2**30:.1f} GiB are free for mlruns; a version like the newest takes {needed / 2**30:.1f} GiB",
                "make room before the next training: `dvc gc --workspace`, or retire versions and remove their folders",
                warning=True,
            )
        ]
    return []


def _below(seen: Examination) -> list[Path]:
    place = versions_root(seen.root)
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink()) if place.is_dir() else []


def _age(path: Path) -> float:
    """Seconds since anything in the folder changed: its own time alone says nothing of a file being written."""
    return time.time() - max(item.lstat().st_mtime for item in (path, *path.rglob("*")))


def _size(path: Path, alone: bool = False) -> int:
    """Bytes below a folder; `alone`: of those files only that no other name points to."""
    found = [name.lstat() for name in path.rglob("*") if name.is_file() and not name.is_symlink()]
    return sum(item.st_size for item in found if not alone or item.st_nlink == 1)


def _remove(seen: Examination, path: Path) -> str:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        raise RegistryError(f"{path} cannot be removed; look at who owns it")
    return f"{path.relative_to(seen.root)} is removed"
