"""The commands, whole, against `mlflow server` with PostgreSQL and an S3 store: register, promote, roll back, load."""

import json
import shutil
from pathlib import Path

import pytest

import stages.register
from medtune.params.recipe import load_recipe
from medtune.registry.aliases import read_aliases
from medtune.registry.champion import champion_dir
from medtune.registry.ledger import open_ledger
from medtune.registry.manifest import verify_manifest
from medtune.registry.promotion import project, promote, rollback
from medtune.registry.row_places import rows_of_version, rows_wherever
from medtune.registry.standing import champion, standings
from medtune.tracking.store import open_store


@pytest.mark.slow
def test_register_promote_and_roll_back(
    checkout, server_environment, mlflow_server, no_models, store, capfd: pytest.CaptureFixture[str]
) -> None:
    root: Path = checkout.root
    recipe = load_recipe(root / "params.yaml")
    names = recipe.register_
    first = checkout.candidate("first", nll=2.0)
    stages.register.main(root)
    ledger = open_ledger(root)
    now = champion(ledger, names.model)
    assert now is not None, capfd.readouterr().out
    assert now.version == first
    uri = open_store(root)
    assert read_aliases(uri, names.model)["champion"] == 1
    assert ledger.events(names.model, first, {"registered"})[0].body["files"].startswith("mlflow-artifacts:/")
    stages.register.main(root)  # once more: nothing new
    assert len(ledger.events(names.model, first, {"registered", "approved", "promoted"})) == 3

    second = checkout.candidate("second", nll=1.8)
    stages.register.main(root)
    assert champion(ledger, names.model).version == second
    assert read_aliases(uri, names.model)["champion"] == 2
    rollback(ledger, names.model, by="me", reason="the test")
    project(root, ledger, names.model, names.adapter_model)
    assert champion(ledger, names.model).version == first
    assert read_aliases(uri, names.model)["champion"] == 1
    promote(ledger, names.model, "2", by="me", reason="the test again")
    project(root, ledger, names.model, names.adapter_model)
    assert champion(ledger, names.model).version == second

    # another machine: no files here, and all there
    shutil.rmtree(root / "mlruns/artifacts/versions")
    standing = standings(ledger, names.model)[second]
    assert rows_of_version(root)(standing) is None
    assert len(rows_wherever(root)(standing)["splits"]["test"]) == 24  # what a retraction looks into
    folder = champion_dir(root, recipe)
    verify_manifest(folder.parent)
    assert ledger.verify() > 0

    # and nowhere a password
    texts = [capfd.readouterr().out, mlflow_server.log.read_text(errors="replace")]
    texts += [json.dumps([vars(event) for event in ledger.events()])]
    texts += [path.read_text(errors="replace") for path in (root / "reports").rglob("*.json")]
    texts += [path.read_text(errors="replace") for path in (root / "reports").rglob("*.html")]
    secrets = [server_environment["MLFLOW_TRACKING_PASSWORD"], mlflow_server.ledger.split(":")[2].partition("@")[0]]
    assert not [secret for secret in secrets for text in texts if secret in text]
