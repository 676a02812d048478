"""DVC's remote: what the stages made goes there, so that another clone can have it. docs/dvc-remote.md sets one up.

push(root)      # "12 files went to s3://medtune-dvc", None where no remote is configured; RemoteTrouble says the mend
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from flows.graph import DVC
from medtune.params.errors import UserError
from medtune.tracking.secrets import redact

LEASH = Path(__file__).with_name("leash.py")


class RemoteTrouble(UserError):
    """A push that did not go through. `passing`: it may go through by itself later, so that a retry is worth it."""

    def __init__(self, sentence: str, passing: bool) -> None:
        super().__init__(sentence)
        self.passing = passing


# What DVC's error says (a pattern), whether it may pass, what we say: {remote}, its {name}, and what the pattern caught
TROUBLES = (
    (
        r"Unable to locate credentials|Partial credentials|credentials? (?:could not be|not) found",
        False,
        "{remote} wants credentials and there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "AWS_PROFILE, in the environment of whoever pushes (of the worker, where a worker does)",
    ),
    (
        r"requires '(?P<package>dvc-[a-z0-9]+)' to be installed",
        False,
        "{remote} needs {package}, which is not installed: pip install {package} (dvc-s3 comes with 'medtune[server]')",
    ),
    (
        r"bucket does not exist|NoSuchBucket",
        False,
        "the bucket of {remote} does not exist: make it, or correct the address: dvc remote modify {name} url …",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|Access ?Denied|Access Key Id you provided|signature we calculated"
        r"|Forbidden|\b403\b|ExpiredToken|token .*expired",
        False,
        "{remote} refuses our credentials: they are wrong, have run out, or may not write there (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE)",
    ),
    (
        r"Could not connect to the endpoint|Connect timeout|Read timeout|timed out|Name or service not known"
        r"|Connection (?:refused|reset|was closed)",
        True,
        "{remote} does not answer: is it running, and is its address right (AWS_ENDPOINT_URL_S3, or endpointurl in "
        ".dvc/config)",
    ),
    (
        r"No space left|Disk quota exceeded|QuotaExceeded|InsufficientStorage",
        False,
        "there is no room left in {remote}: make room; `dvc gc --cloud --all-commits` removes what no commit needs",
    ),
)


def default_remote(root: Path) -> str | None:
    """The address of the remote that a push goes to (MEDTUNE_DVC_REMOTE, else core.remote of DVC's configuration),
    without a password; None where none is set. UserError where the configuration cannot be read."""
    found = _remote(root)
    return found and found[1]


def push(root: Path) -> str | None:
    """`dvc push`: every out that dvc.lock and the .dvc files name and the remote lacks.

    Returns what was done, a sentence, or None where no remote is set. RemoteTrouble, with the mend, where it did not
    work; nothing is lost then, and the next push brings what this one did not. Ends when its process does.
    """
    remote = _remote(root)
    if remote is None:
        return None
    name, address = remote
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *DVC, "push", "--remote", name],
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if done.returncode:
        raise _trouble(name, address, done.stderr)
    if lacking := re.findall(r"(?m)^md5: ([0-9a-f]{32})", done.stderr):
        raise RemoteTrouble(
            f"{len(lacking)} file(s) that dvc.lock names are neither in DVC's cache nor in {address} (the first is "
            f"{lacking[0][:12]}): `dvc repro` makes them anew; the others were pushed",
            passing=False,
        )
    count = re.search(r"(?m)^(\d+) files? pushed", done.stdout)
    return f"{count[1]} file(s) went to {address}" if count else f"{address} has everything already"


def _remote(root: Path) -> tuple[str, str] | None:
    """Name and address of the default remote."""
    from dvc.config import Config, ConfigError

    try:
        config = Config(dvc_dir=str(root / ".dvc"))
    except ConfigError as error:
        raise UserError(f"DVC's configuration cannot be read: {redact(error)}") from None
    name = os.environ.get("MEDTUNE_DVC_REMOTE") or config["core"].get("remote")
    if not name:
        return None
    try:
        return name, redact(config["remote"][name]["url"])
    except KeyError:
        raise UserError(
            f"the DVC remote is to be {name!r} (MEDTUNE_DVC_REMOTE, else core.remote of DVC's configuration), and "
            "there is none of that name: `dvc remote list`"
        ) from None


def _trouble(name: str, address: str, stderr: str) -> RemoteTrouble:
    said = " ".join(line.partition("ERROR: ")[2] for line in stderr.splitlines() if "ERROR: " in line)
    for pattern, passing, sentence in TROUBLES:
        if found := re.search(pattern, said, re.IGNORECASE):
            return RemoteTrouble(sentence.format(remote=address, name=name, **found.groupdict()), passing)
    words = redact(said.removeprefix("unexpected error - ") or "no reason given")
    return RemoteTrouble(f"`dvc push` to {address} failed: {words}", passing=True)
