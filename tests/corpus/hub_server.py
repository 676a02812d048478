"""A local stand-in of the Hugging Face hub's protocol, for its real client: repositories in memory, faults on demand.

Routes, as huggingface_hub 2.4 asks them:
    GET  /api/{datasets|models}/{owner}/{name}/revision/{commit}        card; files with size, blob id, LFS sha256
    GET  /api/{datasets|models}/{owner}/{name}/tree/{commit}            the files again, for snapshot_download
    HEAD /[datasets/]{owner}/{name}/resolve/{commit}/{file}             ETag, X-Repo-Commit, size
    GET  the same                                                       bytes, with Range
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html><html><body>Please sign in to the network</body></html>"


@dataclass
class Repository:
    commit: str
    files: dict[str, bytes]
    card: dict = field(default_factory=dict)
    lfs: tuple[str, ...] = ()  # files that the hub would keep as LFS, with a sha256
    gated: bool = False
    granted: str = "hf_good"  # the token whose owner accepted the terms of a gated repository


@dataclass
class Hub:
    """What the server answers from, and what it was asked."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)  # ("datasets" | "models", id)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # method, path, headers in lower case
    # faults, each for so many of the next GETs of a file
    html_instead: int = 0
    html_everywhere: bool = False
    server_errors: int = 0
    cut_after: int | None = None  # bytes, then the connection is closed, once
    short_by: int = 0  # always so many bytes too few, honestly announced
    replaced: dict[str, bytes] = field(default_factory=dict)  # served instead, under the right file's names

    def add(self, kind: str, id: str, repository: Repository) -> None:
        self.repositories[kind, id] = repository

    def gets(self, name: str) -> list[dict[str, str]]:
        return [headers for method, path, headers in self.asked if method == "GET" and path.endswith(name)]


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Tests look at hub.asked instead."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.hub.asked.append((self.command, path, headers))
        if self.hub.html_everywhere:
            return self.send(200, PAGE, {"Content-Type": "text/html"})
        api = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not api and not file:
            return self.refuse(404, "RepoNotFound", "no such route")
        kind = api[1] if api else "datasets" if file[1] else "models"
        repository = self.hub.repositories.get((kind, (api or file)[2]))
        if repository is None:  # the hub tells strangers 401 for what does not exist
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        if headers.get("authorization", "").startswith("Bearer hf_wrong"):
            return self.refuse(401, None, "Invalid credentials in Authorization header")
        if file and repository.gated and headers.get("authorization") != f"Bearer {repository.granted}":
            status = 403 if "authorization" in headers else 401  # what the repository holds is told to everybody
            return self.refuse(status, "GatedRepo", "Access to this repository is restricted.")
        if (api[4] if api else file[3]) != repository.commit:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if api:
            return self.answer_api(api[3], api[2], repository)
        return self.answer_file(file[4], repository, headers)

    def answer_api(self, what: str, id: str, repository: Repository) -> None:
        tree, siblings = [], []
        for name, content in repository.files.items():
            size, oid = len(content), blob_id(content)
            tree.append({"type": "file", "path": name, "size": size, "oid": oid})
            siblings.append({"rfilename": name, "size": size, "blobId": oid})
            if name in repository.lfs:
                sha256 = hashlib.sha256(content).hexdigest()
                tree[-1]["lfs"] = {"oid": sha256, "size": size, "pointerSize": 130}
                siblings[-1]["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 130}
        if what == "tree":
            return self.send_json(tree)
        return self.send_json(
            {"id": id, "sha": repository.commit, "cardData": repository.card, "siblings": siblings, "tags": []}
        )

    def answer_file(self, name: str, repository: Repository, headers: dict[str, str]) -> None:
        if name not in repository.files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = repository.files[name]
        etag = hashlib.sha256(content).hexdigest() if name in repository.lfs else blob_id(content)
        about = {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            return self.send(200, content, about)
        if self.hub.server_errors:
            self.hub.server_errors -= 1
            return self.send(503, b"", {})
        if self.hub.html_instead:
            self.hub.html_instead -= 1
            return self.send(200, PAGE, {"Content-Type": "text/html"})
        if self.hub.short_by:
            return self.send(200, content[: -self.hub.short_by], about)
        content = self.hub.replaced.get(name, content)
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", headers.get("range", "")):
            start = int(asked[1])
            about["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.hub.cut_after is not None:
            cut, self.hub.cut_after = self.hub.cut_after, None
            return self.send(206 if start else 200, content[start:], about, only=cut)
        return self.send(206 if start else 200, content[start:], about)

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str | None, message: str) -> None:
        self.send(status, b"", {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}))

    def send(self, status: int, body: bytes, headers: dict[str, str], only: int | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if only is None else body[:only])
        if only is not None:
            self.close_connection = True


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of this machine, for as long as the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
