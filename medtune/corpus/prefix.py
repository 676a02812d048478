"""Rows that arrive in a folder somewhere else (s3://…, or whatever fsspec knows): new objects come to data/incoming.

    names = fetch_prefix(root, "s3://hospital/medtune/rows")

An object becomes data/incoming/<folders-and-name>--<first 8 hex of its sha256>.jsonl: under the same content no second
file is ever made, whatever its key. Nothing is removed here when an object goes; one that was replaced comes as another
file. What was fetched stands in mlruns/prefix.json; losing it costs one more download. Keys and endpoint come from the
environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL …); no message holds any of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from medtune.corpus.newcomers import SET_ASIDE
from medtune.corpus.readers import is_unfinished
from medtune.corpus.records import write_text
from medtune.corpus.sources import ARRIVING, INCOMING, file_sha256
from medtune.params.errors import CorpusError

STATE = Path("mlruns/prefix.json")
# A dead endpoint answers within CONNECT or READ times TRIES. s3fs would try five times around these.
CONNECT_SECONDS, READ_SECONDS, TRIES = 4, 8, 2
MOUNT_QUIET_SECONDS = 20.0  # a store's objects appear whole; a file of a mounted folder may be being written
INSTALL = {"s3": "medtune[server]", "s3a": "medtune[server]", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}


class _Unreachable(CorpusError):
    """The store does not answer, or knows us not: no object of it can be read."""


class Thing(NamedTuple):
    """An object at the prefix. stamp: what changes when its content does."""

    path: str
    key: str  # below the prefix
    size: int
    stamp: list


def fetch_prefix(root: Path, url: str, say: Callable[[str], None] = print) -> list[str]:
    """Copies what is new under `url` to data/incoming; the names of the files that arrived, sorted by their keys.

    CorpusError, one sentence, where the prefix cannot be listed or read at all. A single object that changed while it
    was read, or went away, is said and left for the next call. What had arrived before an error stays."""
    place = _Place.of(root, url)
    with _alone(root) as alone:
        if not alone:
            say(f"{place.shown} is being fetched by another process; nothing to do here")
            return []
        state = _State(root, place.shown)
        names: list[str] = []
        refused: list[CorpusError] = []
        try:
            things = place.list(state)
            for thing in things:
                try:
                    name = _fetch(root, place, thing, state, say)
                except _Unreachable:
                    raise
                except CorpusError as error:  # one that may not be read stands in no other's way
                    refused.append(error)
                else:
                    names += [name] if name else []
        finally:
            state.save()
        if refused and len(refused) == len(things):
            raise refused[0]
        for error in refused:
            say(str(error))
        return names


class _Place:
    """The prefix: its file system, its path there, and how it is called in sentences."""

    def __init__(self, fs: Any, protocol: str, folder: str, shown: str) -> None:
        self.fs, self.protocol, self.folder, self.shown = fs, protocol, folder.rstrip("/"), shown
        self.mounted = protocol in ("file", "local")

    @classmethod
    def of(cls, root: Path, url: str) -> _Place:
        protocol, _, rest = url.partition("://")
        shown = f"{protocol}://{rest.partition('?')[0].rpartition('@')[2]}".rstrip("/")  # no password, no signature
        try:
            import fsspec

            kind = fsspec.get_filesystem_class(protocol)
        except ImportError:
            package = INSTALL.get(protocol, "fsspec")
            raise CorpusError(f"{shown} needs a library that is not installed: pip install '{package}'") from None
        except ValueError:
            raise CorpusError(
                f"retrain.prefix {shown}: fsspec knows no {protocol!r}; write s3://bucket/folder or file:///folder"
            ) from None
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}  # the keys may be new
        if protocol in ("s3", "s3a"):
            limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
            options["config_kwargs"] = limits | {"retries": {"total_max_attempts": TRIES}}
        with _told(shown):
            fs = kind(**options)
            if protocol in ("s3", "s3a"):
                fs.retries = 1
            place = cls(fs, protocol, kind._strip_protocol(url), shown)
        if place.mounted and Path(place.folder).resolve().is_relative_to((root / "data").resolve()):
            raise CorpusError(f"retrain.prefix {shown} lies in this checkout's data/, which it feeds; name another")
        return place

    def list(self, state: _State) -> list[Thing]:
        """The *.jsonl below the prefix that have not been fetched as they are now, by key."""
        with _told(self.shown):
            if self.mounted and not self.fs.isdir(self.folder):
                raise CorpusError(
                    f"{self.shown} does not exist; make the folder or mount it, or set retrain.prefix to another"
                )
            found = self.fs.find(self.folder, detail=True)
        things = []
        for path, info in sorted(found.items()):
            key = path[len(self.folder) :].lstrip("/") or path.rpartition("/")[2]  # the prefix itself is an object
            relative = Path(key)
            if info.get("type") != "file" or relative.suffix.lower() != ".jsonl" or is_unfinished(relative):
                continue
            thing = Thing(path, key, int(info.get("size") or 0), _stamp(info))
            if thing.size and state.wants(thing, self._settled(info)):
                things.append(thing)
        return things

    def again(self, thing: Thing) -> list | None:
        """The object's stamp now; None where it is gone."""
        try:
            return _stamp(self.fs.info(thing.path))
        except FileNotFoundError:
            return None

    def _settled(self, info: dict) -> bool:
        if not self.mounted:
            return True
        return time.time() - max(float(info.get("mtime") or 0), float(info.get("created") or 0)) >= MOUNT_QUIET_SECONDS


