"""Who becomes champion: promote, reject, roll back, retire. The ledger first, then MLflow's aliases and tags after it.

    promote(ledger, model, version, expects=digest of the champion that was seen, …)

Promotion is compare-and-swap: it names the champion it expects, and where another came first it raises Conflict, which
names the winner. Nothing here imports MLflow, so that a rollback is done in a moment, its server up or down: aliases
follow at once where it answers (`project`), and otherwise with the next write or `medtune doctor`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry import aliases, tags
from medtune.registry.ledger import Event, Ledger, whoami
from medtune.registry.standing import CROWNED, Standing, champion, previous_champions, resolve, standings


class Conflict(RegistryError):
    """Another version became champion in the meantime; `.winner` is the event that made it."""

    def __init__(self, sentence: str, winner: Event | None) -> None:
        super().__init__(sentence)
        self.winner = winner


def crown(
    ledger: Ledger, model: str, event: str, standing: Standing, expects: str | None, body: dict[str, Any], actor: str
) -> Event:
    """Append the event that makes `standing` champion, if `expects` (a version digest or None) still is. Conflict.

    What speaks against the version is asked once more in the same transaction: nobody slips in between.
    """

    def check(seen: Ledger) -> None:
        now = champion(seen, model)
        mine = standings(seen, model)[standing.version]
        if event == "promoted" and not body.get("override") and (refusal := mine.refusal()) is not None:
            raise RegistryError(f"{refusal}: it is not promoted")
        if event != "promoted" and mine.barred:
            raise RegistryError(f"{mine.refusal()}: it is not gone back to")
        if (now.version if now else None) == expects:
            return
        if now is None:
            raise Conflict(f"{model} has no champion any more: someone retired it; look, and do it again", None)
        number = now.body.get("number")
        raise Conflict(
            f"{standing.name} was to follow {expects[:12] if expects else 'no champion'}, but version {number} "
            f"({str(now.version)[:12]}) became champion at {now.at[:19]}Z, made so by {now.actor}; compare the two "
            f"(`medtune compare {standing.number} {number}`) and do it again if it still holds",
            now,
        )

    body = {"expects": expects, "number": standing.number, **body}
    return ledger.append(event, model, standing.version, body, actor, check)


def promote(
    ledger: Ledger, model: str, text: str, by: str, reason: str, override: bool = False, check: Callable | None = None
) -> tuple[Standing, Event | None]:
    """Make a version champion by hand; None for the event where it is already. `check(standing)`: its files hold.

    RegistryError for a version that the gate did not approve, that was retired, or whose rows were retracted, unless
    `override`; the override and its reason then stand with the version for ever. Conflict where another came first.
    """
    _signed(by, reason)
    standing = resolve(ledger, model, text)
    now = champion(ledger, model)
    if now is not None and now.version == standing.version:
        return standing, None
    refusal = standing.refusal()
    if refusal and not override:
        raise RegistryError(
            f"{refusal}: it is not promoted. `medtune lineage {standing.number}` shows why; --override promotes it all "
            "the same, and its history says so for ever"
        )
    if check is not None:
        check(standing)
    approval = ledger.append("approved_by", model, standing.version, {"by": by, "reason": reason}, by)
    body = {
        "policy": "manual",
        "by": by,
        "reason": reason,
        "override": bool(refusal),
        "approval": approval.seq,
        **({"overridden": refusal} if refusal else {}),
    }
    return standing, crown(ledger, model, "promoted", standing, now.version if now else None, body, by)


def rollback(
    ledger: Ledger, model: str, by: str, reason: str, to: str | None = None, check: Callable | None = None
) -> tuple[Standing, Event, list[str]]:
    """Make the champion before the present one champion again, or `to`, which must have been one.

    Returns it, the event, and a sentence for every earlier champion that was passed over: retired, its rows retracted,
    or refused by `check(standing)`, which raises where its files do not hold. RegistryError where none is left.
    """
    _signed(by, reason)
    now = champion(ledger, model)
    known = standings(ledger, model)
    earlier = [known[digest] for digest in previous_champions(ledger, model) if digest in known]
    if to is not None:
        wanted = resolve(ledger, model, to, known)
        if now is not None and wanted.version == now.version:
            raise RegistryError(f"{wanted.name} is the champion; there is nothing to roll back")
        if wanted.version not in {item.version for item in earlier}:
            raise RegistryError(f"{wanted.name} was never champion; `medtune promote {wanted.number}` makes it one")
        earlier = [wanted]
    passed: list[str] = []
    for standing in earlier:
        try:
            if standing.barred:
                raise RegistryError(str(standing.refusal()))
            if check is not None:
                check(standing)
        except RegistryError as error:
            passed.append(str(error))
            continue
        body = {"by": by, "reason": reason, "from": now.version if now else None}
        return standing, crown(ledger, model, "rolled_back", standing, now.version if now else None, body, by), passed
    raise RegistryError(
        f"{model} has no earlier champion to go back to"
        + (f": {'; '.join(passed)}" if passed else "; `medtune history` shows who was champion")
    )


def reject(ledger: Ledger, model: str, text: str, by: str, reason: str) -> Standing:
    """A person's word against a version: it cannot be promoted any more. The champion is rolled back first."""
    _signed(by, reason)
    standing = resolve(ledger, model, text)
    body = {"by": by, "reason": reason, "manual": True, "reasons": [f"{by}: {reason}"], "findings": []}
    ledger.append("rejected", model, standing.version, body, by, _not_the_champion(model, standing, "reject"))
    return standing


