"""dev, staging, prod: which registry, ledger, remote and Prefect server a command works with.

    load_target(root, "prod")       # from the entry points, before anything reads the environment
    python -m medtune.tracking.targets [--target prod] COMMAND …       # for what reads it at import, as Prefect does

A target is an environment file (tracking/target_file.py). It is put into this process's environment, where MLflow,
Prefect, DVC, libpq and boto3 look anyway, and where stages and flows, which are subprocesses, inherit it. What is
already set stays: whoever exports a variable means it, and is told so.
"""

import argparse
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from medtune.params.errors import UserError
from medtune.tracking.target_file import BY_FILE, PLACES, SUFFIX, Target, read_target, target_names

CHOSEN = "MEDTUNE_TARGET"
APPLIED = "MEDTUNE_TARGET_APPLIED"  # "prod:KEY,KEY": what an outer process took from a target, and nobody exported
DEFAULT = "dev"
SECRET_BYTES = 64 * 2**10
MOUNTED = Path("/run/secrets")  # of a container, which has one user


def _warn(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def load_target(root: Path, name: str | None = None, say: Callable[[str], None] = _warn) -> str:
    """Put a target's settings into os.environ; returns its name.

    `name`: left out, MEDTUNE_TARGET, and without that dev, which may have no file. Variables that are set already win,
    and `say` is told where they differ from the file. NAME_FILE is read into NAME, in this process alone. UserError
    names file and line of what is wrong: an unknown target or key, a secret's file that is away, empty or too large.
    """
    wanted = name or os.environ.get(CHOSEN) or DEFAULT
    _forget_other(wanted)
    if wanted == DEFAULT and DEFAULT not in target_names(root):
        target, applied = None, dict[str, str]()
    else:
        target = read_target(root, wanted)
        if (sentence := target.template()) is not None:
            raise UserError(sentence)
        applied = _apply(target, say)
    places = {key: f"{target.place(key)}: {key}" for key in applied} if target else {}
    applied |= _read_secrets(say, places)
    os.environ[CHOSEN] = wanted
    before = _applied()[1]
    os.environ[APPLIED] = f"{wanted}:{','.join(dict.fromkeys((*before, *applied)))}"
    return wanted


def clear_places() -> None:
    """Take out of the environment where a target is and who we are there, so that only a file says so.

    For work with a target that is named beside another one: a variable exported for the one must not reach the other.
    """
    _forget()
    for key in (*PLACES, *BY_FILE, *(secret + SUFFIX for secret in BY_FILE), "PGPASSFILE", CHOSEN):
        os.environ.pop(key, None)


def read_secret(path: Path, what: str, say: Callable[[str], None] = _warn) -> str:
    """The one line of a secret's file. UserError where it is away, empty, too large or has several lines; its content
    is in no sentence. `what`: the place that names it."""
    try:
        content = path.read_bytes()[: SECRET_BYTES + 1]
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{what} names {path}, which cannot be read ({error.strerror}); put the secret there") from None
    try:
        text = content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{what} names {path}, which is not UTF-8; it holds the secret and nothing else") from None
    if not text.strip() or "\n" in text or "\0" in text or len(content) > SECRET_BYTES:
        wrong = "is empty" if not text.strip() else "has more than one line"
        raise UserError(f"{what} names {path}, which {wrong}; it holds the secret and nothing else")
    if mode & (stat.S_IRGRP | stat.S_IROTH) and MOUNTED not in path.parents:
        say(f"{path} can be read by others on this machine; `chmod 600 {path}`")
    return text


def _apply(target: Target, say: Callable[[str], None]) -> dict[str, str]:
    applied = {}
    for key, setting in target.settings.items():
        secret = key.removesuffix(SUFFIX)
        given = os.environ.get(key)
        if secret in BY_FILE and os.environ.get(secret) and not given:
            if secret not in _applied()[1]:
                say(f"{secret} of the environment is used, and not {target.place(key)}")
            continue
        if given is None or given == setting.value:
            if given is None:
                os.environ[key] = applied[key] = setting.value
            continue
        shown = f"{key} of the environment is used, and not {target.place(key)}"
        say(f"{shown}; unset it to work with {target.name} alone")
    return applied


def _read_secrets(say: Callable[[str], None], places: dict[str, str]) -> dict[str, str]:
    """NAME_FILE into NAME wherever NAME is not set: of the target, and of an environment such as a container's."""
    read = {}
    for name in BY_FILE:
        path = os.environ.get(name + SUFFIX)
        if path and not os.environ.get(name):
            os.environ[name] = read[name] = read_secret(Path(path), places.get(name + SUFFIX, name + SUFFIX), say)
    return read


def _applied() -> tuple[str, list[str]]:
    name, _, keys = os.environ.get(APPLIED, "").partition(":")
    return name, [key for key in keys.split(",") if key]


def _forget_other(wanted: str) -> None:
    """What an outer process took from another target was exported by nobody: half of each would be a third one."""
    name = _applied()[0]
    if name and name != wanted:
        _forget()


def _forget() -> None:
    for key in _applied()[1]:
        os.environ.pop(key, None)
    os.environ.pop(APPLIED, None)


def main() -> None:
    """Become COMMAND, with the target's environment."""
    parser = argparse.ArgumentParser(description="Run a command with a target's settings in its environment.")
    parser.add_argument("--target", help="targets/NAME.env; left out, MEDTUNE_TARGET or dev")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="such as python -m flows.pipeline")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("name a command, such as python -m flows.pipeline")
    try:
        load_target(Path("."), arguments.target)
        os.execvp(command[0], command)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