class _State:
    """mlruns/prefix.json: by prefix and key what was fetched and into which file. A key whose name is null was seen
    once, of a mounted folder, and not yet fetched."""

    def __init__(self, root: Path, shown: str) -> None:
        self.path = root / STATE
        self.whole: dict[str, dict] = {}
        try:
            record = json.loads(self.path.read_bytes())
            if all(isinstance(e["stamp"], list) for kept in record.values() for e in kept.values()):
                self.whole = record
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # lost: everything is fetched once more, and found to be there
        self.kept: dict[str, dict] = self.whole.setdefault(shown, {})
        self._before = json.dumps(self.whole)

    def wants(self, thing: Thing, settled: bool) -> bool:
        """Whether to fetch it now. Of a mounted folder's file that is young, only if the last call saw it so too."""
        entry = self.kept.get(thing.key)
        same = entry is not None and entry["stamp"] == thing.stamp
        if same and entry["name"]:
            return False
        if not settled and not same:
            self.kept[thing.key] = {"stamp": thing.stamp, "name": None}
            return False
        return True

    def fetched(self, thing: Thing, name: str, sha256: str) -> None:
        self.kept[thing.key] = {"stamp": thing.stamp, "name": name, "sha256": sha256}

    def save(self) -> None:
        text = json.dumps(self.whole, indent=1)
        if json.dumps(self.whole) != self._before:
            write_text(self.path, text + "\n")


def _fetch(root: Path, place: _Place, thing: Thing, state: _State, say: Callable[[str], None]) -> str | None:
    """The name under which the object arrived; None where its content was there, or it is not still."""
    shown = f"{place.shown}/{thing.key}"
    part = root / ARRIVING / f"prefix-{hashlib.sha256(thing.path.encode()).hexdigest()[:16]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _told(shown, local=part):
            now = place.again(thing)
            if now is not None:
                place.fs.get_file(thing.path, str(part))
                now = place.again(thing)
    except FileNotFoundError:
        now = None
    if now is None:
        part.unlink(missing_ok=True)
        say(f"{shown} was removed before it could be read")
        return None
    if now != thing.stamp or part.stat().st_size != thing.size:
        part.unlink()
        say(f"{shown} was replaced while it was read; it is left for the next look")
        return None
    sha256 = file_sha256(part)
    there = _there(root, sha256)
    if there is not None:
        part.unlink()
        state.fetched(thing, there, sha256)
        return None
    name = _name(thing.key, sha256[:8])
    if any(os.path.lexists(root / folder / name) for folder in (INCOMING, SET_ASIDE)):  # 8 digits, and not 64, agree
        name = _name(thing.key, sha256)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    (root / INCOMING).mkdir(parents=True, exist_ok=True)
    part.replace(root / INCOMING / name)
    state.fetched(thing, name, sha256)
    say(f"{shown} → {INCOMING / name} ({thing.size:,} bytes)")
    return name


def _there(root: Path, sha256: str) -> str | None:
    """The file of data/incoming or data/set_aside that was fetched with this content, under whatever key."""
    for folder in (INCOMING, SET_ASIDE):
        for path in sorted((root / folder).glob(f"*--{sha256[:8]}*.jsonl")):
            if path.is_file() and file_sha256(path) == sha256:
                return path.name
    return None


