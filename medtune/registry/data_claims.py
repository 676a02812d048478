"""Which data version a retrain works on: claimed in the ledger before it starts, so that each is trained on once.

    claim(ledger, model, data, holder(root), "60 new rows")      # DataTaken where another run has it, or had it
    finish(ledger, model, data, "approved", version)
    release_dead(ledger, model, root)                            # a kill left it; the next run takes it up

Schedules fire twice, servers deliver an event twice, machines restart in between: none of them has to be right, since
the claim is one transaction in the ledger that everybody shares. A data version is 64 hex digits over the rows that
download would read (medtune/corpus/newcomers.py); what ran is told by who claimed it last.
"""

import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from medtune.params.errors import RegistryError
from medtune.registry.ledger import Event, Ledger
from medtune.tracking.holder import process_table, read_holder, this_process
from medtune.tracking.pipeline_lock import PipelineBusy, pipeline_lock
from medtune.tracking.store import HOME

CLAIMED, DONE, RELEASED = "data_claimed", "data_done", "data_released"
TRIES = 3  # a data version whose runs were killed so often kills its runs: a person looks before the fourth
FOREIGN = timedelta(days=3)  # a process of another host and checkout cannot be looked at: its claim holds for so long
AGAIN = ("failed", "held", "cancelled")  # ends without a decision: a person, or the schedule, may begin anew
CHECKOUT = "medtune.checkout_id"


@dataclass(frozen=True)
class Claim:
    """What the ledger says of one data version. tries: how often its runs were killed; outcome and version: of the end;
    forced: whether a person had it trained although the rows had drifted."""

    data: str
    state: Literal["free", "claimed", "done"] = "free"
    tries: int = 0
    holder: dict[str, Any] | None = None
    at: str = ""
    outcome: str | None = None
    version: str | None = None
    reason: str = ""
    forced: bool = False

    @property
    def begun(self) -> bool:
        """Once claimed, and now nobody's: its rows are in data/first_seen.txt and count as new no more."""
        return self.state == "free" and bool(self.at)

    @property
    def exhausted(self) -> bool:
        return self.state == "free" and self.tries >= TRIES


class DataTaken(RegistryError):
    """Another run has the data version, or it is done; `.claim` tells which."""

    def __init__(self, sentence: str, claim: Claim) -> None:
        super().__init__(sentence)
        self.claim = claim


class _Changed(RegistryError):
    """Somebody else wrote of the data version in between."""


def holder(root: Path, **more: Any) -> dict[str, Any]:
    """This process in this checkout, so that anyone can tell whether it lives; `more`: its flow run, for people."""
    return this_process().tags() | {CHECKOUT: checkout_id(root)} | more


def checkout_id(root: Path) -> str:
    """A name of this checkout that outlives processes, reboots and containers: mlruns/checkout.id."""
    path = root / HOME / "checkout.id"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        temporary.write_text(uuid.uuid4().hex, encoding="ascii")
        try:
            path.hardlink_to(temporary)  # the first one stays
        except FileExistsError:
            pass  # another process was quicker: its name is read below
        finally:
            temporary.unlink()
        return path.read_text(encoding="ascii").strip()


def alive(who: dict[str, Any] | None, here: str = "", at_work: bool = True) -> bool:
    """Whether the process of a claim may still be at work. `here`: id of this checkout, whose stages are run by
    somebody else at the moment, or not (`at_work`): a claim is only ever held together with the pipeline's lock."""
    named = read_holder(who or {})
    if named is None or (here and who and who.get(CHECKOUT) == here and not at_work):
        return False
    if not named.near and named.host == socket.gethostname() and _boot(named.table) != _boot(process_table()):
        return False  # this host was started anew
    return named.death(datetime.now(UTC), FOREIGN) is None


def claims(ledger: Ledger, model: str) -> dict[str, Claim]:
    """Data version -> its standing, in the order of first claims."""
    found: dict[str, Claim] = {}
    for event in ledger.events(model, kinds={CLAIMED, DONE, RELEASED}):
        data = event.body["data"]
        found[data] = _after(found.get(data, Claim(data)), event)
    return found


