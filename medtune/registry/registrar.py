"""Putting a candidate into the registry: one version however often and by however many, judged, and perhaps crowned.

The order of writes, each of which may be the last before a kill:

  1. MLflow's registered models, if missing; adapter version, then merged version, each with its identity, licences and
     figures: a tag that is there at birth costs nothing, one that is set later asks the store four times
  2. ledger `registered`, with both numbers: from here on the version exists. Before it there are at most two entries in
     MLflow's list that nobody of ours reads; a rerun takes them up, `medtune doctor` clears them away
  3. ledger `evaluated`, `waiver` …, and the decision: `approved`, `rejected` or `inconclusive`
  4. MLflow's description and tags of both versions, alias `challenger` on both
  5. where approved, under register.promotion: auto, ledger `promoted`: the one write that changes the champion
  6. MLflow's alias `champion` on the adapter, then on the merged model; tag medtune.decision: nothing is left to do

The decision may take minutes, since it may score the champion, and holds no lock: it names the champion it was made
against. Where another came first, step 5 meets a Conflict and the candidate is judged anew, against the winner. Steps 1
to 6 hold the ledger's lock, so that registrations of one candidate at one time make one version. A rerun finds versions
by their digest and writes what is missing; once step 6 is done it writes nothing.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.registry.champion import registered
from medtune.registry.gate import APPROVED, Decision, Finding
from medtune.registry.ledger import Event, Ledger
from medtune.registry.promotion import Conflict, project, promote_automatically
from medtune.registry.retracted_rows import mark_registered
from medtune.registry.standing import CROWNED, DECISIONS, Standing, champion, standings
from medtune.registry.versions import rows_of
from medtune.tracking.store import HOME

ADAPTER_NOTE = "LoRA adapters of medtune. Each belongs to one base and to one version of the merged model."
MERGED_NOTE = (
    "Merged models of medtune. `champion` is the one to use, `challenger` the newest candidate; a version's page says "
    "what it is made from and how it was judged. Load through `medtune`, which verifies every file and asks the ledger "
    "who is champion: these aliases are a copy of what it says, and whoever loads by them alone is not protected."
)
TRIES = 8  # decisions lost to another champion in a row before somebody should look


@dataclass(frozen=True)
class Half:
    """One of the two registered models of a version."""

    model: str
    source: str
    note: str


@dataclass(frozen=True)
class Registration:
    """What the registry is to hold. `identity`: tags of both halves; `describe(decision, is_adapter)`: the page;
    `record`: the body of the ledger's `registered`, without the numbers; `evaluation`: the body of `evaluated`."""

    version: str
    run_id: str
    adapter: Half
    merged: Half
    identity: dict[str, str]
    describe: Callable[[Decision, bool], str]
    licences: dict[str, str]
    record: dict[str, Any]
    evaluation: dict[str, Any]
    waivers: Sequence[dict[str, Any]] = field(default=())

    @property
    def halves(self) -> tuple[Half, Half]:
        return self.adapter, self.merged


@dataclass(frozen=True)
class Registered:
    """Numbers of the two versions, the decision that stands, and whether it was found rather than made.

    `promoted`: the event by which this very call made it champion. `told`: why MLflow's aliases could not follow.
    """

    adapter: int
    merged: int
    decision: Decision
    known: bool
    promoted: Event | None = None
    told: tuple[str, ...] = ()


def register(
    root: Path,
    client: Any,
    ledger: Ledger,
    what: Registration,
    key: str,
    decide: Callable[[Standing | None], Decision],
    policy: str = "auto",
) -> Registered:
    """Register a version once and settle who is champion; see the module for the order.

    `key` names the decision (registry.evidence.decision_key): where it is made already it stands. `decide` is given the
    champion (None where there is none, or it is this very version), and is asked only where there is one to make.
    `policy`: auto or manual; a manual one leaves an approved version to `medtune promote`.
    """
    model, stale = what.merged.model, None
    for _ in range(TRIES):
        now = champion(ledger, model)
        itself = now is not None and now.version == what.version
        event = _decision(ledger, what, key, stale)
        # Judged before anything is written: evidence that cannot be read leaves the registry as it was.
        known = event is not None
        rival = None if itself or now is None else standings(ledger, model).get(str(now.version))
        made = None if known else decide(rival)
        with ledger.lock(model):
            standing = _take_up(root, client, ledger, what, made if event is None else decision_of(event))
            event = event or _decision(ledger, what, key, stale)
            if event is None:
                event = _decided(ledger, what, key, made, rival, policy)
            decision = decision_of(event)
            if _is_settled(client, ledger, what, standing, event):
                return Registered(standing.adapter_number, standing.number, decision, known=True)
            if not _is_dressed(client, what, standing, event):
                _dress(client, what, standing, decision, event, key)
            try:
                crowned = _crown(ledger, what, event)
            except Conflict as conflict:
                print(f"{conflict}\njudging against version {conflict.winner and conflict.winner.body.get('number')}")
                stale = event.seq
                continue
            # not settled: what this version's own events changed may lag, since the last one was killed
            own = (standing.registered, *(standings(ledger, model)[what.version].promoted[-1:]))
            told = tuple(project(root, ledger, model, what.adapter.model, own))
            client.set_model_version_tag(model, str(standing.number), tags.DECISION, key)
            return Registered(standing.adapter_number, standing.number, decision, known, crowned, told)
    raise RegistryError(
        f"{TRIES} other versions became champion of {model} while this one was judged; run `dvc repro -f -s register` "
        "when it is quiet"
    )


