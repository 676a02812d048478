"""Who was champion at a moment: since when, by whose approval, on which evidence, made from which rows.

told = champion_at(ledger, root, "medgpt-ko", parse_moment("2026-11-01"))
print(render(told))
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.history import local, named, plain, source, who
from medtune.registry.ledger import Event, Ledger
from medtune.registry.standing import CROWNED, DECISIONS, Standing, standings
from medtune.registry.version_record import read_record
from medtune.registry.versions import ROWS

FORMS = (
    "a day (2026-11-01: its end in this machine's zone), or a moment with or without a zone (2026-11-01T18:30, "
    "2026-11-01T18:30+09:00, 2026-11-01 09:30Z)"
)


@dataclass(frozen=True)
class Moment:
    """at: UTC, ISO 8601 with microseconds, as the ledger writes it; note: what was made of the text, if anything."""

    at: str
    note: str = ""


def parse_moment(text: str, now: datetime | None = None) -> Moment:
    """The moment that a user names; a day is its end in the local zone. What lies ahead is answered as now, with a
    note. RegistryError names the accepted forms."""
    now = (now or datetime.now(UTC)).astimezone(UTC)
    found = _read(text.strip())
    if found is None:
        raise RegistryError(f"{text[:64]!r} is no moment; write {FORMS}")
    moment, is_day = found
    if moment <= now:
        return Moment(moment.isoformat(timespec="microseconds"))
    today = is_day and moment.astimezone().date() == now.astimezone().date()
    note = "the day is not over: as of now" if today else f"{plain(text)} lies ahead: as of now"
    return Moment(now.isoformat(timespec="microseconds"), note)


def _read(text: str) -> tuple[datetime, bool] | None:
    # Python would also take 20261101 and 2026-W44-7; one way of writing a day is enough, and no typing error passes
    if not re.fullmatch(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?\s?(Z|[+-]\d\d:?\d\d)?)?", text, re.I):
        return None
    try:
        if len(text) == 10:
            return datetime.combine(date.fromisoformat(text), time.max).astimezone(UTC), True
        return datetime.fromisoformat(text.upper().replace(" ", "T", 1).replace(" ", "")).astimezone(UTC), False
    except (ValueError, OverflowError):
        return None


@dataclass
class Reign:
    """From the event that made a champion to the one that ended it (None: it still is)."""

    begun: Event
    ended: Event | None = None


def reigns(ledger: Ledger, model: str) -> list[Reign]:
    """Champions in the order of time. One whose alias was only set back goes on: it was champion all along."""
    found: list[Reign] = []
    for event in ledger.events(model, kinds={"retired", *CROWNED}):
        present = found[-1] if found and found[-1].ended is None else None
        if event.event == "retired":
            if present and present.begun.version == event.version:
                present.ended = event
        elif present is None or present.begun.version != event.version:
            if present:
                present.ended = event
            found.append(Reign(event))
    return found


def champion_at(ledger: Ledger | None, root: Path, model: str, moment: Moment) -> dict[str, Any]:
    """Plain data: {"model", "at", "note", "champion": {…} | None, "before", "after", "unknown"}.

    champion: version, number, override, since, until, by, approved, promoted, evidence, rows. Approval and evidence
    are those of that moment: what was decided later does not count.
    """
    told: dict[str, Any] = {"model": model, "at": moment.at, "note": moment.note, "champion": None}
    told |= {"before": None, "after": None, "unknown": []}
    if ledger is None:
        return told
    known, every = standings(ledger, model), reigns(ledger, model)
    begun = [reign for reign in every if reign.begun.at <= moment.at]
    present = begun[-1] if begun and (begun[-1].ended is None or begun[-1].ended.at > moment.at) else None
    earlier = begun[:-1] if present else begun
    told["before"] = _neighbour(earlier[-1], known) if earlier else None
    told["after"] = _neighbour(every[len(begun)], known) if len(every) > len(begun) else None
    if present is None:
        return told
    digest = str(present.begun.version)
    events = ledger.events(model, version=digest, until=moment.at)
    promotion = _promotion(present.begun, events)
    decision = _judged([event for event in events if event.seq < (promotion or present.begun).seq])
    told["champion"] = {
        **_neighbour(present, known),
        "event": present.begun.event,
        "promoted": {
            "who": who(present.begun),
            "policy": present.begun.body.get("policy"),
            "reason": present.begun.body.get("reason"),
            "override": bool(present.begun.body.get("override")),
        },
        "approved": _approved(promotion, events),
        "evidence": _evidence(decision, known.get(digest)),
    }
    if standing := known.get(digest):
        record = read_record(root, standing, with_run=False)
        told["champion"]["rows"] = {
            "data": record.body.get("data"),
            "counts": record.counts(),
            "sha256": record.body.get("rows"),
            "path": str(record.folder / ROWS) if record.rows is not None and record.folder.is_dir() else None,
            "dataset": record.body.get("dataset"),
        }
        told["unknown"] = record.unknown
    return told


def _neighbour(reign: Reign, known: Mapping[str, Standing]) -> dict[str, Any]:
    digest = str(reign.begun.version)
    standing = known.get(digest)
    return {
        "version": digest,
        "number": standing.number if standing else reign.begun.body.get("number"),
        "name": named(digest, known),
        "override": bool(standing and standing.overridden),
        "since": reign.begun.at,
        "until": reign.ended.at if reign.ended else None,
        "by": who(reign.begun),
    }


def _promotion(crowned: Event, events: list[Event]) -> Event | None:
    """The promotion that a champion stands on: one that came back came back on the approval of its own."""
    promotions = [event for event in events if event.event == "promoted" and event.seq <= crowned.seq]
    return promotions[-1] if promotions else None


def _approved(promotion: Event | None, events: list[Event]) -> dict[str, Any]:
    """how: gate, person, override or unknown; gate: what it had said by then; people: who approved by name."""
    last = promotion.seq if promotion else 0
    before = [event for event in events if event.seq < last]
    gate = _judged(before)
    named_ = [event for event in before if promotion and event.seq == promotion.body.get("approval")]
    override = promotion is not None and bool(promotion.body.get("override"))
    how = "override" if override else "gate" if not named_ or named_[0].event in DECISIONS else "person"
    if not override and not named_ and (gate is None or gate.event != "approved"):
        how = "unknown"
    return {
        "how": how,
        "refused": (promotion.body.get("overridden") or (gate and gate.event) or "never judged") if override else None,
        "gate": gate
        and {"outcome": gate.event, "at": gate.at, "who": who(gate), "key": gate.body.get("key"), "seq": gate.seq},
        "people": [
            {"who": who(event), "at": event.at, "reason": event.body.get("reason")}
            for event in named_  # and no others: a word whose promotion was refused approved nothing
            if event.event == "approved_by"
        ],
    }


def _judged(events: list[Event]) -> Event | None:
    """The newest decision of the gate."""
    decided = [event for event in events if event.event in DECISIONS and not event.body.get("manual")]
    return decided[-1] if decided else None


def _evidence(decision: Event | None, standing: Standing | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    body, registered = decision.body, standing.registered.body if standing else {}
    return {
        "decision": decision.event,
        "at": decision.at,
        "seq": decision.seq,
        "test": body.get("test") or registered.get("test"),
        "evaluation": body.get("evaluation") or registered.get("evaluation"),
        "run_id": body.get("run_id") or registered.get("run_id"),
        "against": body.get("against"),
        "findings": [finding for finding in body.get("findings") or [] if finding.get("blocks")],
    }


def render(told: Mapping[str, Any]) -> str:
    """For the terminal, times in the local zone."""
    lines = [f"{told['model']} at {local(told['at'])}" + (f" ({told['note']})" if told["note"] else "")]
    champion = told["champion"]
    if champion is None:
        lines.append("there was no champion")
    else:
        until = f"until {local(champion['until'])}" if champion["until"] else "and still is"
        lines.append(f"champion   {champion['name']}, since {local(champion['since'])}, {until}")
        lines += _approved_lines(champion["approved"])
        reason = champion["promoted"]["reason"]
        lines.append(f"promoted   {champion['promoted']['who']}" + (f": {plain(reason)}" if reason else ""))
        lines += _evidence_lines(champion["evidence"])
        lines += _rows_lines(champion.get("rows"))
    for name, key in (("before it", "before"), ("after it", "after")):
        other = told[key]
        since = f", from {local(other['since'])}, {other['by']}" if other else ""
        lines.append(f"{name:10} {other['name'] if other else 'nobody'}{since}")
    lines += [f"cannot be told: {sentence}" for sentence in told["unknown"]]
    return "\n".join(lines)


def _approved_lines(approved: Mapping[str, Any]) -> list[str]:
    lines = []
    if approved["how"] == "override":
        lines.append(f"OVERRIDE: promoted over a refusal ({plain(approved['refused'])})")
    if gate := approved["gate"]:
        lines.append(f"{gate['outcome']} {gate['who']}, {local(gate['at'])}, decision key {str(gate['key'])[:12]}")
    for person in approved["people"]:
        lines.append(f"by hand {person['who']}, {local(person['at'])}: {plain(person['reason'] or 'no reason given')}")
    lines = lines or ["the ledger does not say by whom"]
    return [f"{'approved' if n == 0 else '':10} {line}" for n, line in enumerate(lines)]


def _evidence_lines(evidence: Mapping[str, Any] | None) -> list[str]:
    if evidence is None:
        return ["evidence   none: it was never judged"]
    short = {key: str(evidence[key] or "?")[:12] for key in ("test", "evaluation")}
    lines = [f"evidence   test set {short['test']}, evaluation {short['evaluation']}, run {evidence['run_id'] or '?'}"]
    for finding in evidence["findings"]:
        lines.append(f"             {figure(finding)}")
    return lines


def figure(finding: Mapping[str, Any]) -> str:
    """ok  not_worse: -0.012 [-0.02, -0.004], worse by less than 0.05; a check without a number tells its outcome."""
    from medtune.registry.gate import Finding

    value, low, high = (finding.get(key) for key in ("value", "low", "high"))
    interval = f" [{low:.4g}, {high:.4g}]" if low is not None and high is not None else ""
    read = Finding.read(finding)
    told = read.outcome.replace("_", " ") if value is None else f"{value:.4g}"
    return f"{read.mark:2}  {read.name}: {told}{interval}, {read.bound}"


def _rows_lines(rows: Mapping[str, Any] | None) -> list[str]:
    if rows is None:
        return []
    counts = ", ".join(f"{name} {count:,}" for name, count in rows["counts"].items()) or "counts unknown"
    origin = f"; from {source(rows['dataset'])}" if rows["dataset"] else ""
    lines = [f"rows       data version {str(rows['data'])[:12]}: {counts}{origin}"]
    if rows["path"]:
        lines.append(f"           {rows['path']} (sha256 {rows['sha256']})")
    return lines
