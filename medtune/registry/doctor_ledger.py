"""The ledger itself, and what MLflow shows of it: aliases and tags that somebody changed are put back from the ledger.

A ledger whose chain is broken is never repaired, and nothing is written after it: whoever could edit a row would else
have doctor crown the version of their choice.
"""

import json
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.registry.aliases import Unreachable, read_aliases, write_alias
from medtune.registry.doctor_trouble import Examination, Trouble, local_path
from medtune.registry.promotion import drift
from medtune.registry.registrar import decision_tags
from medtune.registry.standing import Standing
from medtune.tracking.store import HOME, SQLITE

BACKUP = (
    "put the newest sound backup of the ledger's database back: copy the backup over mlruns/mlflow.db while nothing "
    "runs (docs/runbook.md; on PostgreSQL pg_restore; `medtune doctor --check` says whether it is sound), and find out "
    "who wrote to it; until then doctor repairs nothing that the ledger decides"
)
JSON = {tags.REASONS, tags.FINDINGS}


def check_ledger(seen: Examination) -> list[Trouble]:
    """The chain of events, row by row, and the last row that this checkout has seen."""
    seen.trusted = True
    if seen.ledger is None:
        head = seen.root / HOME / "ledger.head"
        if head.exists() and seen.uri == f"{SQLITE}{local_path(seen.root)}":
            seen.trusted = False
            return [Trouble("ledger_broken", f"the ledger is gone: {head} says that this checkout has seen it", BACKUP)]
        return []
    try:
        seen.ledger.verify()
    except RegistryError as error:
        seen.trusted = False
        return [Trouble("ledger_broken", str(error), BACKUP)]
    return []


def check_mlflow(seen: Examination) -> list[Trouble]:
    """MLflow answers; where it does not, what it holds is unknown, and nothing is concluded from that."""
    if seen.client is None:
        if not seen.standings:
            return []
        return [
            Trouble(
                "mlflow_gone",
                f"the ledger has {len(seen.standings)} versions of {seen.models[0]}, and there is no MLflow database",
                "put its backup back (mlruns/mlflow.db)",
            )
        ]
    try:
        read_aliases(seen.uri, seen.models[0])  # MLflow's own client would try again for minutes
    except Unreachable as error:
        seen.client = None
        return [Trouble("mlflow_unreachable", str(error), "start it, then look again; the ledger holds meanwhile")]
    return []


def check_aliases(seen: Examination) -> list[Trouble]:
    """champion and challenger of both models, as the ledger has them; other aliases are their owners' business."""
    if seen.ledger is None or seen.client is None:
        return []
    model, adapter_model = seen.models
    troubles = []
    for body, sentence in drift(seen.uri, seen.ledger, model, adapter_model):
        name, should = body["model"], body["should"]
        if should is not None and _gone(seen, name, should):
            continue  # deleted: told by check_versions, and no alias can point to it
        troubles.append(
            Trouble(
                "alias_drift",
                sentence,
                "put it back: `medtune doctor` (to change the champion: medtune promote or rollback)",
                lambda body=body: _put_back(seen, body),
            )
        )
    return troubles


def _gone(seen: Examination, name: str, number: int) -> bool:
    owners = {half for standing in seen.standings.values() for half in seen.missing(standing)}
    return number not in seen.versions[name] or (name, number) in owners


def _put_back(seen: Examination, body: dict[str, Any]) -> str:
    write_alias(seen.uri, body["model"], body["alias"], body["should"])
    # after the write: a kill between leaves the alias right and a line missing, never a line that is not so
    seen.ledger.append("alias_drift", seen.models[0], body=body)
    where = f"points to version {body['should']} again" if body["should"] is not None else "is removed"
    return f"{body['model']}: alias {body['alias']} {where}; the ledger has a row of it"


def check_tags(seen: Examination) -> list[Trouble]:
    """What the pages of registered versions say of identity and decision."""
    troubles = []
    for standing in seen.standings.values() if seen.client else ():
        for index, name in enumerate(seen.models):
            number = (standing.number, standing.adapter_number)[index]
            version = seen.versions[name].get(number)
            if version is None or version.tags.get(tags.VERSION, standing.version) != standing.version:
                continue
            wanted = expected_tags(seen, standing, is_adapter=bool(index))
            wrong = {key: value for key, value in wanted.items() if not _same(key, version.tags.get(key), value)}
            if wrong:
                key, value = next(iter(wrong.items()))
                others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
                troubles.append(
                    Trouble(
                        "tag_drift",
                        f"{name} version {number}: its tag {key} is {_short(version.tags.get(key))}, the ledger has "
                        f"{_short(value)}{others}",
                        "put it back: `medtune doctor`",
                        lambda name=name, number=number, wrong=wrong: _rewrite(seen, name, number, wrong),
                    )
                )
    return troubles


def expected_tags(seen: Examination, standing: Standing, is_adapter: bool) -> dict[str, str]:
    """Tags of a half as the ledger's rows have them. Not medtune.decision: only register knows that nothing is left."""
    body = standing.registered.body
    wanted = {
        tags.VERSION: standing.version,
        tags.CANDIDATE: body.get("candidate"),
        tags.MANIFEST: body.get("manifest"),
        tags.CONTENT: body.get("content"),
        "medtune.data": body.get("data"),
        "medtune.tokens": body.get("tokens"),
        "medtune.test": body.get("test"),
    }
    if standing.decision is not None:
        other = (seen.models[0], standing.number) if is_adapter else (seen.models[1], standing.adapter_number)
        wanted[tags.COUNTERPART] = f"{other[0]}/{other[1]}"
        # a person's word leaves the gate's findings to be read; an adopted decision is older than its row
        left = {tags.DECIDED_AT, *({tags.FINDINGS, tags.AGAINST} if standing.decision.body.get("manual") else ())}
        wanted |= {key: value for key, value in decision_tags(standing.decision).items() if key not in left}
    for event in standing.promoted:
        if event.body.get("override"):
            wanted[tags.OVERRIDE] = f"{event.actor}: {event.body['reason']}"
    return {key: str(value) for key, value in wanted.items() if value not in (None, "")}


def _rewrite(seen: Examination, name: str, number: int, wrong: dict[str, str]) -> str:
    for key, value in wrong.items():
        seen.client.set_model_version_tag(name, str(number), key, value)
    return f"{name} version {number}: {', '.join(wrong)} put back"


def _same(key: str, found: str | None, wanted: str) -> bool:
    if found is None or key not in JSON:
        return found == wanted
    try:
        return json.loads(found) == json.loads(wanted)
    except ValueError:
        return False


def _short(value: str | None) -> str:
    if value is None:
        return "missing"
    return repr(value if len(value) <= 60 else f"{value[:57]}...")
