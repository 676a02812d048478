"""Versions that the ledger has and MLflow lost, and those that MLflow has and the ledger never heard of."""

import json
import time
from pathlib import Path

from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.registry.champion import verified
from medtune.registry.doctor_trouble import Examination, Trouble
from medtune.registry.promotion import crown
from medtune.registry.standing import Standing, previous_champions
from medtune.registry.versions import version_path

ANEW = "with its recipe in params.yaml, `dvc repro` and `dvc repro -f -s register` register it anew"


def check_champion(seen: Examination) -> list[Trouble]:
    """A champion that somebody deleted in MLflow: the one before it that is whole takes its place."""
    if seen.champion is None or seen.client is None:
        return []
    standing = seen.standings.get(seen.champion.version or "")
    if standing is None:
        return [
            Trouble(
                "champion_unknown",
                f"ledger row {seen.champion.seq} makes {str(seen.champion.version)[:12]} champion, which was never "
                "registered",
                "look at `medtune history`; promote a registered version",
            )
        ]
    gone = seen.missing(standing)
    if not gone:
        return []
    sentence = f"the champion, {standing.name}, is gone from MLflow: someone deleted {_names(gone)}"
    heir, passed = _heir(seen)
    if heir is None:
        why = f" ({'; '.join(passed)})" if passed else ""
        return [
            Trouble(
                "champion_deleted",
                f"{sentence}; no earlier champion can take its place{why}",
                f"{_files(seen, standing)}{ANEW}",
            )
        ]
    return [
        Trouble(
            "champion_deleted",
            f"{sentence}; {heir.name} was champion before it and is whole",
            f"make {heir.name} champion again: `medtune doctor`",
            lambda: _restore(seen, standing, heir, gone),
        )
    ]


def _restore(seen: Examination, lost: Standing, heir: Standing, gone: list[tuple[str, int]]) -> str:
    body = {"from": lost.version, "reason": f"{_names(gone)} deleted in MLflow", "by": "doctor"}
    crown(seen.ledger, seen.models[0], "restored", heir, lost.version, body, "doctor")
    return f"{heir.name} is champion again; to have {lost.name} back, {_files(seen, lost)}{ANEW}, then promote it"


def _heir(seen: Examination) -> tuple[Standing | None, list[str]]:
    """The latest earlier champion that can be used as it is, and why those after it cannot."""
    passed = []
    for digest in previous_champions(seen.ledger, seen.models[0]):
        standing = seen.standings.get(digest)
        if standing is None:
            continue
        if standing.barred:
            passed.append(str(standing.refusal()))
        elif gone := seen.missing(standing):
            passed.append(f"{standing.name}: {_names(gone)} deleted too")
        else:
            try:
                verified(seen.root, standing)
                return standing, passed
            except RegistryError as error:
                passed.append(f"{standing.name}: {error}")
    return None, passed


def check_gone(seen: Examination) -> list[Trouble]:
    """Other registered versions that MLflow lost. They cannot be loaded, promoted or rolled back to."""
    now = seen.champion.version if seen.champion else None
    troubles = []
    for standing in seen.standings.values() if seen.client else ():
        if standing.version == now or standing.retired is not None:
            continue
        if gone := seen.missing(standing):
            good = bool(standing.promoted) or (standing.decision is not None and standing.decision.event == "approved")
            troubles.append(
                Trouble(
                    "version_deleted",
                    f"{standing.name} is in the ledger, and MLflow has no {_names(gone)}: someone deleted it",
                    f"`medtune retire {standing.number} --by NAME --reason TEXT` if it may go; or, "
                    f"{_files(seen, standing)}{ANEW}",
                    warning=not good,
                )
            )
    return troubles


def check_halves(seen: Examination) -> list[Trouble]:
    """MLflow versions of ours that the ledger does not have: a registration was killed between, or made without it."""
    if seen.client is None:
        return []
    recorded = set()
    for event in seen.ledger.events(seen.models[0], kinds={"registered"}) if seen.ledger else []:
        numbers = event.body["numbers"]  # each time it was registered: earlier numbers may be there still
        recorded |= {(seen.models[0], event.version, numbers["merged"])}
        recorded |= {(seen.models[1], event.version, numbers["adapter"])}
    current = _current(seen.root)
    troubles = []
    for model, versions in seen.versions.items():
        for number, version in sorted(versions.items()):
            digest = version.tags.get(tags.VERSION)
            if digest is None or (model, digest, number) in recorded:
                continue  # not made by us, or as it should be
            troubles.append(_half(seen, model, number, version, digest, digest == current))
    return troubles


def _half(seen: Examination, model: str, number: int, version: object, digest: str, current: bool) -> Trouble:
    age = time.time() - version.creation_timestamp / 1000
    sentence = f"{model} version {number} ({digest[:12]}) is in MLflow, and the ledger has no such registration"
    if current:
        mend = "`dvc repro -f -s register` completes it: it is of the candidate that lies here (if it stays: delete it)"
    elif version.tags.get(tags.DECISION):
        mend = "it was decided on before there was a ledger: `dvc repro -f -s register` takes it into the ledger"
    elif age < seen.age:
        mend = "a registration may be running; look again in an hour"
    else:
        mend = "a registration was killed half-way: delete it, `medtune doctor`"
        held = seen.client.get_registered_model(model).aliases  # a search leaves them out
        names = [alias for alias, where in held.items() if int(where) == number]
        if not names:
            return Trouble("half_registered", sentence, mend, lambda: _delete(seen, model, number))
        mend = f"a registration was killed half-way; remove its alias {names[0]} and delete it in the MLflow UI"
    return Trouble("half_registered", sentence, mend, warning=age < seen.age)


def _delete(seen: Examination, model: str, number: int) -> str:
    seen.client.delete_model_version(model, str(number))
    return f"{model} version {number} is deleted; its number is not given again"


def _current(root: Path) -> str | None:
    """The version whose outputs lie in the checkout."""
    try:
        return json.loads((root / "reports/merge.json").read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError, AttributeError):
        return None


def _names(halves: list[tuple[str, int]]) -> str:
    return " and ".join(f"{model} version {number}" for model, number in halves)


def _files(seen: Examination, standing: Standing) -> str:
    path = version_path(seen.root, standing.version)
    where = f"are in {path.relative_to(seen.root.resolve())}" if path.exists() else "are gone too"
    return f"its files {where}: "