def _decision(ledger: Ledger, what: Registration, key: str, after: int | None) -> Event | None:
    """The newest decision of this key, unless it is the one that lost to another champion."""
    found = [
        event for event in ledger.events(what.merged.model, what.version, DECISIONS) if event.body.get("key") == key
    ]
    return found[-1] if found and (after is None or found[-1].seq > after) else None


def _take_up(root: Path, client: Any, ledger: Ledger, what: Registration, decision: Decision) -> Standing:
    """Steps 1 and 2: the standing of a version that both MLflow and the ledger have."""
    model = what.merged.model
    for half in what.halves:
        if registered(client, half.model) is None:
            client.create_registered_model(half.model, description=half.note)
    numbers = {}
    born = {**what.identity, **what.licences, **_figures(decision), tags.VERSION: what.version}
    for half in what.halves:
        version = find(client, half.model, what.version)
        if version is None:
            version = client.create_model_version(half.model, source=half.source, run_id=what.run_id, tags=born)
        elif version.tags.get(tags.MANIFEST) != what.identity[tags.MANIFEST]:  # lost files were made anew
            client.set_model_version_tag(version.name, version.version, tags.MANIFEST, what.identity[tags.MANIFEST])
        numbers[half.model] = int(version.version)
    record = {
        **what.record,
        "numbers": {"merged": numbers[model], "adapter": numbers[what.adapter.model]},
        "adapter_model": what.adapter.model,
        "run_id": what.run_id,
    }
    there = standings(ledger, model).get(what.version)
    same = ("numbers", "manifest", "content", "files")
    if there is None or any(there.registered.body.get(name) != record.get(name) for name in same):
        ledger.append("registered", model, what.version, record)
        there = standings(ledger, model)[what.version]
    if mark_registered(ledger, model, what.version, rows_of(root, what.version)):
        there = standings(ledger, model)[what.version]  # rows were retracted while it was trained
    return there


def _decided(
    ledger: Ledger, what: Registration, key: str, made: Decision, rival: Standing | None, policy: str
) -> Event:
    """Step 3."""
    model = what.merged.model
    said_no = [event for event in ledger.events(model, what.version, {"rejected"}) if event.body.get("manual")]
    if said_no:  # a person's word outlives the gate's next one
        made = replace(made, outcome="rejected", reasons=[*said_no[-1].body["reasons"], *made.reasons])
    told = ledger.events(model, what.version, {"evaluated", "waiver"})
    if not any(event.event == "evaluated" and event.body == what.evaluation for event in told):
        ledger.append("evaluated", model, what.version, what.evaluation)
    for waiver in what.waivers:
        if not any(event.event == "waiver" and event.body == waiver for event in told):
            ledger.append("waiver", model, what.version, waiver, actor=waiver.get("by"))
    body = {
        "key": key,
        "against": rival.version if rival else None,
        "reasons": list(made.reasons),
        "findings": [vars(finding) for finding in made.findings],
        "policy": policy,
        "run_id": what.run_id,
        **({"manual": True} if said_no else {}),
        **what.evaluation,
    }
    return ledger.append(made.outcome, model, what.version, body)


def _crown(ledger: Ledger, what: Registration, event: Event) -> Event | None:
    """Step 5; None where there is nothing to promote. Conflict where another is champion than was judged against."""
    model = what.merged.model
    if not _is_due(ledger, what, event):
        return None
    standing = standings(ledger, model)[what.version]
    if (refusal := standing.refusal()) is not None:  # rejected by a person, retired, rows retracted since
        print(f"{refusal}: it is not promoted")
        return None
    return promote_automatically(ledger, model, standing, event.body.get("against"), event)


