"""Where each target points, and whether it answers: `medtune targets`.

    for line in look_at(root, read_target(root, "prod")): print(line.what, line.where, line.answer)

Each place is asked once, in a thread of its own, and has SECONDS for its answer: resolving a name or a proxy that drops
packets has no limit of its own. Nothing is set in this process's environment, so that one target is not asked with
another one's password, and no secret is in what is returned.
"""

import base64
import configparser
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medtune.params.errors import UserError
from medtune.tracking.secrets import redact
from medtune.tracking.store import HOME, SQLITE
from medtune.tracking.target_file import SUFFIX, Target
from medtune.tracking.targets import read_secret

SECONDS = 5.0
UNSET = "not configured"


@dataclass(frozen=True)
class Line:
    """what: tracking, ledger, remote, prefect or notify; well: whether it answers, None where nothing was asked."""

    what: str
    where: str
    answer: str
    well: bool | None = None

    def record(self) -> dict[str, str | bool | None]:
        return vars(self)


def look_at(root: Path, target: Target, seconds: float = SECONDS) -> list[Line]:
    """All places of a target, asked at the same time."""
    uri = target.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{(root / HOME / 'mlflow.db').resolve()}"
    ledger = target.get("MEDTUNE_LEDGER_URI") or ("" if uri.startswith("http") else uri)
    remote, api = target.get("MEDTUNE_DVC_REMOTE"), target.get("PREFECT_API_URL")
    places: list[tuple[str, str, Callable[[], str] | None]] = [
        ("tracking", _shown(root, uri), lambda: _tracking(target, uri)),
        ("ledger", _shown(root, ledger) or "MEDTUNE_LEDGER_URI is missing", lambda: _ledger(target, ledger)),
        ("remote", _remote_place(root, remote), (lambda: _remote(root, target, str(remote))) if remote else None),
        ("prefect", api or "a server for each run", (lambda: _prefect(target, str(api))) if api else None),
        ("notify", target.get("MEDTUNE_NOTIFY") or "nobody", None),
    ]
    if (template := target.template()) is not None:
        return [Line(what, where, "to be filled in", False if ask else None) for what, where, ask in places] + [
            Line("file", str(target.path), template, False)
        ]
    answers: dict[str, tuple[str, bool]] = {}
    threads = [threading.Thread(target=_ask, args=(ask, what, answers), daemon=True) for what, _, ask in places if ask]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = (f"no answer within {seconds:g} s", False)
    return [
        Line(what, where, *(answers.get(what, late) if ask else ("" if what == "notify" else UNSET, None)))
        for what, where, ask in places
    ]


def _ask(ask: Callable[[], str], what: str, answers: dict[str, tuple[str, bool]]) -> None:
    try:
        answers[what] = ask(), True
    except UserError as error:
        answers[what] = redact(error), False
    except Exception as error:  # every driver has its own: the class is enough, its words may quote an address
        answers[what] = f"does not answer ({type(error).__name__})", False


def _shown(root: Path, uri: str) -> str:
    """Without a password, and a database of this checkout by its path in it."""
    return redact(uri.replace(f"{SQLITE}{root.resolve()}/", SQLITE))


def _secret(target: Target, name: str) -> str:
    key = name + SUFFIX
    path = target.get(key)
    return read_secret(Path(path), target.place(key), lambda _: None) if path else ""


def _get(url: str, user: str = "", password: str = "", token: str = "") -> int:
    """The status of a GET; a redirect is one too, so that no password travels to where it leads."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    request = urllib.request.Request(url)
    if user:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {pair}")
    elif token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def _said(status: int, user: str) -> str:
    if status in (401, 403):
        raise UserError(f"answers, and does not let {user or 'us'} in ({status})")
    if status != 200:
        raise UserError(f"answers {status}: is the address right?")
    return "answers"


def _tracking(target: Target, uri: str) -> str:
    if uri.startswith(("http:", "https:")):
        user = target.get("MLFLOW_TRACKING_USERNAME") or ""
        url = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"
        password, token = (_secret(target, f"MLFLOW_TRACKING_{name}") for name in ("PASSWORD", "TOKEN"))
        return _said(_get(url, user, password, token), user)
    return _database(target, uri)


def _ledger(target: Target, uri: str) -> str:
    if not uri:
        raise UserError("tracking over HTTP takes no ledger: set MEDTUNE_LEDGER_URI to a database")
    return _database(target, uri)


def _database(target: Target, uri: str) -> str:
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE))
        if not path.exists():
            return "not made yet: the first run makes it"
        # for reading only: to look makes nothing
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=SECONDS)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
        return "answers"
    import psycopg

    settings = {"password": _secret(target, "PGPASSWORD"), "passfile": target.get("PGPASSFILE")}
    settings |= {"user": target.get("PGUSER") if "@" not in uri else None}
    settings |= {"sslmode": target.get("PGSSLMODE"), "sslrootcert": target.get("PGSSLROOTCERT")}
    address = f"postgresql://{uri.partition('://')[2]}"
    given = {key: value for key, value in settings.items() if value}
    try:
        psycopg.connect(address, connect_timeout=int(SECONDS), **given).close()
    except psycopg.OperationalError as error:
        said = str(error)
        if "password" in said or "authentication" in said:
            raise UserError("answers, and refuses user or password") from None
        raise
    return "answers"


def _prefect(target: Target, api: str) -> str:
    user, _, password = _secret(target, "PREFECT_API_AUTH_STRING").partition(":")
    return _said(_get(f"{api.rstrip('/')}/admin/version", user, password, _secret(target, "PREFECT_API_KEY")), user)


def _remotes(root: Path) -> dict[str, dict[str, str]]:
    """{name: settings} of DVC's remotes, config.local over config."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    found = {}
    for section in config.sections():
        kind, _, name = section.strip("'").partition(" ")
        if kind == "remote":
            found[name.strip('"')] = dict(config[section])
    return found


def _remote_place(root: Path, name: str | None) -> str:
    if not name:
        return "DVC's default, if there is one"
    url = _remotes(root).get(name, {}).get("url")
    return f"{name} ({redact(url)})" if url else name


def _remote(root: Path, target: Target, name: str) -> str:
    known = _remotes(root)
    if name not in known:
        there = f".dvc/config has {', '.join(known)}" if known else ".dvc/config has none"
        raise UserError(f"DVC knows no remote {name}: {there}; `dvc remote add {name} s3://BUCKET/FOLDER`")
    url = known[name].get("url", "")
    scheme, separator, rest = url.partition("://")
    if not separator:
        folder = (root / ".dvc" / url).resolve()
        if not folder.is_dir():
            raise UserError(f"the folder {url} is not there")
        return "is there"
    if scheme != "s3":
        return f"not asked: {scheme} is DVC's to ask (`dvc push -r {name}`)"
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    options = {
        "endpoint_url": known[name].get("endpointurl") or target.get("AWS_ENDPOINT_URL_S3"),
        "aws_access_key_id": _secret(target, "AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": _secret(target, "AWS_SECRET_ACCESS_KEY"),
        "aws_session_token": _secret(target, "AWS_SESSION_TOKEN"),
        "region_name": target.get("AWS_DEFAULT_REGION") or known[name].get("region"),
    }
    bounds = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 1})
    client = boto3.client("s3", config=bounds, **{key: value for key, value in options.items() if value})
    try:
        client.head_bucket(Bucket=rest.partition("/")[0])
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404:
            raise UserError(f"answers, and has no bucket {rest.partition('/')[0]}") from None
        raise UserError(f"answers, and does not let us in ({status})") from None
    return "answers"
