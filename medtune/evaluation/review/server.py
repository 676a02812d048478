"""The review page's server: question, answers A and B, votes. What a browser gets never says which model wrote what.

Meant for loopback (reviewers elsewhere come through `ssh -L 8390:127.0.0.1:8390`): there is no password, a reviewer
types a name. Against other pages in the same browser: the Host header must be loopback or a bare address (DNS
rebinding needs a name), requests from other origins are refused, and every request needs the page's token.
"""

import datetime
import ipaddress
import json
import secrets
import socket
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from medtune.evaluation.review.log import VoteLog, as_row, clean_name, parse_vote
from medtune.evaluation.review.pairs import DEFAULT_SETS, Pairs, arrange, read_pairs, text_id
from medtune.params.errors import EvaluationError

VOTES = Path("data/review/votes.jsonl")
PORT = 8390
MAX_BODY = 64 * 1024
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
FILES = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}


def serve(
    root: Path,
    votes: Path = VOTES,
    sets: Sequence[str] = DEFAULT_SETS,
    against: str | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM. port 0 takes a free one; the address is printed once it answers.

    EvaluationError where there is nothing to review, the votes file is broken or in use, or the port is taken.
    """
    import uvicorn

    pairs = read_pairs(root, sets, against)
    log = VoteLog(root / votes)
    try:
        listening = _listen(host, port)
    except OSError as error:
        log.close()
        raise EvaluationError(
            f"port {port} of {host} cannot be served ({error.strerror}); end what holds it, or give another --port"
        ) from None
    if log.repaired:
        print(f"{votes}: the last line was torn by a kill; its {len(log.repaired)} bytes are kept in {votes}.torn")
    if not _is_loopback(host):
        print(
            f"warning: {host} is reachable from other machines, and the page has no password; "
            "loopback with `ssh -L` is safer",
            file=sys.stderr,
        )
    left_out = ", ".join(f"{count} {why}" for why, count in pairs.left_out.items() if count)
    print(
        f"{len(pairs.items)} pairs of answers of {', '.join(pairs.sets)}{f'; left out: {left_out}' if left_out else ''}"
    )
    shown = f"[{host}]" if ":" in host else host
    print(f"review page  http://{shown}:{listening.getsockname()[1]}/   votes: {votes}   Ctrl-C ends it", flush=True)
    config = uvicorn.Config(
        make_app(pairs, log, host),
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=5,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        print()  # Ctrl-C is how it is meant to end; every vote that was answered is on the disk
    finally:
        log.close()
    print(f"ended; `medtune review import {votes}` makes reports/review.json of the votes")


def make_app(pairs: Pairs, log: VoteLog, host: str = "127.0.0.1", token: str | None = None) -> Any:
    """The ASGI application. Endpoints: /, /page.css, /page.js, /api/token, /api/items?reviewer=, /api/vote."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    token = token or secrets.token_urlsafe(32)
    page = {name: _file(name) for name in ("page.html", *(path[1:] for path in FILES))}

    def index(request: Request) -> Response:
        return Response(page["page.html"].replace("{{token}}", token), media_type="text/html; charset=utf-8")

    def file(request: Request) -> Response:
        return Response(page[request.url.path[1:]], media_type=FILES[request.url.path])

    def new_token(request: Request) -> Response:
        """A page that outlived a restart of the server asks here. Other origins cannot read the answer."""
        return JSONResponse({"token": token})

    def items(request: Request) -> Response:
        if not _same(request.headers.get("x-review-token"), token):
            return _refuse(403, "token")
        try:
            reviewer = clean_name(request.query_params.get("reviewer"))
        except ValueError as error:
            return _refuse(422, "reviewer", str(error))
        mine = log.of(reviewer)
        told = []
        for shown in arrange(pairs.items, reviewer):
            a, b = shown.answers
            vote = mine.get(shown.item.id)
            row = {"id": shown.item.id, "question": shown.item.question, "a": a, "b": b, "a_id": text_id(a)}
            if vote is not None:
                # an earlier vote may have been given with the sides the other way round
                row["vote"] = as_row(vote) if vote.a == text_id(a) else _turned(as_row(vote))
            told.append(row)
        return JSONResponse({"reviewer": reviewer, "items": told})

    async def vote(request: Request) -> Response:
        if request.headers.get("origin") != f"{request.url.scheme}://{request.headers['host']}":
            return _refuse(403, "origin")
        if not _same(request.headers.get("x-review-token"), token):
            return _refuse(403, "token")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return _refuse(413, "size")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        try:
            given = parse_vote(json.loads(body), at=now)
        except (ValueError, RecursionError) as error:
            return _refuse(422, "vote", str(error))
        item = pairs.items.get(given.item)
        if item is None or given.a not in item.text_ids():
            return _refuse(409, "item", "these answers are not the ones that are reviewed now")
        try:
            await run_in_threadpool(log.append, given)
        except OSError as error:
            print(f"a vote could not be written to {log.path}: {error}", file=sys.stderr, flush=True)
            return _refuse(507, "disk")
        return JSONResponse({"saved": given.key})

    routes = [
        Route("/", index),
        *(Route(path, file) for path in FILES),
        Route("/api/token", new_token),
        Route("/api/items", items),
        Route("/api/vote", vote, methods=["POST"]),
    ]
    return _Guard(Starlette(routes=routes), host)


class _Guard:
    """Refuses foreign hosts and sites before anything else, and puts the security headers on every answer."""

    def __init__(self, app: Any, host: str) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *(pair for pair in message["headers"] if pair[0].decode().lower() not in HEADERS),
                    *((key.encode(), value.encode()) for key, value in HEADERS.items()),
                ]
            await send(message)

        app = self.app
        if not host_allowed(headers.get("host", ""), self.host):
            app = _refuse(421, "host", "this page answers to 127.0.0.1, localhost or a bare address only")
        elif scope["path"].startswith("/api/") and headers.get("sec-fetch-site", "same-origin") != "same-origin":
            app = _refuse(403, "site")
        await app(scope, receive, with_headers)


def host_allowed(header: str, served: str) -> bool:
    """Whether a Host header can be meant for this server: loopback, or where more was served the address itself."""
    name = header.rsplit(":", 1)[0] if header.rsplit(":", 1)[-1].isdigit() else header
    name = name.removeprefix("[").removesuffix("]").lower()
    if name == "localhost" or _is_loopback(name):
        return True
    if _is_loopback(served):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == served.lower()
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """Bound before uvicorn starts, so that a port of 0 is known and the address is printed when it answers."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening


def _file(name: str) -> str:
    return resources.files("medtune.evaluation.review").joinpath("page", name).read_text(encoding="utf-8")


def _same(given: str | None, token: str) -> bool:
    return secrets.compare_digest((given or "").encode(), token.encode())


def _refuse(status: int, code: str, why: str = "") -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": code, "why": why}, status_code=status)


def _turned(row: dict[str, Any]) -> dict[str, Any]:
    other = {"a": "b", "b": "a"}
    return row | {
        "choice": other.get(row["choice"], row["choice"]),
        "harmful": sorted(other[side] for side in row["harmful"]),
    }
