"""What happened to the versions of a model, from the ledger: a line an event.

    events = history(ledger, "medgpt-ko", version="3", limit=20)
    print(render("medgpt-ko", events))

A version that somebody once promoted over a refusal is marked OVERRIDE on every line of it, also on the earlier ones.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medtune.registry.ledger import Event, Ledger
from medtune.registry.plain import plain
from medtune.registry.standing import CROWNED, DECISIONS, Standing, resolve, standings
from medtune.tracking.holder import read_holder

SHORT = 12  # digits of a digest that a line shows
KEY = 16  # digits of a key's id, as registry.keys shows them
LONGEST = 240  # characters of a reason on a line; JSON has all of it


def history(
    ledger: Ledger | None, model: str, version: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """The newest `limit` events (all, if None), newest last, as plain data.

    Each {"seq", "at" (UTC), "event", "version", "number", "who", "actor", "reason", "said", "override", "crowned",
    "digest"}. `version` (a number or a digest prefix) leaves those that are about it: its own, and those of others
    that name it (who replaced it, a row of it that was retracted). RegistryError where there is no such version.
    """
    known = standings(ledger, model) if ledger else {}
    chosen = resolve(ledger, model, version, known).version if version is not None else None
    if ledger is None:
        return []
    found = [event for event in ledger.events(model) if chosen is None or _about(event, chosen)]
    found = found[-limit:] if limit else found
    return [_told(event, known) for event in found]


def render(model: str, events: list[dict[str, Any]]) -> str:
    """One line an event, times in the local zone."""
    if not events:
        return f"{model}: nothing has happened yet; `make run` trains and registers a version"
    numbered = [f"{item['number']} ({item['version'][:SHORT]})" if item["number"] else _digits(item) for item in events]
    wide, kinds = max(map(len, numbered)), max(len(item["event"]) for item in events)
    lines = []
    for item, name in zip(events, numbered, strict=True):
        mark = "  OVERRIDE" if item["override"] else ""
        reason = f": {shorten(item['reason'])}" if item["reason"] else ""
        lines.append(
            f"{local(item['at'])}  {name:{wide}}  {item['event']:{kinds}}{mark}  {item['said']}, {item['who']}{reason}"
        )
    return "\n".join(lines)


def local(at: str) -> str:
    """A UTC moment of the ledger in this machine's zone, with the zone's name: 2026-11-01 19:22:05 KST."""
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def shorten(text: object) -> str:
    kept = plain(text)
    return kept if len(kept) <= LONGEST else f"{kept[: LONGEST - 1]}…"


def who(event: Event) -> str:
    """by Jane Doe (as login), the gate, or by the login alone."""
    by, actor = plain(_person(event) or ""), plain(event.actor)
    if not by and event.event in DECISIONS:
        return f"by the gate (run by {actor})"
    if not by and event.event == "promoted" and event.body.get("policy") == "auto":
        return f"by policy auto (run by {actor})"
    return f"by {by} (as {actor})" if by and by != actor else f"by {actor}"


def _person(event: Event) -> str | None:
    """Who said so; of a data version the claim names a process instead, which `said` tells."""
    by = event.body.get("by")
    return None if isinstance(by, Mapping) else by


def named(digest: str | None, known: Mapping[str, Standing]) -> str:
    """version 3 (a1b2c3d4e5f6), marked where it was once promoted over a refusal; also one that has no number."""
    if not digest:
        return "none"
    if digest not in known:
        return f"version {digest[:SHORT]}"
    return known[digest].name + (" OVERRIDE" if known[digest].overridden else "")


def source(part: Mapping[str, Any]) -> str:
    """A base or a dataset: its id, revision and licence."""
    revision = f" at {plain(part['revision'])[:SHORT]}" if part.get("revision") else ""
    return f"{plain(part.get('id') or '?')}{revision}, licence {plain(part.get('license') or 'unknown')}"


def _digits(item: Mapping[str, Any]) -> str:
    return f"({item['version'][:SHORT]})" if item["version"] else "-"


def _about(event: Event, digest: str) -> bool:
    if event.version == digest:
        return True
    body = event.body
    others = (body.get("from"), body.get("expects") if event.event in CROWNED else None)
    return digest in others or (event.event == "retracted" and digest in (body.get("versions") or ()))


def _told(event: Event, known: Mapping[str, Standing]) -> dict[str, Any]:
    standing = known.get(event.version or "")
    return {
        "seq": event.seq,
        "at": event.at,
        "event": event.event,
        "version": event.version,
        "number": _number(event, standing),
        "who": who(event),
        "actor": event.actor,
        "by": _person(event),
        "reason": _reason(event),
        "said": said(event, known),
        "override": bool(standing and standing.overridden),
        "crowned": event.event in CROWNED,
        "digest": event.digest,
    }


def _number(event: Event, standing: Standing | None) -> int | None:
    """As it was then: a version that was registered once more has another number since."""
    numbers = event.body.get("numbers") or {}
    if event.event == "registered" and "merged" in numbers:
        return numbers["merged"]
    number = event.body.get("number")
    return number if isinstance(number, int) else standing and standing.number


def _reason(event: Event) -> str:
    """A person's reason, or of a gate's decision the checks that stood in the way."""
    body = event.body
    if body.get("reason"):
        return str(body["reason"])
    if event.event in DECISIONS and event.event != "approved":
        blocking = [f for f in body.get("findings") or [] if f.get("blocks") and not f.get("passed")]
        return "; ".join(str(f.get("sentence")) for f in blocking) or "; ".join(map(str, body.get("reasons") or []))
    return ""


def said(event: Event, known: Mapping[str, Standing]) -> str:
    """What an event says, as a clause without who and why."""
    body = event.body
    if event.event == "registered":
        adapter = (body.get("numbers") or {}).get("adapter", "?")
        files = "" if body.get("files", "local") == "local" else f", files at {plain(body['files'])}"
        return f"adapter {adapter}, candidate {_short(body, 'candidate')}, data {_short(body, 'data')}{files}"
    if event.event in DECISIONS:
        if body.get("manual"):
            return "by hand"
        return f"against {named(body['against'], known)}" if body.get("against") else "against no champion"
    if event.event == "promoted":
        after = f" after {named(body['expects'], known)}" if body.get("expects") else ", the first"
        return f"champion{after}" + (", OVER A REFUSAL" if body.get("override") else "")
    if event.event == "rolled_back":
        return f"champion again, in place of {named(body.get('from') or body.get('expects'), known)}"
    if event.event == "restored":
        instead = body.get("from") or body.get("expects")
        return "champion again" + (f", in place of {named(instead, known)}" if instead else "")
    if event.event == "retired":
        return "while champion" if body.get("was_champion") else "was not champion"
    if event.event == "retracted":
        touched = ", ".join(named(digest, known) for digest in body.get("versions") or ()) or "no version"
        return f"row {_short(body, 'row_id')}, which is in {touched}"
    if event.event == "retrain_requested":
        rows = body.get("without") or []
        return f"without {len(rows)} row{'s' if len(rows) != 1 else ''}"
    if event.event == "evaluated":
        return f"on test set {_short(body, 'test')}, evaluation {_short(body, 'evaluation')}"
    if event.event == "adopted":
        return f"{body.get('versions')} versions taken over from MLflow's registry of before the ledger"
    if event.event == "alias_drift":
        found, should = body.get("found") or "nothing", body.get("should") or "nothing"
        return f"{plain(body.get('model'))}@{plain(body.get('alias'))} pointed at {found}, and should at {should}"
    if event.event == "waiver":
        return f"licence {plain(body.get('licence'))} of {plain(body.get('of'))}"
    if event.event == "approved_by":
        return "by a person"
    if event.event == "looked":
        return f"at test set {_short(body, 'test')}"
    if event.event == "signed":
        return f"with key {_key(body['signed_by'])}" if body.get("signed_by") else "the manifest"
    if event.event in ("data_claimed", "data_done", "data_released"):
        return f"data version {_short(body, 'data')}{_claimed(event)}"
    return event.event.replace("_", " ")


def _claimed(event: Event) -> str:
    """What a run said of its data version: who took it, what came of it, why it is free again."""
    body = event.body
    if event.event == "data_done":
        return f": {plain(body.get('outcome') or '?').replace('_', ' ')}"
    if event.event == "data_released":
        return " given back" if body.get("own") else " taken from a run that is dead"
    taker = read_holder(body.get("by") or {})
    forced = ", although its rows have drifted" if body.get("forced") else ""
    return (f" for {taker.words}" if taker else "") + forced


def _key(signed_by: object) -> str:
    """Of a key's id the digits that people compare; keyless:<who> whole."""
    said = plain(signed_by)
    return said if ":" in said else said[:KEY]


def _short(body: Mapping[str, Any], key: str) -> str:
    return plain(body.get(key) or "?")[:SHORT]
