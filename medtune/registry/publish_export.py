"""The first half of `medtune publish`: read a version and all its evidence out of a registry, into a bundle.

Nothing is written to the source. A bundle is whole or not there: it is made beside its place and renamed.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.params.recipe import load_recipe
from medtune.registry.champion import verified
from medtune.registry.ledger import Ledger, read_ledger
from medtune.registry.publish_bundle import (
    ARTIFACTS,
    EVIDENCE,
    SCHEMA,
    VERSION,
    link_tree,
    read_bundle,
    same_version,
    seal,
)
from medtune.registry.standing import DECISIONS, Standing, resolve
from medtune.tracking.runs import ARTIFACTS as UPLOADED
from medtune.tracking.store import connect, open_store, store_errors

# What happened to the version where it was made and judged. Who used it there is that registry's own history.
KINDS = frozenset({"registered", "evaluated", "waiver", "looked", "approved_by", "signed", *DECISIONS})
# Folders of a run that hold evidence, and files at its top; models in it travel as version/
FOLDERS = ("card", "reports", "evaluate", "train", "merge")
TOP = ("params.yaml",)


def export_version(root: Path, name: str, text: str, bundle: Path, by: str, reason: str) -> Path:
    """Write the bundle of a version of this environment's registry; `name`: what its target is called.

    RegistryError where the version may not be used (rejected, inconclusive, retired, rows retracted), where its files
    are not those that were registered, where its run is gone, and where `bundle` is a folder of something else.
    """
    if not by.strip() or not reason.strip():
        raise RegistryError("say who publishes it and why: --by NAME --reason TEXT")
    if len(by) > 200 or len(reason) > 4000:
        raise RegistryError("--by takes 200 characters and --reason 4,000")
    names, ledger = load_recipe(recipe_of(root)).register_, read_ledger(root)
    if ledger is not None:
        ledger.verify()
    standing = resolve(ledger, names.model, text)
    assert ledger is not None  # resolve says what is missing
    if refusal := standing.refusal():
        raise RegistryError(f"{refusal}: it is not published. `medtune lineage {standing.number}` shows why")
    if os.path.lexists(bundle):
        return _there_already(bundle, standing)
    place, manifest = verified(root, standing), standing.registered.body["manifest"]
    uri = open_store(root)
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{bundle.name}.", dir=bundle.parent) as folder, store_errors(uri):
        making, client = Path(folder) / "making", connect(uri)
        link_tree(place, making / VERSION)
        if not same_version(making / VERSION, standing.version, manifest):
            raise RegistryError(f"{standing.name} was changed while it was read; look at it with `medtune doctor`")
        (making / EVIDENCE).mkdir()
        run = _run(client, standing)
        told = _artifacts(client, str(run["run_id"]), making / EVIDENCE / ARTIFACTS)
        adapter_model = standing.registered.body["adapter_model"]
        publish = {
            "schema": SCHEMA,
            "from": name,
            "by": by,
            "reason": reason,
            "model": names.model,
            "adapter_model": adapter_model,
            "version": standing.version,
            "number": standing.number,
            "adapter_number": standing.adapter_number,
            "manifest": manifest,
            "events": _events(ledger, names.model, standing),
            "pages": {
                "adapter": _page(client, adapter_model, standing.adapter_number),
                "merged": _page(client, names.model, standing.number),
            },
        }
        seal(making, bundle, publish, run, _points(client, str(run["run_id"])))
    print(f"{names.model} {standing.name} of {name} and its evidence are in {bundle}")
    for sentence in told:
        print(sentence)
    return bundle


def recipe_of(root: Path) -> Path:
    """The recipe of a registry's own folder, or where that has none, of the checkout that we run in."""
    own = root / "params.yaml"
    return own if own.exists() else Path("params.yaml")


def _there_already(bundle: Path, standing: Standing) -> Path:
    """The same version, exported before: nothing to do."""
    if (bundle / EVIDENCE).is_dir() and read_bundle(bundle).version == standing.version:
        print(f"{standing.name} is in {bundle} already")
        return bundle
    raise RegistryError(f"{bundle} is there already, and is no bundle of {standing.name}; name a new folder")


def _events(ledger: Ledger, model: str, standing: Standing) -> list[dict[str, Any]]:
    """Rows as they are, with their digests. Of registrations the one that stands, with the numbers of today."""
    found = ledger.events(model, standing.version, KINDS)
    return [vars(e) for e in found if e.event != "registered" or e.seq == standing.registered.seq]


def _page(client: Any, model: str, number: int) -> dict[str, Any]:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version(model, str(number))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise RegistryError(f"MLflow has no {model} version {number}: someone deleted it; `medtune doctor`") from None
    return {"tags": dict(found.tags), "description": found.description or ""}


def _run(client: Any, standing: Standing) -> dict[str, Any]:
    from mlflow.exceptions import MlflowException

    run_id = standing.registered.body["run_id"]
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise RegistryError(
            f"the MLflow run {run_id} of {standing.name} is gone, and its record with it; `dvc repro -f -s register` "
            "with its recipe in params.yaml makes it anew"
        ) from None
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.") and k != UPLOADED}
    return {
        "run_id": run_id,
        "candidate": standing.registered.body["candidate"],
        "name": run.info.run_name or "",
        "experiment": client.get_experiment(run.info.experiment_id).name,
        "started": run.info.start_time,
        "finished": run.info.end_time,
        "params": dict(run.data.params),
        "tags": tags,
    }


def _points(client: Any, run_id: str) -> Iterator[tuple[str, float, int, int]]:
    for name in sorted(client.get_run(run_id).data.metrics):
        for point in client.get_metric_history(run_id, name):
            yield name, point.value, point.step, point.timestamp


def _artifacts(client: Any, run_id: str, target: Path) -> list[str]:
    """Fetch the run's evidence; returns a sentence where something was left out."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each file
    target.mkdir(parents=True)
    left = []
    for item in client.list_artifacts(run_id):
        if item.path in (FOLDERS if item.is_dir else TOP):
            client.download_artifacts(run_id, item.path, str(target))
        elif item.path != "versions":
            left.append(item.path)
    return [f"left out, since medtune did not write it: {', '.join(sorted(left))}"] if left else []
