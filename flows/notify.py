"""Who is told what came of a retrain: Prefect's notification blocks, named in MEDTUNE_NOTIFY.

    python -m flows.notify --setup      # makes or renews the blocks out of the secrets' files; prints their names
    python -m flows.notify --test       # sends one message to every channel

    MEDTUNE_NOTIFY=slack-webhook/medtune,medtune-mail/medtune

Any block with `notify` will do: those that Prefect's page makes (Blocks, then the type), and those made here out of

    MEDTUNE_SLACK_WEBHOOK_FILE    a Slack webhook's address                                 slack-webhook/medtune
    MEDTUNE_TEAMS_WEBHOOK_FILE    a Power Automate workflow's address                       ms-teams-webhook/medtune
    MEDTUNE_SMTP_FILE             mailtos://user:password@smtp.ward.org:587?from=…&to=…,…   medtune-mail/medtune
    MEDTUNE_WEBHOOK_FILE          an address that takes {"subject", "body"} as JSON         custom-webhook/medtune

An address is a secret: Prefect keeps it encrypted, and no message or log of ours names it.
"""

import argparse
import contextvars
import logging
import os
import sys
import threading
from logging import Logger, LoggerAdapter
from pathlib import Path
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from prefect.blocks.notifications import (
    AppriseNotificationBlock,
    CustomWebhookNotificationBlock,
    MicrosoftTeamsWebhook,
    SlackWebhook,
)
from pydantic import HttpUrl, SecretStr

from medtune.params.errors import UserError
from medtune.tracking.target_file import NOTIFY_FILES
from medtune.tracking.targets import load_target, read_secret

NAMES = "MEDTUNE_NOTIFY"
SEND_SECONDS = 15.0  # for one channel
LOAD_SECONDS = 60.0  # for Prefect to hand out a block; a run without a server starts one first
PREFECT = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")
NAME = "medtune"  # of the blocks that --setup makes
HOW = f"set {NAMES}, such as slack-webhook/medtune; `python -m flows.notify --setup` makes the blocks"


class Mail(AppriseNotificationBlock):
    """Sends mail through an SMTP server, by an Apprise address: mailtos://user:password@host:587?from=…&to=…"""

    _block_type_name = "medtune mail"
    _block_type_slug = "medtune-mail"
    _documentation_url = HttpUrl("https://appriseit.com/services/email/")


def send(
    subject: str,
    body: str,
    log: "Logger | LoggerAdapter",
    url: str | None = None,
    seconds: float = SEND_SECONDS,
) -> list[str]:
    """Send one message to every channel at the same time; the names of those that took it. Never raises.

    `url`: a link for the last line, where the body does not have it. A channel that fails, or has no answer after
    `seconds`, is logged by its name and the kind of error alone, and the others go on.
    """
    if url and url not in body:
        body = f"{body}\n{url}"
    names = channels()
    if not names:
        log.info("%s\n%s\n(nobody was told: %s)", subject, body, HOW)
        return []
    _hush()
    sendings = [_Sending(name, subject, body) for name in names]
    for sending in sendings:
        sending.start()
    took = []
    for sending in sendings:
        if (problem := sending.problem(seconds)) is None:
            took.append(sending.channel)
        else:
            log.warning("%s was not told: %s", sending.channel, problem)
    if took:
        log.info("told %s: %s", ", ".join(took), subject)
    else:
        log.warning("nobody was told:\n%s\n%s", subject, body)
    return took


def channels() -> list[str]:
    """The blocks of MEDTUNE_NOTIFY, each once."""
    return list(dict.fromkeys(name.strip() for name in os.environ.get(NAMES, "").split(",") if name.strip()))


class _Sending:
    """One channel in a thread of its own: what hangs in a resolver or a proxy cannot be interrupted, only left."""

    def __init__(self, channel: str, subject: str, body: str) -> None:
        self.channel, self.subject, self.text = channel, subject, body
        self._loaded, self._done = threading.Event(), threading.Event()
        self._problem: str | None = None

    def start(self) -> None:
        # in a flow, Prefect's address and settings are context variables
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._send,), daemon=True, name=f"notify {self.channel}").start()

    def problem(self, seconds: float) -> str | None:
        """None once it was taken; else a sentence without any address."""
        if not self._loaded.wait(LOAD_SECONDS):
            return f"Prefect did not hand out the block within {LOAD_SECONDS:g} s"
        if not self._done.wait(seconds):
            return f"no answer within {seconds:g} s"
        return self._problem

    def _send(self) -> None:
        try:
            block = self._load()
            self._loaded.set()
            if block is not None:
                with block.raise_on_failure():
                    block.notify(self.text, self.subject, _sync=True)  # type: ignore[call-arg]
        except Exception as error:  # its words may quote the address
            self._problem = self._problem or f"{type(error).__name__}; look at its address, and whether it is up"
        finally:
            self._loaded.set()
            self._done.set()

    def _load(self) -> "Block | None":
        try:
            block = Block.load(self.channel, _sync=True)  # type: ignore[call-arg]
        except ValueError as error:
            if "Unable to find" not in str(error):
                raise
            self._problem = "Prefect has no such block; `python -m flows.notify --setup` makes it"
            return None
        if not hasattr(block, "raise_on_failure"):
            self._problem = f"a {type(block).__name__} is no block that notifies"
            return None
        return block


