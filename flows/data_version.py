"""Data versions: what download made, by DVC's own hash, so that any run can be replayed with the rows of then.

    python -m flows.pipeline --data-version 3f2a9c01      # the rows of that version through today's recipe and code

DVC keeps the bytes of data/raw; what dvc.lock said of the stage then is one line of data/versions.jsonl, for git. To
replay, that entry goes back into dvc.lock, DVC checks the files out of its cache (or fetches them from the remote), and
every stage after download runs as ever. The next ordinary run sees that the entry is not of today's sources, and
download brings the newest rows again.

A row that was retracted since stays out: validate reads data/retracted.jsonl as it is now.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from flows.graph import DVC
from medtune.params.errors import UserError
from medtune.tracking.secrets import redact

JOURNAL = Path("data/versions.jsonl")
LOCK = Path("dvc.lock")
RAW = "data/raw"
INCOMING = Path("data/incoming")
POINTER = Path("data/incoming.dvc")
STAGE = "download"
SHORTEST = 6  # hex digits that name a version


@dataclass(frozen=True)
class DataVersion:
    """version: DVC's md5 of the rows as they came (32 hex); data: what the retrain claimed, where one asked for it."""

    version: str
    at: str
    rows: int | None
    files: list[str]
    data: str | None
    download: dict[str, Any]

    @property
    def sentence(self) -> str:
        rows = f"{self.rows:,} rows" if self.rows is not None else "rows not counted"
        return f"{self.version[:12]}  {self.at[:19]}Z  {rows} of {len(self.files)} file(s)"


def read_versions(root: Path) -> list[DataVersion]:
    """Every data version that a run used, oldest first. UserError names the line that is none."""
    path = root / JOURNAL
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            item = json.loads(line)
            found.append(DataVersion(**{name: item[name] for name in DataVersion.__dataclass_fields__}))
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{JOURNAL}, line {number}: {line[:60]!r} is no data version (an unfinished merge?); keep the "
                "lines of both sides, each once"
            ) from None
    return found


def find_version(root: Path, text: str) -> DataVersion:
    """A version by the first digits of its hash, or of what the retrain claimed."""
    known = read_versions(root)
    wanted = text.strip().lower().removesuffix(".dir")
    if len(wanted) < SHORTEST or not all(sign in "0123456789abcdef" for sign in wanted):
        raise UserError(f"{text!r} is no data version: give at least {SHORTEST} hex digits of one in {JOURNAL}")
    matching = {
        item.version: item for item in known if item.version.startswith(wanted) or (item.data or "").startswith(wanted)
    }
    if len(matching) == 1:
        return next(iter(matching.values()))
    if matching:
        raise UserError(f"{text} begins {len(matching)} data versions ({', '.join(matching)}); give more digits")
    listed = "".join(f"\n  {item.sentence}" for item in known[-8:]) or " it is empty: run the pipeline once"
    raise UserError(f"there is no data version {text} in {JOURNAL}:{listed}")


def record_version(root: Path, data: str | None = None) -> DataVersion | None:
    """Append what download made last, unless the newest line says the same; None where download never ran."""
    entry = _stages(root).get(STAGE)
    if not entry or not entry.get("outs"):
        return None
    version = _hash_of(entry)
    known = read_versions(root)
    for item in reversed(known):
        if item.version == version and (data is None or item.data == data) and item.download == entry:
            return item
    dataset = _dataset(root)
    made = DataVersion(
        version=version,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=dataset.get("rows"),
        files=[file["name"] for file in dataset.get("files", [])],
        data=data,
        download=entry,
    )
    # the same rows again, by other code or claimed anew: the newest line speaks for the version
    lines = [vars(item) for item in known if item.version != version] + [vars(made)]
    path = root / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return made


