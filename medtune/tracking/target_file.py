"""targets/NAME.env: one environment file a target, read as a shell would read plain assignments, and held to its keys.

    MLFLOW_TRACKING_URI=https://mlflow.ward.org          # a comment
    MLFLOW_TRACKING_PASSWORD_FILE="${HOME}/.config/medtune/prod/mlflow"

Git keeps these files, so that none holds a secret: what names one is NAME_FILE, the path of a file with nothing else in
it, and a password that stands here in plain text is refused with file and line.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medtune.params.errors import UserError
from medtune.tracking.secrets import PARAMETER, SECRETS, USERINFO

FOLDER = Path("targets")
SUFFIX = "_FILE"

# Secrets that a program wants in its environment: NAME_FILE is read into NAME.
BY_FILE = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "HF_TOKEN",
    "MEDTUNE_KEY_PASSWORD",
)
# Files that their reader opens itself; the path stays a path.
NOTIFY_FILES = (
    "MEDTUNE_SLACK_WEBHOOK_FILE",
    "MEDTUNE_TEAMS_WEBHOOK_FILE",
    "MEDTUNE_SMTP_FILE",
    "MEDTUNE_WEBHOOK_FILE",
)
PATHS = (*NOTIFY_FILES, "PGPASSFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "MEDTUNE_KEYS")
# Where a target is, and who we are there: nothing of another target's may stay beside them.
PLACES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MEDTUNE_LEDGER_URI",
    "MEDTUNE_DVC_REMOTE",
    "MEDTUNE_NOTIFY",
    "PGUSER",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PREFECT_API_URL",
    "PREFECT_UI_URL",
)
OTHERS = (
    "AWS_CA_BUNDLE",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "AWS_PROFILE",
    "HF_ENDPOINT",
    "HF_HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "MEDTUNE_ACTOR",
    "MEDTUNE_SIGNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_S3_ENDPOINT_URL",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
)
KEYS = frozenset({*PLACES, *OTHERS, *PATHS, *(name + SUFFIX for name in BY_FILE)})

_LINE = re.compile(r"(?:export\s+)?(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>.*)")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^{}]*))?\}")
_WEBHOOK = re.compile(r"https?://(?:hooks\.slack(?:-gov)?\.com|[\w.-]*logic\.azure\.com|[\w.-]*webhook\.office\.com)")
_TEMPLATE = re.compile(r"[a-z0-9-]+\.example(?![\w.-])")  # a name that no network will ever have (RFC 2606)


@dataclass(frozen=True)
class Setting:
    """One line of the file; value: references filled in, paths absolute."""

    key: str
    value: str
    line: int


@dataclass(frozen=True)
class Target:
    """A target as its file has it; nothing is set yet and no secret read."""

    name: str
    path: Path
    settings: Mapping[str, Setting]

    def place(self, key: str) -> str:
        """`targets/prod.env, line 7`, for sentences."""
        return f"{self.path}, line {self.settings[key].line}"

    def get(self, key: str) -> str | None:
        return self.settings[key].value if key in self.settings else None

    def template(self) -> str | None:
        """The sentence for a file that still has an address of the template; None where it has none."""
        for key, setting in self.settings.items():
            if found := _TEMPLATE.search(setting.value):
                return (
                    f"{self.place(key)}: {key} is still the template's ({found[0]}); write the address of your own "
                    f"there, or remove the line"
                )
        return None


def target_names(root: Path) -> list[str]:
    """The targets of a checkout, sorted; dev, staging, prod first and in that order."""
    order = {name: place for place, name in enumerate(("dev", "staging", "prod"))}
    found = [path.stem for path in (root / FOLDER).glob("*.env") if _NAME.fullmatch(path.stem)]
    return sorted(found, key=lambda name: (order.get(name, len(order)), name))


def read_target(root: Path, name: str) -> Target:
    """Read and check targets/NAME.env. UserError names file and line of what is wrong, and never quotes a value that
    may be secret."""
    names = target_names(root)
    if name not in names:
        there = f"there are {', '.join(names)}" if names else f"there is no {FOLDER}/*.env here"
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no target {name[:40]!r}: {there}{hint}")
    shown = FOLDER / f"{name}.env"
    try:
        text = (root / shown).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown} is not UTF-8 ({error.reason}); save it anew") from None
    settings: dict[str, Setting] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{shown}, line {number}"
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise UserError(f"{where}: a line is KEY=value or a comment after #")
        key = found["key"]
        _check_key(where, key)
        if key in settings:
            raise UserError(f"{where}: {key} stands in line {settings[key].line} already; remove one of them")
        value = _value(where, found["value"], settings)
        _check_value(where, key, value)
        if key.endswith(SUFFIX) or key in PATHS:
            value = _path(where, key, value, root)
        settings[key] = Setting(key, value, number)
    return Target(name, shown, settings)


def _check_key(where: str, key: str) -> None:
    if key in KEYS:
        return
    if key in SECRETS:
        mend = f"write {key}{SUFFIX}=PATH, a file that only you can read" if f"{key}{SUFFIX}" in KEYS else "remove it"
        raise UserError(f"{where}: {key} is a secret, and git keeps this file; {mend}")
    near = difflib.get_close_matches(key.upper(), KEYS, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(KEYS))}"
    raise UserError(f"{where}: {key} is no setting of a target{hint}")


def _value(where: str, text: str, settings: Mapping[str, Setting]) -> str:
    """As a shell reads it: 'literal', "with ${REFERENCES}", or bare up to a comment."""
    text = text.strip()
    if text[:1] == "'":
        found = re.fullmatch(r"'([^']*)'\s*(?:#.*)?", text)
        if found is None:
            raise UserError(f"{where}: the quote ' is not closed, or something follows it")
        return found[1]
    if text[:1] == '"':
        found = re.fullmatch(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?', text)
        if found is None:
            raise UserError(f'{where}: the quote " is not closed, or something follows it')
        # an escaped $ begins no reference
        parts = re.split(r"(\\.)", found[1])
        return "".join(part[1] if part[:1] == "\\" else _filled(where, part, settings) for part in parts)
    bare = re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()
    if re.search(r"\s", bare):
        raise UserError(f"{where}: a value with a space stands in quotes")
    return _filled(where, bare, settings)


def _filled(where: str, text: str, settings: Mapping[str, Setting]) -> str:
    """References from the lines before, then the environment."""

    def fill(found: re.Match[str]) -> str:
        name = found["name"]
        known = settings[name].value if name in settings else os.environ.get(name)
        if not known:
            known = found["default"]
        if known is None:
            raise UserError(
                f"{where}: ${{{name}}} is set neither above nor in the environment; export it, or write "
                f"${{{name}:-another}}"
            )
        return known

    done = _REFERENCE.sub(fill, text)
    if "$" in _REFERENCE.sub("", text):
        raise UserError(f"{where}: a reference is written ${{NAME}}; a plain $ stands in single quotes")
    return done


def _check_value(where: str, key: str, value: str) -> None:
    """No secret in plain text. The value is not quoted: it may be one."""
    address = USERINFO.search(value)
    if address is not None and (address["password"] or address["scheme"].lower() in ("http://", "https://")):
        mend = "PGPASSWORD_FILE or PGPASSFILE" if key == "MEDTUNE_LEDGER_URI" else "a …_FILE"
        mend = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD_FILE" if key == "MLFLOW_TRACKING_URI" else mend
        raise UserError(f"{where}: {key} holds a user's password, and git keeps this file; take it out and use {mend}")
    if PARAMETER.search(value):
        raise UserError(f"{where}: {key} holds a password or token after ?; git keeps this file, use a …{SUFFIX}")
    if _WEBHOOK.search(value):
        raise UserError(
            f"{where}: {key} holds a webhook's address, which is a secret; put it into a file of its own and name that "
            f"in one of {', '.join(NOTIFY_FILES)}"
        )
    if key == "MEDTUNE_NOTIFY" and "://" in value:
        raise UserError(f"{where}: MEDTUNE_NOTIFY names blocks, such as slack-webhook/medtune, and no address")


def _path(where: str, key: str, value: str, root: Path) -> str:
    if not value:
        raise UserError(f"{where}: {key} names no file; write its path, or remove the line")
    if value.startswith("~"):
        raise UserError(f"{where}: {key}: nothing stands for ~ here; write ${{HOME}}")
    return str((root / value).absolute()) if not Path(value).is_absolute() else value