def _hush() -> None:
    """Apprise, httpx and urllib3 write addresses into their logs, at levels that somebody may turn on."""
    for name in ("apprise", "httpx", "httpcore", "urllib3"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


def setup() -> list[str]:
    """Make or renew the blocks whose secrets' files are named in the environment; their names. UserError where none is
    named, and naming the variable whose file does not hold such an address."""
    made = []
    for key in NOTIFY_FILES:
        if path := os.environ.get(key):
            block = _block(key, read_secret(Path(path), key))
            block.save(NAME, overwrite=True, _sync=True)  # type: ignore[call-arg]
            made.append(f"{type(block).get_block_type_slug()}/{NAME}")
    if not made:
        raise UserError(f"no channel is configured: name a secret's file in one of {', '.join(NOTIFY_FILES)}")
    return made


def _block(key: str, address: str) -> "Block":
    """The block of an address. UserError without a word of the address."""
    scheme, host = urlsplit(address).scheme, urlsplit(address).hostname
    mail = key == "MEDTUNE_SMTP_FILE"
    if not host or scheme not in (("mailto", "mailtos") if mail else ("http", "https")):
        wanted = "mailtos://user:password@host:587?from=…&to=…" if mail else "an https:// address"
        raise UserError(f"{key}: its file does not hold {wanted}; write that one line into it")
    if mail:
        # as text: the figures stand in columns
        parts = "" if "format=" in address else f"{'&' if '?' in address else '?'}format=text"
        block: Block = Mail(url=SecretStr(address + parts))
        if not len(block._apprise_client):
            raise UserError(f"{key}: Apprise cannot read the address in its file; see appriseit.com/services/email")
        return block
    if key == "MEDTUNE_WEBHOOK_FILE":
        return CustomWebhookNotificationBlock(
            name=NAME,
            url="{{address}}",
            json_data={"subject": "{{subject}}", "body": "{{body}}"},
            secrets={"address": address},
        )
    kind, wanted = (SlackWebhook, "Slack") if key == "MEDTUNE_SLACK_WEBHOOK_FILE" else (MicrosoftTeamsWebhook, "Teams")
    try:
        block = kind(url=SecretStr(address))
    except ValueError:
        block = None
    if block is None or not len(block._apprise_client):
        raise UserError(f"{key}: its file does not hold the address of a {wanted} webhook; copy it anew from {wanted}")
    return block


def main() -> None:
    parser = argparse.ArgumentParser(description="The channels that a retrain's message goes to.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--setup", action="store_true", help="make or renew the blocks out of the secrets' files")
    what.add_argument("--test", action="store_true", help="send one message to every channel of MEDTUNE_NOTIFY")
    parser.add_argument("--target", help="targets/NAME.env; left out, MEDTUNE_TARGET or dev")
    arguments = parser.parse_args()
    from medtune.tracking.secrets import guard_output

    guard_output()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        before = [os.environ.get(name) for name in PREFECT]
        target = load_target(Path(), arguments.target)
        if before != [os.environ.get(name) for name in PREFECT]:  # Prefect read them when it was imported: begin anew
            os.execv(sys.executable, [sys.executable, "-m", "flows.notify", *sys.argv[1:]])
        if arguments.setup:
            made = setup()
            print(f"made in Prefect: {', '.join(made)}")
            if missing := [name for name in made if name not in channels()]:
                print(f"they are told once {NAMES} names them: {NAMES}={','.join([*channels(), *missing])}")
            return
        if not channels():
            raise UserError(f"no channel is configured for {target}: {HOW}")
        body = "This is a test of who is told: nothing was trained.\n테스트 메시지입니다."
        took = send(f"medtune ({target}): a test", body, logging.getLogger("flows.notify"))
        if len(took) < len(channels()):
            raise UserError(f"{len(channels()) - len(took)} of {len(channels())} channels did not take it")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    # the blocks' classes belong to the module of this name, and not to __main__
    from flows.notify import main as named

    named()
