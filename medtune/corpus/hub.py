"""Files of the Hugging Face hub at a pinned commit, through its own client: listed, fetched, checked.

    repo = Repo("dataset", "mncai/MedGPT-5k-ko", "d379…", attempts=5)
    path = repo.fetch(file, into=Path("data/.arriving"))

Whatever goes wrong leaves as one CorpusError that says what to do. No message holds an address or a header: both may
carry a token. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are read at each call, not when the client is imported.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from medtune.params.errors import CorpusError

FIRST_PAUSE = 1.0  # seconds before the second try; doubled for each further one
LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class HubFile:
    """One file of a repository: path in it, size in bytes, git's blob id, and for a large file its sha256."""

    path: str
    size: int
    blob: str
    sha256: str | None


class _Foreign(Exception):
    """What arrived is not the file: the text says what it is. Tried again, since a proxy may recover."""


@dataclass
class Repo:
    """A dataset or a model at one commit."""

    kind: str  # "dataset" | "model"
    id: str
    revision: str
    attempts: int = 5
    say: Callable[[str], None] = field(default=print)

    def __post_init__(self) -> None:
        # its warnings quote addresses, which for large files are signed: anyone who reads the log could fetch them
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def about(self) -> tuple[list[HubFile], str | None]:
        """Every file at the commit, and the licence that the card names as the hub writes it (apache-2.0, gpl-3.0 …).

        One request, without the retries inside the client: its listing of a tree waits 23 s for each of ours.
        """

        def ask() -> tuple[list[HubFile], str | None]:
            from huggingface_hub import HfApi

            info = HfApi(endpoint=_endpoint()).repo_info(
                self.id, revision=self.revision, repo_type=self.kind, token=_token(), files_metadata=True, timeout=30
            )
            if info.sha != self.revision:
                raise CorpusError(
                    f"the hub answers commit {info.sha} of {self.id} where {self.revision} was asked; "
                    "copy a full commit from its Files and versions into the recipe"
                )
            files = [
                HubFile(file.rfilename, file.size, file.blob_id, file.lfs.sha256 if file.lfs else None)
                for file in info.siblings or []
            ]
            named = (info.card_data or {}).get("license")
            return files, ", ".join(named) if isinstance(named, list) else named

        return self._persist(ask, "what it holds")

    def commit(self) -> str:
        """The 40-hex commit that `revision`, a branch such as main, names now."""

        def ask() -> str:
            from huggingface_hub import HfApi

            api = HfApi(endpoint=_endpoint())
            return api.repo_info(self.id, revision=self.revision, repo_type=self.kind, token=_token(), timeout=30).sha

        return self._persist(ask, "its newest commit")

    def fetch(self, file: HubFile, into: Path) -> Path:
        """The file, whole and checked against the hub's size and hash, in the folder `into`.

        A download that was cut goes on where it stopped, in a later run too."""
        from huggingface_hub import hf_hub_url

        into.mkdir(parents=True, exist_ok=True)
        part = into / f"{file.blob}.part"
        url = hf_hub_url(self.id, file.path, repo_type=self.kind, revision=self.revision, endpoint=_endpoint())

        def download() -> Path:
            self._stream(url, file, part)
            wrong = _wrong(part, file)
            if wrong:
                part.unlink()
                raise _Foreign(wrong)
            return part

        return self._persist(download, file.path)

    def _stream(self, url: str, file: HubFile, part: Path) -> None:
        """Appends to `part` what is missing of the file. huggingface_hub's own download starts each process anew."""
        from huggingface_hub.file_download import get_hf_file_metadata, http_get
        from huggingface_hub.utils import build_hf_headers

        have = part.stat().st_size if part.exists() else 0
        if have > file.size:
            part.unlink()
            have = 0
        if have == file.size:
            return
        headers = build_hf_headers(token=_token())
        where = get_hf_file_metadata(url, token=_token(), endpoint=_endpoint())
        if urlsplit(urljoin(url, where.location)).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)  # a signed address on another host must not see the token
        with part.open("ab") as out:
            # no expected size: the client would refuse a page of the wrong length before anyone could see what it is
            http_get(where.location, out, resume_size=have, headers=headers, displayed_filename=file.path)
        if part.stat().st_size < file.size and not _is_page(part):
            raise _Foreign(f"{part.stat().st_size:,} of {file.size:,} bytes arrived")

    def snapshot(self, names: list[str], cache: Path | None, local: bool = False) -> Path:
        """A folder with the files `names`, in the hub's own cache (or `cache`), shared with whatever else uses it.

        With `local` nothing is fetched: FileNotFoundError where they do not all lie there."""
        from huggingface_hub import snapshot_download

        def download() -> Path:
            return Path(
                snapshot_download(
                    self.id,
                    repo_type=self.kind,
                    revision=self.revision,
                    cache_dir=cache,
                    allow_patterns=names,
                    endpoint=_endpoint(),
                    token=_token(),
                    local_files_only=local,
                )
            )

        return download() if local else self._persist(download, "its files")

    def _persist(self, work: Callable, what: str):
        """work(), again after growing pauses where another try may help; CorpusError otherwise."""
        if offline():
            raise CorpusError(
                f"{self.id} at {self.revision[:12]} is not in the cache, and HF_HUB_OFFLINE is set; "
                "unset it, or run once where the hub can be reached"
            )
        for attempt in range(1, self.attempts + 1):
            try:
                return work()
            except (_Foreign, ValueError, OSError, _http_error()) as error:
                said = self._passing(error)
            if attempt < self.attempts:
                pause = min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE)
                self.say(f"{self.id}, {what}: {said}; try {attempt + 1} of {self.attempts} in {pause:g} s")
                time.sleep(pause)
        raise CorpusError(
            f"{self.id}, {what}: {said}, {self.attempts} times; check the network"
            f"{' and HF_ENDPOINT' if os.environ.get('HF_ENDPOINT') else ''} and run again: what has arrived is kept"
        )

    def _passing(self, error: Exception) -> str:
        """What to say of an error that may pass; CorpusError for one that will not."""
        from huggingface_hub.errors import HfHubHTTPError

        if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # snapshot_download wraps what went wrong
        if isinstance(error, HfHubHTTPError):
            if (final := self._refusal(error)) is not None:
                raise CorpusError(final) from None
            return f"the hub answered {_status(error)}"
        if isinstance(error, _Foreign):
            return str(error)
        if isinstance(error, json.JSONDecodeError):
            return "a web page (HTML) came instead of data, as proxies and login pages send it"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise CorpusError(f"{self.id}: cannot write {error.filename or 'it'}: {error.strerror}") from None
        if isinstance(error, (_http_error(), ConnectionError, TimeoutError)):
            return f"no connection ({type(error).__name__})"
        if isinstance(error, OSError):
            return "fewer bytes arrived than were announced"
        raise error

    def _refusal(self, error: Exception) -> str | None:
        """The sentence for an answer that another try will not change; None for the others."""
        from huggingface_hub.errors import (
            DisabledRepoError,
            EntryNotFoundError,
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        page = f"the {self.kind}'s page on the hub"
        if isinstance(error, GatedRepoError):
            if _token():
                return f"{self.id} is gated and this token has no access; accept its licence on {page}, then run again"
            return f"{self.id} is gated; accept its licence on {page}, then set HF_TOKEN to a token that may read it"
        if isinstance(error, RevisionNotFoundError):
            return (
                f"{self.id} has no commit {self.revision}: its history was rewritten, or the revision is another "
                f"repository's; copy a commit from Files and versions on {page} into the recipe"
            )
        if isinstance(error, DisabledRepoError):
            return f"{self.id} was disabled on the hub; choose another {self.kind}"
        if isinstance(error, EntryNotFoundError):
            return f"{self.id} at {self.revision[:12]} has no such file; look at Files and versions on {page}"
        if _status(error) in (401, 403) and _token():
            return f"the hub refused HF_TOKEN for {self.id}; make a token that may read it, or unset HF_TOKEN"
        if isinstance(error, RepositoryNotFoundError) or _status(error) in (401, 403, 404):
            return (
                f"the hub knows no {self.kind} {self.id} that is open to you; check the spelling of its id, or, if it "
                "is private or gated, accept its licence on its page and set HF_TOKEN"
            )
        if _status(error) == 429 or _status(error) >= 500:
            return None
        return f"the hub refused {self.id} with status {_status(error)}; check id and revision"


def offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is switched on."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def _http_error() -> type[Exception]:
    """The root of the errors of the HTTP library that huggingface_hub was built on."""
    import httpx2

    return httpx2.HTTPError


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _token() -> str | bool:
    """HF_TOKEN, else what `hf auth login` kept; False stands for none."""
    from huggingface_hub import get_token

    return os.environ.get("HF_TOKEN") or get_token() or False


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    return response.status_code if response is not None else 0


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(256).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def _wrong(path: Path, file: HubFile) -> str | None:
    """What is wrong with an arrived file, or None. The hub lists sha256 for large files, git's sha1 for others."""
    size = path.stat().st_size
    if size == file.size:
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() == (file.sha256 or file.blob):
            return None
    if _is_page(path):
        return "a web page (HTML) came instead of data, as proxies and login pages send it"
    if size != file.size:
        return f"{size:,} bytes arrived where the hub lists {file.size:,}"
    return "its checksum differs from the hub's"