def claim(
    ledger: Ledger,
    model: str,
    data: str,
    who: dict[str, Any],
    reason: str,
    again: bool = False,
    forced: bool = False,
    take_over: bool = False,
) -> Event:
    """Take a data version; the caller holds the pipeline's lock of its checkout.

    `again`: a person or the schedule wants it once more, though it failed or was held. `take_over`: a person knows that
    whoever has it is dead. DataTaken where it is done (unless `again` and it came to no decision), where another living
    process has it, and where its runs were killed TRIES times (unless `again`).
    """

    def check(seen: Ledger) -> None:
        now = claims(seen, model).get(data, Claim(data))
        if now.state == "claimed" and not take_over and alive(now.holder, str(who.get(CHECKOUT, "")), at_work=False):
            raise DataTaken(
                f"data version {data[:12]} is being worked on: {_named(now.holder)}, since {now.at[:19]}Z; if it is "
                "dead, `python -m flows.retrain --take-over`",
                now,
            )
        if now.state == "done" and not (again and now.outcome in AGAIN):
            raise DataTaken(
                f"data version {data[:12]} was worked on already: {now.outcome}"
                + (f", version {now.version[:12]}" if now.version else "")
                + f", {now.at[:19]}Z",
                now,
            )
        if now.exhausted and not again:
            raise DataTaken(
                f"data version {data[:12]} was begun {now.tries} times and never came to an end: look at the log of "
                "the last run, then start it by hand (python -m flows.retrain)",
                now,
            )

    return ledger.append(
        CLAIMED, model, body={"data": data, "by": who, "reason": reason, "forced": forced}, check=check
    )


def finish(ledger: Ledger, model: str, data: str, outcome: str, version: str | None = None, reason: str = "") -> Event:
    """The run came to an end: the gate's word, or one of AGAIN with its sentence."""
    return ledger.append(DONE, model, version, {"data": data, "outcome": outcome, "reason": reason[:2000]})


def release(ledger: Ledger, model: str, data: str, who: dict[str, Any], reason: str, own: bool = False) -> bool:
    """Give back what `who` claimed; False where somebody else has written since. `own`: the run itself says so, being
    stopped in good order, which is no kill and does not count as one."""

    def check(seen: Ledger) -> None:
        now = claims(seen, model).get(data, Claim(data))
        if now.state != "claimed" or now.holder != who:
            raise _Changed(data)

    try:
        ledger.append(RELEASED, model, body={"data": data, "reason": reason, "own": own}, check=check)
    except _Changed:
        return False
    return True


def release_dead(ledger: Ledger, model: str, root: Path) -> list[str]:
    """Give back what killed runs hold; a sentence each."""
    told = []
    for item in claims(ledger, model).values():
        if item.state != "claimed" or (alive(item.holder) and _may_work(item.holder or {}, root)):
            continue
        reason = f"{_named(item.holder)} is gone"
        if release(ledger, model, item.data, item.holder or {}, reason):
            told.append(f"data version {item.data[:12]}: {reason}; it was claimed at {item.at[:19]}Z and is free again")
    return told


def _may_work(who: dict[str, Any], root: Path) -> bool:
    """Of a process that cannot be looked up (another container, another host): whether it can be at work all the same.
    In this checkout it would hold the pipeline's lock, which is tried for a moment."""
    named = read_holder(who)
    if named is None or named.near or who.get(CHECKOUT) != checkout_id(root):
        return True
    try:
        with pipeline_lock(root):
            return False
    except PipelineBusy:
        return True


def _after(old: Claim, event: Event) -> Claim:
    body = event.body
    reason = str(body.get("reason", ""))
    if event.event == CLAIMED:
        forced = bool(body.get("forced"))
        return Claim(old.data, "claimed", old.tries + 1, body.get("by"), event.at, reason=reason, forced=forced)
    if event.event == RELEASED:
        tries = old.tries - 1 if body.get("own") else old.tries
        return Claim(old.data, "free", tries, None, event.at, reason=reason, forced=old.forced)
    return Claim(old.data, "done", old.tries, None, event.at, body["outcome"], event.version, reason, old.forced)


def _named(who: dict[str, Any] | None) -> str:
    named = read_holder(who or {})
    if named is None:
        return "nobody known"
    run = f" (flow run {who['flow_run']})" if who and who.get("flow_run") else ""
    return f"process {named.pid} on {named.host}{run}"


def _boot(table: str) -> str:
    return table.split()[0] if table else ""
