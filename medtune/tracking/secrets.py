"""Passwords and tokens come from the environment and appear nowhere: not in a log, an error, a tag or a report.

    raise RegistryError(redact(f"{uri} does not answer: {error}"))
    guard_output()                      # logs and tracebacks of this process, from the entry points

Errors of SQLAlchemy, requests and MLflow quote the address that they failed on, and an address may hold a password
(postgresql://user:password@host) or a signature that opens a file for minutes (S3's presigned URLs).
"""

import base64
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
# environment variables whose whole value is secret
SECRETS = (
    "MEDTUNE_KEY_PASSWORD",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "OPENAI_API_KEY",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
)
# and those that hold an address with, maybe, a password in it
ADDRESSES = (
    "MEDTUNE_LEDGER_URI",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "PREFECT_API_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",
)
USERINFO = re.compile(r"(?P<scheme>[A-Za-z][\w+.\-]*://)(?P<user>[^\s/:@'\"]*)(?P<password>:[^\s/'\"]*)?@")
PARAMETER = re.compile(
    r"(?P<key>[?&;](?:password|passwd|pwd|token|access_token|api_key|secret|sslpassword|signature|awsaccesskeyid"
    r"|x-amz-(?:signature|credential|security-token))=)[^\s&;'\"<>]+",
    re.IGNORECASE,
)
SETTING = re.compile(r"(?P<key>\b(?:ssl)?password\s?=\s?)(?:'[^']*'|[^\s'\"]+)")  # libpq: "host=h password=…"
HEADER = re.compile(r"(?P<key>authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\"]+", re.IGNORECASE)
SHORT = 6  # characters; a shorter secret is masked only where it stands as a word, else no text would survive it


def redact(text: object) -> str:
    """The text without passwords: those of any URL in it, S3 signatures, authorization headers, and the values of
    SECRETS and of the passwords in ADDRESSES of this process's environment, also as URLs and base64 write them."""
    said = str(text)
    for value in _values(os.environ):
        if value not in said:
            continue
        if len(value) < SHORT:
            said = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", MASK, said)
        else:
            said = said.replace(value, MASK)
    said = USERINFO.sub(_without_password, said)
    for pattern in (PARAMETER, SETTING, HEADER):
        said = pattern.sub(lambda found: found["key"] + MASK, said)
    return said


def take_password(uri: str) -> str:
    """An http(s) tracking address without user and password; they go to MLFLOW_TRACKING_USERNAME and _PASSWORD, where
    MLflow looks for them too, unless these are set. Other addresses come back as they are."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    userinfo, _, host = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if colon:
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(user))
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(password))
    else:
        os.environ.setdefault("MLFLOW_TRACKING_TOKEN", unquote(user))
    return parts._replace(netloc=host).geturl()


def guard_output() -> None:
    """Redact what this process logs, and the tracebacks of errors that nobody caught, of every thread. Called once, by
    an entry point, after logging is set up; logging handlers made later are covered too."""
    make = logging.getLogRecordFactory()
    if getattr(make, "guards", False):
        return

    def guarded(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            record.msg, record.args = redact(record.getMessage()), None
        except (TypeError, ValueError, KeyError):  # a call with wrong arguments: logging tells where it stands
            return record
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
        return record

    guarded.guards = True
    logging.setLogRecordFactory(guarded)
    sys.excepthook = _tell
    threading.excepthook = lambda args: _tell(args.exc_type, args.exc_value, args.exc_traceback)


def _tell(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, SystemExit):  # a thread that ends itself says nothing
        return
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _values(environment: Mapping[str, str]) -> list[str]:
    """Every spelling of every secret, longest first: one may hold another."""
    plain = {environment[name] for name in SECRETS if environment.get(name)}
    for name in ADDRESSES:
        password = _password(environment.get(name, ""))
        if password:
            plain |= {password, unquote(password)}
    user = environment.get("MLFLOW_TRACKING_USERNAME", "")
    pairs = (
        {f"{user}:{environment['MLFLOW_TRACKING_PASSWORD']}"} if environment.get("MLFLOW_TRACKING_PASSWORD") else set()
    )
    spelled = {form(value) for value in plain for form in (str, quote, quote_plus, lambda v: quote(v, safe=""))}
    spelled |= {base64.b64encode(pair.encode()).decode() for pair in pairs}
    return sorted((value for value in spelled if value.strip()), key=len, reverse=True)


def _password(address: str) -> str:
    """The password as SQLAlchemy would read it too: it may hold a slash, and runs to the last @."""
    rest = address.partition("://")[2]
    return rest.rpartition("@")[0].partition(":")[2]


def _without_password(found: re.Match[str]) -> str:
    if found["password"]:
        return f"{found['scheme']}{found['user']}:{MASK}@"
    # https://TOKEN@host is a secret, postgresql://user@host is none
    return f"{found['scheme']}{MASK}@" if found["scheme"].lower() in ("http://", "https://") else found[0]