def retire(ledger: Ledger, model: str, text: str, by: str, reason: str) -> Standing:
    """Take a version out of use: neither promoted nor rolled back to any more. Its files and history stay."""
    _signed(by, reason)
    standing = resolve(ledger, model, text)
    if standing.retired is not None:
        raise RegistryError(f"{standing.name} was retired by {standing.retired.actor} at {standing.retired.at[:19]}Z")
    ledger.append("retired", model, standing.version, {"by": by, "reason": reason, "was_champion": False}, by,
                  _not_the_champion(model, standing, "retire"))  # fmt: skip
    return standing


def _not_the_champion(model: str, standing: Standing, verb: str) -> Callable[[Ledger], None]:
    """Whoever asks for a model finds one: the champion is never taken away, only followed by another."""

    def check(seen: Ledger) -> None:
        now = champion(seen, model)
        if now is not None and now.version == standing.version:
            raise RegistryError(
                f"{standing.name} is the champion: `medtune rollback` or promote another first, then {verb} it"
            )

    return check


def _signed(by: str, reason: str) -> None:
    if not by.strip() or not reason.strip():
        raise RegistryError("say who decides and why: --by NAME --reason TEXT")
    if len(by) > 200 or len(reason) > 4000:
        raise RegistryError("--by takes 200 characters and --reason 4,000")


def project(
    root: Path, ledger: Ledger, model: str, adapter_model: str, after: Sequence[Event | None] = ()
) -> list[str]:
    """Bring MLflow's aliases after the ledger: champion, and challenger for the newest version.

    Never raises for MLflow's sake: returns sentences, of aliases that somebody else had moved (put back, and written
    down as `alias_drift`), or why MLflow did not follow. `after`: the events that the caller just wrote. An alias that
    stands where the ledger had it before them merely lags; every other difference is drift.
    """
    try:
        moved = drift(aliases.registry_uri(root), ledger, model, adapter_model, repair=True)
    except RegistryError as error:
        return [f"{error}; the ledger holds, and MLflow follows with the next write or `medtune doctor`"]
    before = _before(ledger, model, adapter_model, [event for event in after if event is not None])
    told = []
    for body, sentence in moved:
        place = body["model"], body["alias"]
        if place not in before or body["found"] != before[place]:
            ledger.append("alias_drift", model, body=body)
            told.append(f"{sentence}: put back")
    return told


def _before(
    ledger: Ledger, model: str, adapter_model: str, events: Sequence[Event]
) -> dict[tuple[str, str], int | None]:
    """Where the aliases stood before these events: of those that crowned or registered somebody."""
    known = standings(ledger, model, bodies=False)
    stood: dict[tuple[str, str], int | None] = {}
    for event in events:
        if event.event in CROWNED:
            alias, standing = tags.CHAMPION, known.get(str(event.body.get("expects")))
        elif event.event == "registered":
            older = [item for item in known.values() if item.registered.seq < event.seq]
            alias, standing = tags.CHALLENGER, max(older, key=lambda item: item.registered.seq, default=None)
        else:
            continue
        stood[adapter_model, alias] = standing.adapter_number if standing else None
        stood[model, alias] = standing.number if standing else None
    return stood


def should_be(ledger: Ledger, model: str, adapter_model: str) -> dict[tuple[str, str], int | None]:
    """{(registered model, alias): number} as the ledger has it; None: the alias should not be there."""
    known = standings(ledger, model, bodies=False)
    if not known:  # a registry from before the ledger: registry.adopt takes it over, nothing of it is removed
        return {}
    now = champion(ledger, model)
    crowned = known.get(now.version) if now is not None and now.version else None
    newest = max(known.values(), key=lambda item: item.registered.seq, default=None)
    wanted: dict[tuple[str, str], int | None] = {}
    for alias, standing in ((tags.CHALLENGER, newest), (tags.CHAMPION, crowned)):
        wanted[adapter_model, alias] = standing.adapter_number if standing else None
        wanted[model, alias] = standing.number if standing else None  # the merged one last: readers come in by it
    return wanted


def drift(
    uri: str, ledger: Ledger, model: str, adapter_model: str, repair: bool = False
) -> list[tuple[dict[str, Any], str]]:
    """Where MLflow's aliases are not where the ledger has them: [(body of alias_drift, sentence)]; mended if `repair`.

    An alias that lags after a promotion of ours is no drift worth a record: whether to append one is the caller's.
    """
    found = {name: aliases.read_aliases(uri, name) for name in (adapter_model, model)}
    told = []
    for (name, alias), number in should_be(ledger, model, adapter_model).items():
        there = found[name].get(alias)
        if there == number:
            continue
        if repair:
            aliases.write_alias(uri, name, alias, number)
        says = f"version {number}" if number is not None else "none"
        was = f"points to version {there}" if there is not None else "is not there"
        told.append(
            (
                {"alias": alias, "model": name, "found": there, "should": number},
                f"{name}: MLflow's alias {alias} {was}, the ledger says {says}",
            )
        )
    return told


def promote_automatically(
    ledger: Ledger, model: str, standing: Standing, expects: str | None, approval: Event
) -> Event:
    """After the gate's approval under register.promotion: auto. Conflict where another champion came first."""
    refusal = standing.refusal()
    if refusal:
        raise RegistryError(f"{refusal}: it is not promoted")
    body = {
        "policy": "auto",
        "by": "the gate",
        "reason": f"approved by the gate (ledger row {approval.seq})",
        "override": False,
        "approval": approval.seq,
    }
    return crown(ledger, model, "promoted", standing, expects, body, whoami())
