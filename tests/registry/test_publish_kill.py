"""A kill between any two writes of a publication leaves a registry that works; a rerun ends where a calm one does."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registry.publication import MODEL, files, run_of
from registry_checkout import Checkout
from soak import every

from medtune.registry import aliases, promotion
from medtune.registry.ledger import Ledger, open_ledger
from medtune.registry.publish_bundle import read_bundle
from medtune.registry.publish_export import export_version
from medtune.registry.publish_import import import_bundle
from medtune.registry.standing import champion, standings
from medtune.tracking.store import connect, open_store

WRITES = (
    "create_experiment",
    "create_run",
    "set_tag",
    "update_run",
    "set_terminated",
    "log_batch",
    "log_artifact",
    "create_registered_model",
    "create_model_version",
    "update_model_version",
    "set_model_version_tag",
)


class Killed(BaseException):
    """As final as SIGKILL for anything that would catch an Exception."""


def run(root: Path, bundle: Path, at: int | None) -> list[str]:
    """Import, ended before write number `at` (from 0): of MLflow's client, the ledger, the aliases, the disk."""
    from mlflow import MlflowClient

    writes: list[str] = []

    def counted(name: str, method: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(writes) == at:
                raise Killed
            writes.append(name)
            return method(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
        patch.setattr(Ledger, "append", counted("ledger", Ledger.append))
        patch.setattr(promotion.aliases, "write_alias", counted("alias", aliases.write_alias))
        patch.setattr(Path, "replace", counted("rename", Path.replace))
        import_bundle(root, "prod", bundle, promote=True)
    return writes


def state(root: Path, version: str) -> dict[str, Any]:
    ledger, client = open_ledger(root), connect(open_store(root))
    standing = standings(ledger, MODEL)[version]
    page = client.get_model_version(MODEL, str(standing.number))
    experiment = client.get_experiment_by_name("medtune").experiment_id
    return {
        "ledger": [(event.event, event.version) for event in ledger.events()],
        "files": files(root, version),
        "run": run_of(root, standing.registered.body["run_id"]),
        "runs": len(client.search_runs([experiment])),
        "tags": sorted(page.tags),
        "versions": len(client.search_model_versions(f"name='{MODEL}'")),
        "aliases": dict(client.get_registered_model(MODEL).aliases),
        "champion": champion(ledger, MODEL).version,
        "leftovers": [path.name for path in (root / "mlruns/artifacts/versions").glob(".*")],
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_at_every_write(
    make_checkout: Callable[[str], Checkout], make_crowned: Callable[[str], Checkout], tmp_path: Path
) -> None:
    """Every fourth moment here, and those around what the ledger says; all with MEDTUNE_SOAK=1."""
    dev = make_crowned("dev")
    (version,) = dev.versions
    bundle = export_version(dev.root, "dev", "1", tmp_path / "bundle", "hanna", "rehearsed")
    calm = make_checkout("calm").root
    writes = run(calm, bundle, None)
    wanted = state(calm, version)
    assert wanted["champion"] == version
    assert len(writes) > 20
    assert not [name for name in run(calm, bundle, None) if name != "rename"]  # settled: nothing more
    # of writes of one kind in a row (a tag after the other), the first, the second and the last
    same = [writes[n : n + 2] == writes[n - 1 : n + 1] and writes[n - 2] == writes[n] for n in range(2, len(writes))]
    moments = [at for at in range(len(writes)) if at < 2 or not same[at - 2]]
    told = [number for number, at in enumerate(moments) if writes[at] == "ledger"]
    print(f"{len(writes)} writes, {len(moments)} moments, and {writes.count('ledger')} rows of the ledger")
    for at in (moments[number] for number in every(4, len(moments), told[0], told[0] + 1, told[-1], told[-1] + 1)):
        root = make_checkout(f"kill-{at}").root
        with pytest.raises(Killed):
            run(root, bundle, at)
        ledger = open_ledger(root)
        ledger.verify()
        # before it is registered nobody can ask for it; from then on its files are whole
        for standing in standings(ledger, MODEL).values():
            assert files(root, standing.version) == wanted["files"]
        run(root, bundle, None)
        assert state(root, version) == wanted, f"killed before write {at}"
        shutil.rmtree(root)
    assert read_bundle(bundle).version == version  # and the bundle is as it was