def restore_version(root: Path, version: DataVersion, say: Callable[[str], None]) -> None:
    """data/raw and data/base.json as they were. UserError where DVC has their bytes neither here nor in the remote."""
    lock = _lock(root)
    lock.setdefault("stages", {})[STAGE] = version.download
    before = (root / LOCK).read_bytes() if (root / LOCK).exists() else None
    _write_lock(root, lock)
    try:
        if _dvc(root, "checkout", "--force", STAGE):
            say(f"data version {version.version[:12]} is not whole in DVC's cache; asking the remote")
            if problem := _dvc(root, "fetch", STAGE) or _dvc(root, "checkout", "--force", STAGE):
                raise UserError(
                    f"data version {version.version[:12]} can be had neither from DVC's cache nor from its remote "
                    f"({problem}); `dvc push` on the machine that made it brings it to the remote"
                )
    except BaseException:
        _put_back(root, before)  # else the next run would take the entry for what lies in data/raw
        raise
    say(f"the rows are those of data version {version.sentence}")


def check_incoming(root: Path, say: Callable[[str], None]) -> None:
    """Hold that every file of rows which data/incoming.dvc names is there: what is missing would leave the next data
    version, and nobody would hear of it. Reads two files where nothing is wrong, and starts no DVC.

    A clone without `dvc pull` gets them, from DVC's cache or its remote; nothing that lies there is touched. A file in
    data/set_aside is not missed. UserError, with the mend, where they cannot be had, or somebody took some away.
    """
    entry = _pointer(root)
    if entry is None:
        return
    folder, cache, digest = root / INCOMING, _cache(root), str(entry["md5"])
    listed, fetched = _listing(cache, digest), False
    if listed is None and _digest(folder) == digest:
        return  # all there; only DVC's cache was emptied, and the next `dvc add` fills it
    empty = not any(folder.glob("*.jsonl"))
    missing = _missing(root, listed)
    if listed is None or (missing and empty and not all(_object(cache, listed[name]).is_file() for name in missing)):
        fetched = _fetch(root, say)
        listed = _listing(cache, digest)
        missing = _missing(root, listed)
    if listed is not None and not missing:
        return
    if listed is not None and (empty or fetched) and all(_object(cache, listed[name]).is_file() for name in missing):
        for name in missing:
            _bring(_object(cache, listed[name]), folder / name)
        say(f"{POINTER} names {len(missing)} file(s) that {INCOMING} did not have: brought from DVC")
        return
    mend = f"`dvc pull {POINTER}` brings them; if they are meant to be gone, `dvc add {INCOMING}`"
    if listed is None:
        raise UserError(
            f"{INCOMING} lacks some of the {entry.get('nfiles', '?')} files that {POINTER} names (which, DVC's cache "
            f"does not know): {mend}"
        )
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    raise UserError(
        f"{INCOMING} lacks {len(missing)} file(s) that {POINTER} names ({', '.join(missing[:3])}{more}): {mend}"
    )


