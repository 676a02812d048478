"""`medtune publish --to prod`, as typed: from a laptop's SQLite to `mlflow server` with PostgreSQL and an S3 store.

Each half runs as a process of its own; the secrets are files, and stand nowhere else.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from registry_checkout import ROOT

import stages.register
from medtune.params.recipe import load_recipe
from medtune.registry.aliases import read_aliases
from medtune.registry.champion import champion_dir
from medtune.registry.ledger import open_ledger
from medtune.registry.manifest import verify_manifest
from medtune.registry.standing import champion, standings
from medtune.registry.versions import version_path
from medtune.tracking.store import connect

MODEL = "medgpt-ko"
WRONG = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_TRACKING_PASSWORD": "another-servers"}


def secret(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    path.write_text(text)
    return path


@pytest.mark.slow
def test_from_sqlite_to_the_servers(
    checkout, mlflow_server, no_models, store, postgres, tmp_path: Path, monkeypatch
) -> None:
    root: Path = checkout.root
    version = checkout.candidate("a")
    stages.register.main(root)
    there = version_path(root, version)
    wanted = json.loads((there / "manifest.json").read_text())
    ledger = postgres.create("published_ledger")
    password = secret(tmp_path / "secrets/mlflow", mlflow_server.password)
    lines = (
        f"MLFLOW_TRACKING_URI={mlflow_server.url}",
        f"MLFLOW_TRACKING_USERNAME={mlflow_server.user}",
        f"MLFLOW_TRACKING_PASSWORD_FILE={password}",
        f"MEDTUNE_LEDGER_URI={ledger.replace(':' + postgres.password, '')}",
        f"PGPASSWORD_FILE={secret(tmp_path / 'secrets/postgres', postgres.password)}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES=2",
    )
    (root / "targets").mkdir()
    (root / "targets/prod.env").write_text("\n".join(lines) + "\n")
    (root / "targets/dev.env").touch()
    code = "import typer; from medtune.commands.publish import publish; typer.run(publish)"
    told = ["1", "--to", "prod", "--by", "hanna", "--reason", "rehearsed", "--from", "dev", "--promote"]
    # with variables that somebody exported for another server: only the target's file counts
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | WRONG
    done = subprocess.run(
        [sys.executable, "-c", code, *told], cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version 1 of dev is version 1 of prod" in done.stdout
    assert "is the champion now, promoted by hanna" in done.stdout
    assert not (root / "mlruns/publish/bundle").exists()

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for key, value in (mlflow_server.environment | {"MEDTUNE_LEDGER_URI": ledger}).items():
        monkeypatch.setenv(key, value)
    shutil.rmtree(root / "mlruns/artifacts/versions")  # another machine: nothing here, all in the store
    ours = open_ledger(root)
    standing = standings(ours, MODEL)[version]
    assert standing.registered.body["published"]["from"] == "dev"
    assert standing.registered.body["files"].startswith("mlflow-artifacts:/")
    assert champion(ours, MODEL).version == version
    assert read_aliases(mlflow_server.url, MODEL)["champion"] == standing.number
    folder = champion_dir(root, load_recipe(root / "params.yaml")).parent
    assert verify_manifest(folder, standing.registered.body["manifest"])["files"] == wanted["files"]
    client = connect(mlflow_server.url)
    run = client.get_run(standing.registered.body["run_id"])
    assert run.info.status == "FINISHED"
    kept = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert kept >= {"card", "reports", "params.yaml", "publish"}
    assert [event.event for event in ours.events(MODEL)].count("registered") == 1
    assert ours.verify() > 0

    texts = [done.stdout, done.stderr, mlflow_server.log.read_text(errors="replace")]
    texts.append(json.dumps([vars(event) for event in ours.events()]))
    assert not [text for text in texts for value in (mlflow_server.password, postgres.password) if value in text]