def _name(key: str, digest: str) -> str:
    """2026/01/rows.jsonl → 2026-01-rows--1f3a….jsonl: letters of any script, digits, . _ -; under 255 bytes."""
    stem = unicodedata.normalize("NFC", key)[: -len(".jsonl")]
    stem = re.sub(r"[^\w.]+", "-", stem).strip("-.") or "rows"
    stem = stem.encode("utf-8", "replace")[-160:].decode("utf-8", "ignore").strip("-.")  # the end says more
    return f"{stem}--{digest}.jsonl"


def _stamp(info: dict) -> list:
    """Size and etag, or where there is none size and times, as JSON gives them back."""
    size, etag = int(info.get("size") or 0), info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if etag:
        return [size, etag]  # without the time: some stores list it to the millisecond and tell it to the second
    changed = info.get("mtime") or info.get("LastModified") or info.get("updated") or info.get("created")
    inner = [info["created"], info["ino"]] if "ino" in info else []
    seconds = changed.timestamp() if hasattr(changed, "timestamp") else changed
    return [size, seconds if isinstance(seconds, int | float) else str(seconds), *inner]


@contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Whether no other process fetches for this checkout; the kernel lets go when this one dies."""
    path = root / STATE.with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


@contextmanager
def _told(shown: str, local: Path | None = None) -> Iterator[None]:
    """Whatever fsspec, s3fs and botocore raise, as a sentence. Their own words are left out: they quote addresses and
    keys. A FileNotFoundError of a single object (`local`: where it is written) goes through."""
    try:
        yield
    except CorpusError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and local is not None and _code(error) != "NoSuchBucket":
            raise
        raise _error(error, shown, local) from None


def _code(error: BaseException) -> str:
    """The store's own name for what went wrong, such as AccessDenied; "" where there is none."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return re.sub(r"\W", "", str(response.get("Error", {}).get("Code", "")))[:60]
    return ""


def _error(error: Exception, shown: str, local: Path | None) -> CorpusError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    code = _code(error)
    keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    where = " and AWS_ENDPOINT_URL" if os.environ.get("AWS_ENDPOINT_URL") else ""
    if kinds & {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}:
        return _Unreachable(f"{shown}: no credentials; set {keys}, or mount a ~/.aws that has them into the container")
    if "ProfileNotFound" in kinds:
        return _Unreachable(
            f"{shown}: ~/.aws has no profile of the name in AWS_PROFILE; correct it, or mount its ~/.aws"
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "InvalidClientTokenId"):
        return _Unreachable(f"{shown}: the store refused the credentials ({code}); correct {keys}")
    if local is not None and isinstance(error, OSError) and str(local) in str(error.filename):
        return _Unreachable(f"{shown} cannot be written to {ARRIVING} ({error.strerror}); make room there, or allow it")
    if isinstance(error, PermissionError) or code in ("AccessDenied", "403", "Forbidden"):
        return CorpusError(
            f"{shown}: access denied; whoever runs this must be allowed to list the folder and to read it (on S3 "
            "s3:ListBucket and s3:GetObject)"
        )
    if code in ("NoSuchBucket", "404") or isinstance(error, FileNotFoundError):
        bucket = shown.partition("://")[2].partition("/")[0]
        return CorpusError(f"{shown}: there is no bucket {bucket} at this endpoint; correct retrain.prefix{where}")
    if isinstance(error, ValueError) and "endpoint" in str(error).lower():
        return _Unreachable(f"{shown}: AWS_ENDPOINT_URL is no address; write it as https://host or http://host:port")
    if "ParamValidationError" in kinds or isinstance(error, ValueError):
        return CorpusError(
            f"{shown} is no address of a bucket and a folder; write retrain.prefix as s3://bucket/folder"
        )
    if kinds & {"HTTPClientError", "EndpointConnectionError", "ClientConnectorError"} or isinstance(
        error, ConnectionError | TimeoutError
    ):
        return _Unreachable(
            f"{shown}: the store does not answer ({type(error).__name__}); check the network{where}; it is asked again "
            "at the next look"
        )
    return CorpusError(f"{shown} cannot be read ({code or type(error).__name__}); check retrain.prefix{where}")