def _is_due(ledger: Ledger, what: Registration, event: Event) -> bool:
    """Whether this very approval is still to be followed by a promotion: coming back to a known version is none."""
    if event.event != APPROVED or event.body.get("policy", "auto") != "auto":
        return False
    model = what.merged.model
    now, then = champion(ledger, model), champion(ledger, model, until=event.at)
    if any(crowned is not None and crowned.version == what.version for crowned in (now, then)):
        return False  # it is champion, or was when it was approved: there was nothing to promote
    crowned = ledger.events(model, kinds=CROWNED)
    if any(made.event == "rolled_back" and made.body.get("from") == what.version for made in crowned):
        mine = [made.seq for made in crowned if made.version == what.version]
        away = [made.seq for made in crowned if made.event == "rolled_back" and made.body.get("from") == what.version]
        if away[-1] > mine[-1]:
            return False  # a person took it out of use: only a person brings it back
    return not any(
        made.version == what.version and (made.body.get("approval") == event.seq or made.seq > event.seq)
        for made in crowned
    )


def _is_settled(client: Any, ledger: Ledger, what: Registration, standing: Standing, event: Event) -> bool:
    merged = client.get_model_version(what.merged.model, str(standing.number))
    return (
        merged.tags.get(tags.DECISION) == event.body["key"]
        and merged.tags.get(tags.JUDGED) == f"{event.body['key']}/{event.seq}"
        and not (_is_due(ledger, what, event) and standing.refusal() is None)
    )


def _is_dressed(client: Any, what: Registration, standing: Standing, event: Event) -> bool:
    """The merged version's tag is the last write of step 4."""
    merged = client.get_model_version(what.merged.model, str(standing.number))
    return merged.tags.get(tags.JUDGED) == f"{event.body['key']}/{event.seq}"


def _dress(client: Any, what: Registration, standing: Standing, decision: Decision, event: Event, key: str) -> None:
    """Step 4; what stands already is not written again."""
    numbers = {what.adapter.model: str(standing.adapter_number), what.merged.model: str(standing.number)}
    for half, other in (what.halves, what.halves[::-1]):
        number = numbers[half.model]
        page = what.describe(decision, half is what.adapter)
        if len(page) > tags.LONGEST_PAGE:  # PostgreSQL holds MLflow to its column's width
            page = page[: tags.LONGEST_PAGE - len(tags.CUT)] + tags.CUT
        there = client.get_model_version(half.model, number)
        if there.description != page:
            client.update_model_version(half.model, number, page)
        written = {
            **what.licences,  # anew with each decision: use and waivers may change under a version
            tags.COUNTERPART: f"{other.model}/{numbers[other.model]}",
            **_figures(decision),
            **decision_tags(event),
            tags.JUDGED: f"{key}/{event.seq}",
        }
        for name, value in written.items():  # JUDGED last: it says that all of this is written
            if there.tags.get(name) != value:
                client.set_model_version_tag(half.model, number, name, value)


def _figures(decision: Decision) -> dict[str, str]:
    return {f"figure.{f.figure}": f"{f.value:.6g}" for f in decision.findings if f.value is not None}


def decision_tags(event: Event) -> dict[str, str]:
    """What MLflow's pages are to say of a decision of the ledger."""
    return {
        tags.AGAINST: event.body.get("against") or "none",
        tags.DECIDED_AT: f"{event.at[:19]}+00:00",
        tags.FINDINGS: _bounded(event.body.get("findings", [])),
        tags.REASONS: _bounded(event.body.get("reasons", [])),
        tags.STATUS: event.event,
    }


def _bounded(items: list[Any]) -> str:
    """As JSON within what a tag of MLflow takes: the last items go, and the ledger has them all."""
    while len(text := json.dumps(items, ensure_ascii=False)) > tags.LONGEST:
        items = items[:-1]
    return text


def registry_lock(root: Path) -> FileLock:
    """One registration at a time touches a checkout's version folders and reports."""
    path = root / HOME / "registry.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def find(client: Any, model: str, version: str) -> Any | None:
    """The registered version with this digest, the first of them if an older mishap made two; None if there is none."""
    if not (len(version) == 64 and set(version) <= set("0123456789abcdef")):
        raise RegistryError(f"a version digest is 64 hexadecimal digits, not {version[:80]!r}")
    found = client.search_model_versions(f"name='{model}' and tags.`{tags.VERSION}` = '{version}'")
    return min(found, key=lambda item: int(item.version), default=None)


def decision_of(event: Event) -> Decision:
    """The decision that an event of the ledger keeps."""
    return Decision(
        event.event,
        list(event.body.get("reasons", [])),
        [Finding.read(item) for item in event.body.get("findings", [])],
    )
