"""`medtune promote | reject | rollback | retire`: who becomes champion. None of them imports MLflow."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medtune.params.recipe import Recipe
    from medtune.registry.ledger import Event, Ledger
    from medtune.registry.standing import Standing

ROOT = Path(".")
Version = Annotated[str, typer.Argument(metavar="VERSION", help="number in the registry, or digits of its digest")]
By = Annotated[str | None, typer.Option("--by", help="who answers for it; left out, MEDTUNE_ACTOR or the login name")]
Reason = Annotated[str, typer.Option("--reason", help="why; it stands in the history for ever")]


def promote(
    version: Version,
    reason: Reason,
    by: By = None,
    override: Annotated[
        bool, typer.Option("--override", help="although the gate did not approve it; marked so for ever")
    ] = False,
) -> None:
    """Make an approved version the champion, adapter and merged model together, after verifying every file."""
    from medtune.registry import promotion

    recipe, ledger = _open()
    ledger.verify()
    _say_where_it_was_judged(recipe, ledger, version)
    standing, event = promotion.promote(
        ledger, recipe.register_.model, version, _by(by), reason, override, lambda item: _verify(item, quick=False)
    )
    if event is None:
        print(f"{standing.name} is the champion already")
    else:
        print(f"{recipe.register_.model} {standing.name} is the champion now, promoted by {event.actor}: {reason}")
        if event.body["override"]:
            print(f"OVERRIDE: {event.body['overridden']}; its history, status and tags say so for ever")
            _mark(recipe, standing, f"{event.actor}: {reason}")
    _project(recipe, ledger, event)
    print("next: medtune status | medtune history | medtune rollback --reason …")


def rollback(
    reason: Reason,
    by: By = None,
    to: Annotated[str | None, typer.Option("--to", help="an earlier champion; left out, the one before")] = None,
) -> None:
    """Make the champion before this one champion again, MLflow's server up or down.

    Its names, sizes, manifest and signature are checked at once; every byte is read when it is loaded, or by `medtune
    verify`.
    """
    from medtune.registry import promotion

    recipe, ledger = _open()
    warn_if_broken(ledger)
    standing, event, passed = promotion.rollback(
        ledger, recipe.register_.model, _by(by), reason, to, lambda item: _verify(item, quick=True)
    )
    for sentence in passed:
        print(f"passed over: {sentence}")
    print(f"{recipe.register_.model} {standing.name} is the champion again, by {event.actor}: {reason}")
    _project(recipe, ledger, event)
    print(f"next: medtune verify {standing.number} reads every byte of it | medtune status")


def reject(version: Version, reason: Reason, by: By = None) -> None:
    """Say no to a version, whatever the gate says: it cannot be promoted any more, unless by --override."""
    from medtune.registry import promotion, tags

    recipe, ledger = _open()
    standing = promotion.reject(ledger, recipe.register_.model, version, _by(by), reason)
    print(f"{standing.name} is rejected by {_by(by)}: {reason}")
    _tag(recipe, standing, tags.STATUS, "rejected")
    _tag(recipe, standing, tags.REASONS, json.dumps([f"{_by(by)}: {reason}"], ensure_ascii=False))
    _project(recipe, ledger)


def retire(version: Version, reason: Reason, by: By = None) -> None:
    """Take a version out of use: it is neither promoted nor rolled back to any more. Its files and history stay."""
    from medtune.registry import promotion

    recipe, ledger = _open()
    standing = promotion.retire(ledger, recipe.register_.model, version, _by(by), reason)
    print(f"{standing.name} is retired by {_by(by)}: {reason}")
    _project(recipe, ledger)


def warn_if_broken(ledger: "Ledger | None") -> None:
    """On stderr, where the ledger's chain is: for commands that must work all the same."""
    from medtune.params.errors import RegistryError

    try:
        if ledger is not None:
            ledger.verify()
    except RegistryError as error:
        print(f"warning: {error}", file=sys.stderr)


def _say_where_it_was_judged(recipe: "Recipe", ledger: "Ledger", version: str) -> None:
    """A published version was compared with another registry's champion: whoever promotes it should know."""
    from medtune.registry.publish_promote import stands_against
    from medtune.registry.standing import resolve

    if (sentence := stands_against(ledger, recipe, resolve(ledger, recipe.register_.model, version))) is not None:
        print(f"note: {sentence}")


def _open() -> "tuple[Recipe, Ledger]":
    from medtune.params.recipe import load_recipe
    from medtune.registry.ledger import open_ledger

    return load_recipe(), open_ledger(ROOT)


def _by(by: str | None) -> str:
    from medtune.registry.ledger import whoami

    return by if by is not None else whoami()


def _verify(standing: "Standing", quick: bool) -> None:
    from medtune.registry.champion import verified

    verified(ROOT, standing, quick)


def _project(recipe: "Recipe", ledger: "Ledger", event: "Event | None" = None) -> None:
    from medtune.registry.promotion import project

    names = recipe.register_
    for sentence in project(ROOT, ledger, names.model, names.adapter_model, [event]):
        print(sentence)


def _mark(recipe: "Recipe", standing: "Standing", text: str) -> None:
    from medtune.registry import tags

    _tag(recipe, standing, tags.OVERRIDE, text)


def _tag(recipe: "Recipe", standing: "Standing", key: str, value: str) -> None:
    """On both halves in MLflow, as far as it answers: the ledger has it in any case."""
    from medtune.params.errors import RegistryError
    from medtune.registry import aliases

    uri = aliases.registry_uri(ROOT)
    names: dict[str, Any] = {
        recipe.register_.adapter_model: standing.adapter_number,
        recipe.register_.model: standing.number,
    }
    try:
        for model, number in names.items():
            aliases.write_tag(uri, model, number, key, value)
    except RegistryError as error:
        print(f"{error}; the ledger holds, and `medtune doctor` brings MLflow after it")
