"""manifest.json: sha256 and size of every file of a version, and the check that holds the files to it.

write_manifest(directory, version)
verify_manifest(directory)          # RegistryError names the first file that is not as it was
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from medtune.params.errors import RegistryError

MANIFEST = "manifest.json"

# MLflow writes this file (name and number of the version, YAML) into a model's folder whenever somebody loads the
# model through it. It is not ours and nothing reads it; anything larger or other than a plain file is refused.
MLFLOW_NOTE = "merged/registered_model_meta"
NOTE_BYTES = 4096


def write_manifest(directory: Path, version: str, content: str) -> dict[str, Any]:
    """Hash every file below `directory` into its manifest.json and return what it says.

    `content` is the digest of what the version was made from, before MLflow's files were added.
    """
    files = [name for name in walk(directory) if name != MANIFEST]
    record = {"version": version, "content": content, "files": hash_files(directory, files)}
    temporary = directory / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, directory / MANIFEST)
    return record


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a version; RegistryError where there is none or it is no manifest."""
    path = directory / MANIFEST
    try:
        if path.is_symlink():
            raise RegistryError(f"{path} is a symbolic link; a version holds plain files only")
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record["content"], str) or not isinstance(record["version"], str):
            raise RegistryError(f"{path} names no version; {MEND}")
        for item in record["files"]:
            pure = PurePosixPath(item["path"])
            if pure.is_absolute() or ".." in pure.parts or not isinstance(item["bytes"], int) or not item["sha256"]:
                raise RegistryError(f"{path} lists {item['path']!r}, which cannot be a file of this version")
        return record
    except FileNotFoundError:
        raise RegistryError(f"{path} is missing; {MEND}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(f"{path} is no manifest ({error!r}); {MEND}") from None


def verify_manifest(directory: Path, sha256: str | None = None) -> dict[str, Any]:
    """Read every file and hold it to the manifest; returns the manifest.

    `sha256` is what the registry keeps of manifest.json itself, so that rewriting file and manifest together is seen.
    RegistryError names the file that changed, is missing, was added or is a link.
    """
    record = read_manifest(directory)
    if sha256 and sha256 != manifest_digest(directory):
        raise RegistryError(f"{directory / MANIFEST} is not the one that was registered; {MEND}")
    listed = {item["path"]: item for item in record["files"]}
    there = set(walk(directory)) - {MANIFEST}
    for name in sorted(there - set(listed)):
        if name != MLFLOW_NOTE or (directory / name).stat().st_size > NOTE_BYTES:
            raise RegistryError(f"{directory / name} does not belong to version {record['version'][:12]}; remove it")
    for name in sorted(set(listed) - there):
        raise RegistryError(f"{directory / name} is missing; {MEND}")
    for name, item in listed.items():  # sizes first: they cost nothing
        if (directory / name).stat().st_size != item["bytes"]:
            raise RegistryError(f"{directory / name} has another size than when it was registered; {MEND}")
    for item in hash_files(directory, list(listed)):
        if item["sha256"] != listed[item["path"]]["sha256"]:
            raise RegistryError(f"{directory / item['path']} is not the file that was registered; {MEND}")
    return record


def manifest_digest(directory: Path) -> str:
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()


def walk(directory: Path) -> list[str]:
    """Relative paths of all files below, sorted; RegistryError names a symbolic link or a thing that is no file."""
    names = []
    for folder, folders, files in os.walk(directory):
        for name in sorted(folders + files):
            path = Path(folder, name)
            if path.is_symlink():
                raise RegistryError(
                    f"{path} is a symbolic link; a version holds plain files only, replace or remove it"
                )
            if name in files:
                if not path.is_file():
                    raise RegistryError(f"{path} is no plain file; remove it")
                names.append(path.relative_to(directory).as_posix())
    return sorted(names)


def hash_files(directory: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """[{"path", "sha256", "bytes"}] in the order of `names`, several files at once: hashing leaves the GIL."""

    def one(name: str) -> dict[str, Any]:
        with (directory / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"path": name, "sha256": digest, "bytes": os.fstat(file.fileno()).st_size}

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, names))


MEND = (
    "with the recipe of that version in params.yaml, `dvc repro` and `dvc repro -f -s register` make its files anew; "
    "to leave it behind, let a candidate pass with gate.not_worse_than_champion: false"
)