def _pointer(root: Path) -> dict[str, Any] | None:
    """The out of data/incoming.dvc, None where there is no such file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        told = YAML(typ="safe", pure=True).load((root / POINTER).read_text(encoding="utf-8"))
        entry = told["outs"][0]
        return {**entry, "md5": str(entry["md5"])}
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, YAMLError, KeyError, IndexError, TypeError):
        raise UserError(
            f"{POINTER} cannot be read (an unfinished merge?): `git checkout {POINTER}` for one side's, `dvc pull "
            f"{POINTER}` for its rows, then `dvc add {INCOMING}` with all of them"
        ) from None


def _cache(root: Path) -> Path:
    from dvc.config import Config, ConfigError

    try:
        return Path(Config(dvc_dir=str(root / ".dvc"))["cache"].get("dir") or root / ".dvc/cache")
    except ConfigError as error:
        raise UserError(f"DVC's configuration cannot be read: {redact(error)}") from None


def _object(cache: Path, digest: str) -> Path:
    return cache / "files/md5" / digest[:2] / digest[2:]


def _listing(cache: Path, digest: str) -> dict[str, str] | None:
    """Name -> md5 of the files of rows in a folder; None where DVC's cache does not have the list."""
    try:
        told = json.loads(_object(cache, digest).read_bytes())
        return {item["relpath"]: item["md5"] for item in told if item["relpath"].endswith(".jsonl")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _missing(root: Path, listed: dict[str, str] | None) -> list[str]:
    from medtune.corpus.newcomers import SET_ASIDE, show

    aside = {path.name for path in (root / SET_ASIDE).glob("*")}

    def excused(name: str) -> bool:
        own = Path(show(Path(name).name))  # a second one of its name lies there as NAME-2.jsonl
        again = re.compile(re.escape(own.stem) + r"-\d+" + re.escape(own.suffix))
        return own.name in aside or any(again.fullmatch(other) for other in aside)

    return sorted(n for n in listed or () if not os.path.lexists(root / INCOMING / n) and not excused(n))


def _digest(folder: Path) -> str:
    """DVC's hash of a folder as it lies there."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        files.append({"md5": md5, "relpath": path.relative_to(folder).as_posix()})
    files.sort(key=lambda item: item["relpath"])
    return hashlib.md5(json.dumps(files, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _fetch(root: Path, say: Callable[[str], None]) -> bool:
    """Ask the remote, where one is set, for what data/incoming.dvc names."""
    from flows.remote import default_remote

    address = default_remote(root)
    if address is None:
        return False
    say(f"asking {address} for the files that {POINTER} names")
    name = os.environ.get("MEDTUNE_DVC_REMOTE")
    if problem := _dvc(root, "fetch", *(("--remote", name) if name else ()), POINTER.as_posix()):
        say(f"{address} did not give them: {redact(problem)}")
        return False
    return True


def _bring(source: Path, path: Path) -> None:
    """A copy: the object in the cache is DVC's alone until the next `dvc add`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(path)


def track_incoming(root: Path, changed: set[str], say: Callable[[str], None]) -> None:
    """Hand data/incoming to DVC, so that what came in is in its cache and a clone can pull it."""
    folder = root / "data/incoming"
    known = (root / "data/incoming.dvc").exists()
    if not folder.is_dir() or (known and "data/incoming.dvc" not in changed):
        return
    if not known and not any(folder.glob("*.jsonl")):
        return
    if problem := _dvc(root, "add", "--quiet", "data/incoming"):
        say(f"data/incoming could not be handed to DVC, and stays as it is ({problem})")


def _dvc(root: Path, *arguments: str) -> str:
    """ "" where it went well, else DVC's words."""
    done = subprocess.run([*DVC, *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return "; ".join(said) or f"`dvc {arguments[0]}` ended with status {done.returncode}"


def _hash_of(entry: dict[str, Any]) -> str:
    outs = {out["path"]: out["md5"] for out in entry["outs"]}
    return str(outs.get(RAW) or next(iter(outs.values()))).removesuffix(".dir")


def _stages(root: Path) -> dict[str, Any]:
    return _lock(root).get("stages") or {}


def _lock(root: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = root / LOCK
    if not path.exists():
        return {"schema": "2.0"}
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {"schema": "2.0"}
    except YAMLError as error:
        raise UserError(f"{LOCK} cannot be read ({str(error).splitlines()[0]}): `medtune doctor` says more") from None


def _write_lock(root: Path, lock: dict[str, Any]) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    text = StringIO()
    yaml.dump(lock, text)
    _put_back(root, text.getvalue().encode())


def _put_back(root: Path, content: bytes | None) -> None:
    """dvc.lock whole or not at all; None: there was none."""
    if content is None:
        (root / LOCK).unlink(missing_ok=True)
        return
    temporary = root / f".{LOCK.name}.tmp"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(root / LOCK)


def _dataset(root: Path) -> dict[str, Any]:
    try:
        return json.loads((root / RAW / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
