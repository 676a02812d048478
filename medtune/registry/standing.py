"""What the ledger's events say: how each version stands, who is champion, who was.

Everything here is worked out from events and nothing is kept beside them, so that no second truth can drift.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from medtune.params.errors import RegistryError
from medtune.registry.ledger import Event, Ledger

DECISIONS = frozenset({"approved", "rejected", "inconclusive"})
CROWNED = frozenset({"promoted", "rolled_back", "restored"})  # each makes its version the champion
SHORTEST = 6  # digits of a digest that name a version


@dataclass(frozen=True)
class Standing:
    """A registered version. number and adapter_number are MLflow's; retracted: ids of its rows that were retracted."""

    version: str
    number: int
    adapter_number: int
    registered: Event
    decision: Event | None = None
    promoted: tuple[Event, ...] = ()
    retired: Event | None = None
    retracted: tuple[str, ...] = ()
    overridden: bool = False

    @property
    def name(self) -> str:
        return f"version {self.number} ({self.version[:12]})"

    @property
    def barred(self) -> bool:
        """Not to be gone back to: retired, rows retracted, or a person said no to it."""
        return bool(self.retired or self.retracted or self.said_no)

    @property
    def said_no(self) -> bool:
        return (
            self.decision is not None and self.decision.event == "rejected" and bool(self.decision.body.get("manual"))
        )

    def refusal(self) -> str | None:
        """Why this version may not become champion; None where it may."""
        if self.retired is not None:
            return f"{self.name} was retired by {self.retired.actor}"
        if self.retracted:
            others = f" and {len(self.retracted) - 1} more" if len(self.retracted) > 1 else ""
            return f"{self.name} was made from row {self.retracted[0][:12]}{others}, retracted since"
        if self.decision is None:
            return f"{self.name} was never evaluated"
        if self.decision.event != "approved":
            return f"{self.name} was judged {self.decision.event}"
        return None


def standings(ledger: Ledger, model: str, bodies: bool = True) -> dict[str, Standing]:
    """Every registered version of a model by digest, in the order of registration."""
    found: dict[str, Standing] = {}
    kinds = {"registered", "retired", *DECISIONS, *CROWNED}
    # numbers are in the bodies of `registered`; findings, which are large, only in those of decisions
    small = {event.seq: event for event in ledger.events(model, kinds={"registered", *CROWNED})}
    for bare in ledger.events(model, kinds=kinds, bodies=bodies):
        event = small.get(bare.seq, bare)
        if event.event == "registered":
            if event.version not in found:
                numbers = event.body["numbers"]
                found[event.version] = Standing(event.version, numbers["merged"], numbers["adapter"], event)
            else:  # registered once more after someone deleted it in MLflow: new numbers, the same version
                numbers = event.body["numbers"]
                found[event.version] = replace(
                    found[event.version], number=numbers["merged"], adapter_number=numbers["adapter"], registered=event
                )
        elif event.version in found:
            found[event.version] = _after(found[event.version], event)
    for event in ledger.events(model, kinds={"retracted"}):
        for digest in event.body.get("versions", ()):
            if digest in found and event.body["row_id"] not in found[digest].retracted:
                found[digest] = replace(found[digest], retracted=(*found[digest].retracted, event.body["row_id"]))
    return found


def _after(standing: Standing, event: Event) -> Standing:
    if event.event in DECISIONS:
        return replace(standing, decision=event)
    if event.event == "retired":
        return replace(standing, retired=event)
    return replace(
        standing,
        promoted=(*standing.promoted, event),
        overridden=standing.overridden or bool(event.body.get("override")),
        # crowned again by --override after it was retired: it is in use, and marked so
        retired=None,
    )


def champion(ledger: Ledger, model: str, until: str | None = None) -> Event | None:
    """The event that made the champion of now, or of the moment `until` (UTC ISO 8601); None where there was none."""
    crowned: Event | None = None
    for event in ledger.events(model, kinds={"retired", *CROWNED}, until=until):
        if event.event in CROWNED:
            crowned = event
        elif crowned is not None and event.version == crowned.version:
            crowned = None
    return crowned


def previous_champions(ledger: Ledger, model: str) -> list[str]:
    """Digests of those who were champion before, the latest first, without the present one."""
    now = champion(ledger, model)
    seen: list[str] = []
    for event in reversed(ledger.events(model, kinds=CROWNED, bodies=False)):
        if event.version and event.version not in seen and (now is None or event.version != now.version):
            seen.append(event.version)
    return seen


def resolve(ledger: Ledger | None, model: str, text: str, known: Mapping[str, Standing] | None = None) -> Standing:
    """The version that a user names: its number, or the first digits of its digest."""
    found = known if known is not None else (standings(ledger, model) if ledger else {})
    if not found:
        raise RegistryError(f"{model} has no version yet; `make run` trains and registers one")
    text = text.strip().lower()
    if re.fullmatch(r"v?[0-9]{1,9}", text):
        for standing in reversed(found.values()):
            if standing.number == int(text.removeprefix("v")):
                return standing
    if re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", text):
        matching = [standing for digest, standing in found.items() if digest.startswith(text)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise RegistryError(f"{text} begins the digests of {len(matching)} versions of {model}; give more digits")
    newest = ", ".join(f"{item.number} ({item.version[:12]})" for item in list(found.values())[-5:])
    raise RegistryError(
        f"{model} has no version {text[:64]!r}: a version is named by its number or at least {SHORTEST} digits of its "
        f"digest; the newest are {newest}"
    )
