"""Two registries beside each other, and what stands in one: for the tests of `medtune publish`."""

import hashlib
from pathlib import Path
from typing import Any

from registry_checkout import Checkout

from medtune.registry.ledger import Event, open_ledger
from medtune.registry.manifest import walk
from medtune.registry.publish_export import export_version
from medtune.registry.publish_import import import_bundle
from medtune.registry.standing import Standing
from medtune.registry.versions import version_path
from medtune.tracking.store import connect, open_store

MODEL, ADAPTER = "medgpt-ko", "medgpt-ko-adapter"


def send(dev: Path, prod: Path, bundle: Path, version: str = "1", promote: bool = False) -> Standing:
    export_version(dev, "dev", version, bundle, "hanna", "rehearsed")
    return import_bundle(prod, "prod", bundle, promote)


def told(root: Path, *kinds: str) -> list[Event]:
    return open_ledger(root).events(MODEL, kinds=set(kinds) or None)


def files(root: Path, digest: str) -> dict[str, str]:
    place = version_path(root, digest)
    return {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in walk(place)}


def run_of(root: Path, run_id: str) -> dict[str, Any]:
    """What a run says, without what is this registry's own."""
    client = connect(open_store(root))
    run = client.get_run(run_id)
    return {
        "params": run.data.params,
        "metrics": {
            name: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, name)]
            for name in run.data.metrics
        },
        "artifacts": _artifacts(client, run_id, ""),
        "name": run.info.run_name,
        "status": run.info.status,
    }


def _artifacts(client: Any, run_id: str, folder: str) -> dict[str, int]:
    """Sizes by path, without what a publication adds."""
    found: dict[str, int] = {}
    for item in client.list_artifacts(run_id, folder):
        if item.is_dir and item.path != "publish":
            found |= _artifacts(client, run_id, item.path)
        elif not item.is_dir:
            found[item.path] = item.file_size
    return found


def registered(checkout: Checkout, name: str = "a", **figures: Any) -> str:
    """Another candidate, put into the checkout's own registry as its pipeline would."""
    import stages.register

    version = checkout.candidate(name, **figures)
    stages.register.main(checkout.root)
    return version
