"""A registry from before the ledger: what MLflow's tags say of its versions becomes the ledger's first events.

Once, where the ledger knows no version of a model and MLflow has some of ours. From then on the ledger is what is true.
"""

import json
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.registry.champion import registered
from medtune.registry.ledger import Ledger
from medtune.registry.standing import DECISIONS, champion, standings


def adopt(client: Any, ledger: Ledger, model: str, adapter_model: str) -> int:
    """How many versions were taken over; 0 where there is nothing to take over. The caller holds the ledger's lock.

    `adopted` is written last, so that a kill before it has the next call go on. RegistryError where MLflow's champion
    is none that medtune registered: nothing is done before somebody looks.
    """
    known = standings(ledger, model)
    if ledger.events(model, kinds={"adopted"}) or any(
        not item.registered.body.get("adopted") for item in known.values()
    ):
        return 0
    found = registered(client, model)
    if found is None:
        return 0
    taken: dict[str, Any] = {}
    for version in sorted(client.search_model_versions(f"name='{model}'"), key=lambda item: int(item.version)):
        kept, counterpart = version.tags, version.tags.get(tags.COUNTERPART, "").rpartition("/")[2]
        if not kept.get(tags.VERSION) or not counterpart or tags.MANIFEST not in kept:
            continue  # registered by hand, or half: not ours to answer for
        taken.setdefault(kept[tags.VERSION], version)
    number = found.aliases.get(tags.CHAMPION)
    crowned = [
        digest for digest, version in taken.items() if number is not None and int(version.version) == int(number)
    ]
    if number is not None and not crowned:
        raise RegistryError(
            f"MLflow's champion of {model}, version {number}, was not registered by medtune, and the ledger knows no "
            "version yet: remove that alias in MLflow, or name another model in register.model"
        )
    for digest, version in taken.items():
        if digest not in known:
            counterpart = int(version.tags[tags.COUNTERPART].rpartition("/")[2])
            ledger.append("registered", model, digest, _record(version, adapter_model, counterpart))
        if version.tags.get(tags.STATUS) in DECISIONS and not ledger.events(model, digest, DECISIONS):
            ledger.append(version.tags[tags.STATUS], model, digest, _decision(version))
    for digest in crowned if champion(ledger, model) is None else []:
        body = {
            "expects": None,
            "number": int(taken[digest].version),
            "policy": "auto",
            "by": "adopted",
            "reason": "MLflow's alias champion, from before there was a ledger",
            "override": False,
            "approval": None,
        }
        ledger.append("promoted", model, digest, body)
    if taken:
        ledger.append("adopted", model, body={"versions": len(taken)})
        print(f"the ledger takes over {len(taken)} versions of {model} that were registered before there was one")
    return len(taken)


def _decision(version: Any) -> dict[str, Any]:
    kept = version.tags
    against = kept.get(tags.AGAINST)
    return {
        "key": kept.get(tags.DECISION),
        "against": None if against in (None, "none", "unknown") else against,
        "reasons": json.loads(kept.get(tags.REASONS, "[]")),
        "findings": json.loads(kept.get(tags.FINDINGS, "[]")),
        "policy": "manual",  # its promotion, if there was one, is an event of its own
        "run_id": version.run_id,
        "evaluation": kept.get("medtune.evaluation"),
        "test": kept.get("medtune.test"),
        "decided_at": kept.get(tags.DECIDED_AT),
        "adopted": True,
    }


def _record(version: Any, adapter_model: str, adapter: int) -> dict[str, Any]:
    """The body of `registered`, as far as a version's tags tell it."""
    kept = version.tags

    def some(prefix: str, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: kept[f"{prefix}.{name}"] for name in names if f"{prefix}.{name}" in kept}

    return {
        "numbers": {"merged": int(version.version), "adapter": adapter},
        "adapter_model": adapter_model,
        "run_id": version.run_id,
        "candidate": kept.get(tags.CANDIDATE),
        "manifest": kept[tags.MANIFEST],
        "content": kept.get(tags.CONTENT),
        "data": kept.get("medtune.data"),
        "tokens": kept.get("medtune.tokens"),
        "test": kept.get("medtune.test"),
        "evaluation": kept.get("medtune.evaluation"),
        "base": some("base", ("id", "revision", "license")) | {"fingerprint": kept.get("medtune.base")},
        "dataset": some("dataset", ("id", "revision", "license")),
        "rows": None,
        "git": some("git", ("commit", "dirty")),
        "parent": None,
        "signed_by": None,
        "files": "local",
        "adopted": True,
    }
