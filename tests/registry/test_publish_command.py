"""`medtune publish` as typed, in processes of its own: to another folder's registry, and by a folder that travels."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from registry.publication import MODEL, files, told
from registry_checkout import ROOT, Checkout
from typer.testing import CliRunner

from medtune.commands.publish import publish
from medtune.registry.ledger import open_ledger
from medtune.registry.standing import champion, standings


def typed(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    code = "import typer; from medtune.commands.publish import publish; typer.run(publish)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | more
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_to_another_folders_registry_and_by_a_folder_that_travels(make_checkout, make_crowned, tmp_path: Path) -> None:
    dev, prod, ward = make_crowned("dev"), make_checkout("prod"), make_checkout("ward")
    (version,) = dev.versions
    (dev.root / "targets").mkdir()
    (dev.root / "targets/prod.env").write_text(f"MLFLOW_TRACKING_URI=sqlite:///{prod.root}/mlruns/mlflow.db\n")
    done = typed(dev.root, "1", "--to", "prod", "--by", "hanna", "--reason", "-- rehearsed")
    assert done.returncode == 0, done.stderr
    assert "version 1 of dev is version 1 of prod" in done.stdout
    # where whoever works there finds it: files in that folder, and that folder's ledger
    assert files(prod.root, version) == files(dev.root, version)
    standing = standings(open_ledger(prod.root), MODEL)[version]
    assert standing.registered.body["published"]["reason"] == "-- rehearsed"
    assert champion(open_ledger(prod.root), MODEL) is None
    assert len(told(dev.root, "registered")) == 1

    done = typed(dev.root, "1", "--bundle", "stick", "--by", "hanna", "--reason", "no network there")
    assert done.returncode == 0, done.stderr
    assert "medtune publish --from-bundle stick" in done.stdout
    shutil.move(dev.root / "stick", tmp_path / "stick")
    shutil.rmtree(dev.root)
    done = typed(ward.root, "--from-bundle", str(tmp_path / "stick"), "--promote")
    assert done.returncode == 0, done.stderr
    assert champion(open_ledger(ward.root), MODEL).version == version
    done = typed(ward.root, "--from-bundle", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "is no bundle of `medtune publish`" in done.stderr


def test_a_target_that_is_not_there(crowned: Checkout) -> None:
    done = typed(crowned.root, "1", "--to", "prod", "--by", "hanna", "--reason", "r")
    assert done.returncode == 1
    assert "error: no target 'prod'" in done.stderr
    done = typed(crowned.root, "7", "--to", "prod", "--by", "hanna", "--reason", "r")
    assert "has no version '7'" in done.stderr
    assert "no target" not in done.stderr  # the first half said no
    assert not (crowned.root / "mlruns/publish/bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "needs a VERSION"),
        (("1",), "needs --to TARGET, or --bundle DIR"),
        (("1", "--to", "prod", "--bundle", "x"), "needs --to TARGET, or --bundle DIR"),
        (("1", "--to", "prod"), "needs --reason"),
        (("1", "--bundle", "x", "--reason", "r", "--promote"), "--promote is said where the bundle is brought in"),
        (("1", "--from-bundle", "x"), "takes no version"),
    ],
)
def test_what_is_missing_is_named(arguments: tuple[str, ...], said: str) -> None:
    import typer

    app = typer.Typer()
    app.command()(publish)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 1
    assert said in str(done.exception)
