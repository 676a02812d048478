"""manifest.json: sha256 and size of every file of a version, and the check that holds the files to it.

write_manifest(directory, version, content)
verify_manifest(directory)          # RegistryError names the first file that is not as it was, or may not be there
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from medtune.params.errors import RegistryError
from medtune.registry.contents import check_contents, check_path, folded

MANIFEST = "manifest.json"
MANIFEST_BYTES = 16 * 2**20  # some 100,000 files; a version has some 30

# who signed manifest.json (registry/keys.py). Not in the manifest, since it is made from it.
SIGNATURE = "manifest.json.sig"
SIGNATURE_BYTES = 64 * 2**10  # a bundle by key has 1.5 KB, a keyless one with certificate and log entry some 10

# MLflow writes this file (name and number of the version, YAML) into a model's folder whenever somebody loads the
# model through it. It is not ours and nothing reads it; anything larger or other than a plain file is refused.
MLFLOW_NOTE = "merged/registered_model_meta"
NOTE_BYTES = 4096

UNLISTED = {SIGNATURE: SIGNATURE_BYTES, MLFLOW_NOTE: NOTE_BYTES}  # may be there or not, up to so many bytes

BUFFER = 2**19  # stays in a core's own cache between the read and the hash; 4 MiB made both a third slower
AHEAD = 2**25  # what the kernel is asked to read meanwhile: by itself it looks 128 KiB ahead on many disks


def write_manifest(directory: Path, version: str, content: str) -> dict[str, Any]:
    """Hash every file below `directory` into its manifest.json and return what it says.

    `content` is the digest of what the version was made from, before MLflow's files were added. RegistryError names a
    file that no version may hold, so that what cannot be verified is not registered.
    """
    files = [name for name in walk(directory) if name not in (MANIFEST, *UNLISTED)]
    check_contents(directory, files)
    record = {"version": version, "content": content, "files": hash_files(directory, files)}
    temporary = directory / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, directory / MANIFEST)
    return record


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a version; RegistryError where there is none or it is no manifest."""
    path = directory / MANIFEST
    try:
        record = json.loads(read_small(path, MANIFEST_BYTES).decode("utf-8"))
        _check_record(path, record)
        return record
    except FileNotFoundError:
        raise RegistryError(f"{path} is missing; {MEND}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryError(f"{path} is no manifest ({error!r}); {MEND}") from None


def _check_record(path: Path, record: dict[str, Any]) -> None:
    if not isinstance(record["content"], str) or not re.fullmatch(r"[\w.-]{1,128}", record["version"]):
        raise RegistryError(f"{path} names no version; {MEND}")
    seen: dict[str, str] = {}
    for item in record["files"]:
        try:
            name = check_path(item["path"])
        except ValueError as error:
            raise RegistryError(f"{path} lists {item['path']!r}, {error}; {MEND}") from None
        size = item["bytes"]
        if type(size) is not int or size < 0 or not re.fullmatch(r"[0-9a-f]{64}", item["sha256"]):
            raise RegistryError(f"{path} lists {name!r} without its size or sha256; {MEND}")
        if name in (MANIFEST, *UNLISTED):
            raise RegistryError(f"{path} lists {name!r}, which it cannot speak for; {MEND}")
        if (other := seen.setdefault(folded(name), name)) is not name:
            raise RegistryError(f"{path} lists {name!r} and {other!r}, which are one file on some disks; {MEND}")


def verify_manifest(
    directory: Path, sha256: str | None = None, threads: int | None = None, quick: bool = False
) -> dict[str, Any]:
    """Read every file and hold it to the manifest; returns the manifest.

    `sha256` is what the registry keeps of manifest.json itself, so that rewriting file and manifest together is seen.
    `threads`: files read at once; left out, two for each core. `quick` takes the bytes of weights on trust.
    RegistryError names the file that changed, is missing, was added, is a link, or may be in no version.
    """
    if directory.is_symlink():
        raise RegistryError(f"{directory} is a symbolic link; a version holds plain files only, replace or remove it")
    record = read_manifest(directory)
    if sha256 and sha256 != manifest_digest(directory):
        raise RegistryError(f"{directory / MANIFEST} is not the one that was registered; {MEND}")
    listed = {item["path"]: item for item in record["files"]}
    there = set(walk(directory)) - {MANIFEST}
    for name in sorted(there - set(listed)):
        if name not in UNLISTED or (directory / name).stat().st_size > UNLISTED[name]:
            raise RegistryError(f"{directory / name} does not belong to version {record['version'][:12]}; remove it")
    for name in sorted(set(listed) - there):
        raise RegistryError(f"{directory / name} is missing; {MEND}")
    for name, item in listed.items():  # sizes first: they cost nothing
        if (directory / name).stat().st_size != item["bytes"]:
            raise RegistryError(f"{directory / name} has another size than when it was registered; {MEND}")
    read = [name for name in listed if not (quick and name.endswith(".safetensors"))]
    for item in hash_files(directory, read, threads):
        if item["sha256"] != listed[item["path"]]["sha256"]:
            raise RegistryError(f"{directory / item['path']} is not the file that was registered; {MEND}")
    # last, so that a file that changed is called that, whatever it changed into
    check_contents(directory, list(listed))
    return record


def manifest_digest(directory: Path) -> str:
    return hashlib.sha256(read_small(directory / MANIFEST, MANIFEST_BYTES)).hexdigest()


def read_small(path: Path, limit: int) -> bytes:
    """A plain file of at most `limit` bytes; RegistryError for anything else, FileNotFoundError where it is not."""
    kept = path.lstat()
    if stat.S_ISLNK(kept.st_mode):
        raise RegistryError(f"{path} is a symbolic link; a version holds plain files only, replace or remove it")
    if not stat.S_ISREG(kept.st_mode):
        raise RegistryError(f"{path} is no plain file; remove it")
    if kept.st_size > limit:
        raise RegistryError(f"{path} is oversized: {kept.st_size:,} bytes, and it has at most {limit:,}; {MEND}")
    return path.read_bytes()


def walk(directory: Path) -> list[str]:
    """Relative paths of all files below, sorted; RegistryError names a symbolic link or a thing that is no file."""

    def unreadable(error: OSError) -> NoReturn:  # os.walk would pass it over, and with it what it hides
        raise RegistryError(f"{error.filename} cannot be read ({error.strerror}); a version's folder is read whole")

    names = []
    for folder, folders, files in os.walk(directory, onerror=unreadable):
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


def hash_files(directory: Path, names: Iterable[str], threads: int | None = None) -> list[dict[str, Any]]:
    """[{"path", "sha256", "bytes"}] in the order of `names`, several files at once: hashing leaves the GIL.

    The digest of one file cannot be shared out, so that the largest file is begun first and a model in shards is as
    fast as the disk, or as the cores times what one hashes (1.3 to 2 GB/s); benchmarks/verify_speed.py measures it.
    """
    names = list(names)
    sizes = {name: (directory / name).stat().st_size for name in names}
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        begun = {
            name: pool.submit(_digest, directory / name) for name in sorted(sizes, key=sizes.__getitem__, reverse=True)
        }
        return [dict(zip(("path", "sha256", "bytes"), (name, *begun[name].result()), strict=True)) for name in names]


def default_threads() -> int:
    """Two files for each core: one waits for the disk while the other is hashed."""
    return min(32, 2 * len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 8


def _digest(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    for piece in read_pieces(path):
        digest.update(piece)
    return digest.hexdigest(), path.stat().st_size


def read_pieces(path: Path) -> Iterable[memoryview]:
    """A file's bytes in order. One buffer serves all pieces: use each before asking for the next."""
    with path.open("rb", buffering=0) as file:
        size, at, asked = os.fstat(file.fileno()).st_size, 0, 0
        buffer = memoryview(bytearray(min(BUFFER, max(size, 1))))
        advise = getattr(os, "posix_fadvise", None)
        while read := file.readinto(buffer):
            yield buffer[:read]
            at += read
            if advise and at + AHEAD // 2 >= asked and asked < size:
                advise(file.fileno(), asked, AHEAD, os.POSIX_FADV_WILLNEED)
                asked += AHEAD


MEND = (
    "with the recipe of that version in params.yaml, `dvc repro` and `dvc repro -f -s register` make its files anew; "
    "`medtune doctor` says what else is wrong, and `medtune rollback` goes back to the champion before"
)
