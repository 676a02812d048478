"""Putting a candidate into the MLflow registry, so that a kill anywhere leaves the old champion or the new one.

The order of writes, each of which may be the last before a kill:

  1. registered models, if missing
  2. adapter version, then merged version, each with its identity tags in the same transaction
  3. alias `challenger` on the adapter, then on the merged model
  4. on the adapter, then on the merged version: the description and what was decided (validation_status, reasons …)
  5. if approved: alias `champion` on the adapter, then on the merged model
  6. tag medtune.decision on the merged version: nothing is left to do

The merged model's `champion` alias is what counts: readers come in by it and find the adapter through the version
digest, so that the pair changes at once, in the last write of step 5. A rerun finds versions by their digest and sets
what is missing; once step 6 is done it writes nothing. Every write can be repeated, none depends on what was read
before another process's write: the caller holds `registry_lock` throughout.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from medtune.registry import tags
from medtune.registry.champion import aliased, registered
from medtune.registry.gate import APPROVED, Decision, Finding
from medtune.tracking.store import HOME

ADAPTER_NOTE = "LoRA adapters of medtune. Each belongs to one base and to one version of the merged model."
MERGED_NOTE = (
    "Merged models of medtune. `champion` is the one to use, `challenger` the newest candidate; a version's page says "
    "what it is made from and how it was judged."
)


@dataclass(frozen=True)
class Half:
    """One of the two registered models of a version."""

    model: str
    source: str
    note: str


@dataclass(frozen=True)
class Registration:
    """What the registry is to hold. `identity`: tags of both halves; `describe(decision, is_adapter)`: the page."""

    version: str
    run_id: str
    adapter: Half
    merged: Half
    identity: dict[str, str]
    describe: Callable[[Decision, bool], str]
    licences: dict[str, str]

    @property
    def halves(self) -> tuple[Half, Half]:
        return self.adapter, self.merged


@dataclass(frozen=True)
class Registered:
    """Numbers of the two versions, the decision that stands, and whether it was found rather than made."""

    adapter: int
    merged: int
    decision: Decision
    known: bool


def register(client: Any, what: Registration, key: str, decide: Callable[[Any | None], Decision]) -> Registered:
    """Register a version once and settle its aliases; see the module for the order.

    `key` names the decision (registry.evidence.decision_key): where it is settled already nothing is written. `decide`
    is given the champion's merged model version (None where there is none, or it is this very version) and is asked
    only when there is something to decide. The caller holds `registry_lock`.
    """
    found = {half.model: find(client, half.model, what.version) for half in what.halves}
    for version in filter(None, found.values()):  # lost files were made anew, with a newer MLflow's description
        if version.tags.get(tags.MANIFEST) != what.identity[tags.MANIFEST]:
            client.set_model_version_tag(version.name, version.version, tags.MANIFEST, what.identity[tags.MANIFEST])
    merged = found[what.merged.model]
    if merged is not None and merged.tags.get(tags.DECISION) == key and found[what.adapter.model] is not None:
        numbers = [int(found[half.model].version) for half in what.halves]
        return Registered(*numbers, decision_of(merged), known=True)

    champion = aliased(client, what.merged.model, tags.CHAMPION)
    itself = champion is not None and champion.tags.get(tags.VERSION) == what.version
    if itself and champion.tags.get(tags.JUDGED) == key and found[what.adapter.model] is not None:
        # killed before the very last write: the decision is made, and made against the champion of that time
        client.set_model_version_tag(what.merged.model, str(champion.version), tags.DECISION, key)
        return Registered(int(found[what.adapter.model].version), int(champion.version), decision_of(champion), False)
    # Judged before anything is written: evidence that cannot be read leaves the registry as it was.
    decision = decide(None if itself else champion)

    for half in what.halves:
        if registered(client, half.model) is None:
            client.create_registered_model(half.model, description=half.note)
    numbers = {}
    for half in what.halves:
        version = found[half.model]
        if version is None:
            version = client.create_model_version(
                half.model, source=half.source, run_id=what.run_id, tags={**what.identity, tags.VERSION: what.version}
            )
        numbers[half.model] = str(version.version)

    for half in what.halves:
        client.set_registered_model_alias(half.model, tags.CHALLENGER, numbers[half.model])

    against = champion.tags.get(tags.VERSION, "unknown") if champion is not None and not itself else "none"
    for half, other in (what.halves, what.halves[::-1]):
        number = numbers[half.model]
        client.update_model_version(half.model, number, what.describe(decision, half is what.adapter))
        written = {
            **what.licences,  # anew with each decision: use and waivers may change under a version
            tags.COUNTERPART: f"{other.model}/{numbers[other.model]}",
            **{f"figure.{f.figure}": f"{f.value:.6g}" for f in decision.findings if f.value is not None},
            tags.AGAINST: against,
            tags.DECIDED_AT: datetime.now(UTC).isoformat(timespec="seconds"),
            tags.FINDINGS: json.dumps([vars(f) for f in decision.findings], ensure_ascii=False),
            tags.REASONS: json.dumps(decision.reasons, ensure_ascii=False),
            tags.STATUS: decision.outcome,
            tags.JUDGED: key,
        }
        for name, value in written.items():
            client.set_model_version_tag(half.model, number, name, value)

    if decision.outcome == APPROVED:
        for half in what.halves:
            client.set_registered_model_alias(half.model, tags.CHAMPION, numbers[half.model])
    client.set_model_version_tag(what.merged.model, numbers[what.merged.model], tags.DECISION, key)
    return Registered(*(int(numbers[half.model]) for half in what.halves), decision, known=False)


def registry_lock(root: Path) -> FileLock:
    """One registration at a time in a checkout. Not the store's own lock: scoring a champion may take minutes."""
    path = root / HOME / "registry.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def find(client: Any, model: str, version: str) -> Any | None:
    """The registered version with this digest, the first of them if an older mishap made two; None if there is none."""
    found = client.search_model_versions(f"name='{model}' and tags.`{tags.VERSION}` = '{version}'")
    return min(found, key=lambda item: int(item.version), default=None)


def decision_of(version: Any) -> Decision:
    """The decision that a version's tags keep."""
    return Decision(
        version.tags[tags.STATUS],
        json.loads(version.tags[tags.REASONS]),
        [Finding.read(item) for item in json.loads(version.tags[tags.FINDINGS])],
    )
