"""Who becomes champion after a publication: nobody by itself, and with --promote only what was judged against the
champion that is there.

A decision compares two versions on the same test rows. Where the target's champion is another one than the source's
was, nobody has compared the two: a person may still promote, and then answers for it by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.registry.champion import verified
from medtune.registry.ledger import Event, Ledger
from medtune.registry.promotion import crown, project
from medtune.registry.standing import Standing, champion, standings


def stands_against(ledger: Ledger, recipe: Recipe, standing: Standing) -> str | None:
    """What a person should know before a published version is promoted; None where it was judged here, or against the
    very champion of this registry, or is champion."""
    decision = standing.decision
    if decision is None or not (origin := decision.body.get("published")):
        return None
    model, now = recipe.register_.model, champion(ledger, recipe.register_.model)
    against = decision.body.get("against")
    if (now is not None and now.version == standing.version) or (now.version if now else None) == against:
        return None
    rival = f"the champion here is version {now.body.get('number')} ({str(now.version)[:12]})" if now else ""
    judged = f"{model} {standing.name} was judged in {judged_in(origin)} against "
    if now is None:
        return f"{judged}{_name(ledger, model, against)}, and there is no champion here: {_by_hand(standing)}"
    compare = f"`medtune compare {standing.number} {now.body.get('number')}` shows what is known of both"
    return (
        f"{judged}{_name(ledger, model, against)}, and {rival}: nobody has compared these two. {compare}; "
        f"{_by_hand(standing)}"
    )


def judged_in(origin: Mapping[str, Any]) -> str:
    """The registry that made the decision: the first of those that a version came through."""
    while origin.get("before"):
        origin = origin["before"]
    return str(origin["from"])


def promote_published(root: Path, ledger: Ledger, recipe: Recipe, standing: Standing) -> None:
    """Make it champion under register.promotion: auto, as the gate's approval would where it was judged.

    RegistryError under manual, and where `stands_against` says something; Conflict where another came first.
    """
    names, now = recipe.register_, champion(ledger, recipe.register_.model)
    if now is not None and now.version == standing.version:
        print(f"{standing.name} is the champion already")
        _project(root, ledger, recipe, now)  # a kill may have fallen between the ledger and MLflow's aliases
        return
    if names.promotion != "auto":
        raise RegistryError(
            f"register.promotion is {names.promotion} here: {standing.name} is registered, and {_by_hand(standing)}"
        )
    if (why := stands_against(ledger, recipe, standing)) is not None:
        raise RegistryError(f"it is registered and not promoted: {why}")
    verified(root, standing)
    assert standing.decision is not None  # a published version has one
    origin = standing.decision.body["published"]
    body = {
        "policy": "published",
        "by": origin["by"],
        "reason": f"published from {origin['from']}: {origin['reason']}",
        "override": False,
        "approval": standing.decision.seq,
    }
    expects = standing.decision.body.get("against")
    event = crown(ledger, names.model, "promoted", standing, expects, body, str(origin["by"]))
    print(f"{names.model} {standing.name} is the champion now, promoted by {event.actor}: {origin['reason']}")
    _project(root, ledger, recipe, event)


def _project(root: Path, ledger: Ledger, recipe: Recipe, event: Event) -> None:
    names = recipe.register_
    for sentence in project(root, ledger, names.model, names.adapter_model, [event]):
        print(sentence)


def _name(ledger: Ledger, model: str, digest: str | None) -> str:
    if digest is None:
        return "the base alone, with no champion"
    known = standings(ledger, model, bodies=False).get(digest)
    return known.name if known else f"version {digest[:12]}, which is not in this registry"


def _by_hand(standing: Standing) -> str:
    return f"`medtune promote {standing.number} --by NAME --reason TEXT` makes it champion on that person's word"
