"""verify_version against the ledger's digest, and the commands: `medtune verify`, `medtune keys`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from registry.signed_versions import DIGEST, edit, flip, make_version, reseal
from typer.testing import CliRunner

from medtune.commands.keys import keys_app
from medtune.commands.keys import verify as verify_command
from medtune.params.errors import RegistryError
from medtune.registry import keys
from medtune.registry.ledger import open_ledger
from medtune.registry.manifest import manifest_digest
from medtune.registry.verify import verify_version

ROOT = Path(__file__).resolve().parents[2]
SECOND = "b" * 64
MODEL = "medgpt-ko"


@pytest.fixture(autouse=True)
def no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MEDTUNE_", "MLFLOW_TRACKING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_store: Path) -> Path:
    """Two versions that the ledger knows; the second is champion."""
    root = tmp_path / "project"
    (root / "mlruns").mkdir(parents=True)
    shutil.copy(fresh_store, root / "mlruns/mlflow.db")
    shutil.copy(ROOT / "params.yaml", root)
    ledger = open_ledger(root)
    for number, digest in enumerate((DIGEST, SECOND), start=1):
        folder = make_version(root / "mlruns/artifacts/versions", digest)
        body = {
            "numbers": {"merged": number, "adapter": number},
            "adapter_model": f"{MODEL}-adapter",
            "manifest": manifest_digest(folder),
            "files": "local",
        }
        ledger.append("registered", MODEL, digest, body)
    ledger.append("approved", MODEL, SECOND, {"key": "k", "reasons": [], "findings": []})
    ledger.append("promoted", MODEL, SECOND, {"expects": None, "number": 2, "policy": "auto"})
    monkeypatch.chdir(root)
    return root


def folder_of(project: Path, digest: str) -> Path:
    return project / "mlruns/artifacts/versions" / digest


def run(app, *arguments: str):
    return CliRunner().invoke(app, list(arguments))


def verify(*arguments: str):
    import typer

    app = typer.Typer()
    app.command()(verify_command)
    return run(app, *arguments)


def test_the_ledgers_digest_is_asked(tmp_path: Path) -> None:
    folder = make_version(tmp_path)
    digest = manifest_digest(folder)
    assert verify_version(folder, digest)["signer"] is None
    flip(folder / "merged/model.safetensors")
    with pytest.raises(RegistryError, match=r"merged/model\.safetensors is not the file"):
        verify_version(folder, digest)
    reseal(folder)
    verify_version(folder)  # whom nobody tells the digest sees nothing wrong
    with pytest.raises(RegistryError, match=r"manifest\.json is not the one that was registered"):
        verify_version(folder, digest)


def test_another_version_in_its_place(tmp_path: Path) -> None:
    """Everything is sound and signed, and is an older version: going back unseen."""
    keys.init("hanna")
    folder = make_version(tmp_path)
    keys.sign(folder)
    folder.rename(tmp_path / SECOND)
    with pytest.raises(
        RegistryError, match=rf"manifest\.json is of version {DIGEST[:12]}, which lies in another's place"
    ):
        verify_version(tmp_path / SECOND)
    (tmp_path / SECOND).rename(tmp_path / "copied-elsewhere")
    assert verify_version(tmp_path / "copied-elsewhere")["signer"] == "hanna"


def test_nothing_there(tmp_path: Path) -> None:
    for key in (False, True):
        if key:
            keys.init("hanna")
        with pytest.raises(RegistryError, match=r"gone/manifest\.json is missing"):
            verify_version(tmp_path / "gone")


def test_quick_sees_everything_but_the_weights_bytes(tmp_path: Path) -> None:
    keys.init("hanna")
    folder = make_version(tmp_path)
    keys.sign(folder)
    flip(folder / "merged/model.safetensors")
    assert verify_version(folder, quick=True)["signer"] == "hanna"
    edit(folder, lambda record: None)
    with pytest.raises(RegistryError, match="is not the one that hanna signed"):
        verify_version(folder, quick=True)


def test_verify_of_the_champion_of_one_and_of_all(project: Path) -> None:
    done = verify()
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"version 2 ({SECOND[:12]}): 9 files, 0.00 GiB, ")
    assert "no key is trusted" in done.stdout
    assert verify("1").stdout.startswith(f"version 1 ({DIGEST[:12]})")
    assert verify(DIGEST[:8], "2").stdout.count("9 files") == 2
    assert verify("--all").stdout.count("9 files") == 2


def test_verify_goes_on_and_names_every_damaged_version(project: Path) -> None:
    flip(folder_of(project, DIGEST) / "merged/model.safetensors")
    done = verify("--all")
    assert done.exit_code == 1
    assert "version 1 (757a0fac9c83): REFUSED" in done.stdout
    assert f"version 2 ({SECOND[:12]}): 9 files" in done.stdout
    assert "merged/model.safetensors is not the file that was registered" in str(done.exception)
    assert verify().exit_code == 0
    (folder_of(project, SECOND) / "merged/evil.py").write_text("print()")
    both = str(verify("--all").exception)
    assert "model.safetensors is not" in both
    assert "evil.py does not belong" in both


def test_verify_of_versions_that_are_not_here(project: Path) -> None:
    shutil.rmtree(folder_of(project, DIGEST))
    assert "manifest.json is missing" in str(verify("1").exception)
    events = open_ledger(project).events(MODEL, DIGEST, {"registered"})
    open_ledger(project).append("registered", MODEL, DIGEST, {**events[0].body, "files": "s3://bucket/versions/x"})
    assert "version 1 (757a0fac9c83): its files lie in s3://bucket/versions/x and not here" in verify("--all").stdout
    assert "lies in s3://bucket/versions/x; what loads it" in str(verify("1").exception)
    assert "has no version '7'" in str(verify("7").exception)


def test_a_project_without_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "has no champion yet" in str(verify().exception)
    assert verify("--all").output == ""
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"], "looking makes nothing"


def test_keys_from_init_to_all_versions_signed(project: Path) -> None:
    assert "no key is trusted" in run(keys_app, "list").stdout
    missing = run(keys_app, "sign", "--all")
    assert isinstance(missing.exception, RegistryError)
    assert "signing.key is missing; `medtune keys init`" in str(missing.exception)
    made = run(keys_app, "init", "--name", "hanna")
    assert made.exit_code == 0, made.output
    assert "hanna.pub" in made.stdout
    assert "PRIVATE KEY" not in made.output
    assert run(keys_app, "list").stdout == f"{keys.fingerprint(keys.trusted()['hanna'])}  hanna\n"

    assert "manifest.json.sig is missing" in str(verify("1").exception)
    assert run(keys_app, "sign").exit_code == 1
    assert run(keys_app, "sign", "1").exit_code == 0
    assert "signed by hanna" in verify("1").stdout
    assert verify("2").exit_code == 1
    assert run(keys_app, "sign", "--all").stdout.count("signed by") == 2
    assert verify("--all").exit_code == 0
    events = open_ledger(project).events(MODEL, kinds={"signed"})
    assert [event.version for event in events] == [DIGEST, DIGEST, SECOND]
    assert {event.body["signed_by"] for event in events} == {keys.signer(folder_of(project, SECOND))}


def test_damaged_files_are_not_signed(project: Path) -> None:
    run(keys_app, "init")
    folder = folder_of(project, DIGEST)
    flip(folder / "merged/model.safetensors")
    assert "model.safetensors is not the file" in str(run(keys_app, "sign", "1").exception)
    reseal(folder)  # the manifest as well: the ledger knows better
    assert "manifest.json is not the one that was registered" in str(run(keys_app, "sign", "1").exception)
    assert not (folder / "manifest.json.sig").exists()
    assert open_ledger(project).events(MODEL, kinds={"signed"}) == []


def test_versions_that_register_are_signed(checkout) -> None:
    """The whole way: stages.register with a key there, then what loads."""
    from medtune.params.recipe import load_recipe
    from medtune.registry.champion import champion_dir
    from stages.register import main

    keys.init("hanna")
    checkout.candidate("a")
    main(checkout.root)
    merged = champion_dir(checkout.root, load_recipe(checkout.root / "params.yaml"))
    assert keys.verify_signature(merged.parent) == "hanna"
    event = open_ledger(checkout.root).events(kinds={"registered"})[0]
    assert event.body["signed_by"] == keys.signer(merged.parent)
    (merged.parent / "manifest.json.sig").unlink()
    with pytest.raises(RegistryError, match=r"manifest\.json\.sig is missing"):
        champion_dir(checkout.root, load_recipe(checkout.root / "params.yaml"))


def test_the_benchmark_runs_without_mlflow(tmp_path: Path) -> None:
    import json

    code = (
        "import sys, runpy\n"
        "for name in ('mlflow', 'torch', 'pydantic', 'filelock', 'cryptography'): sys.modules[name] = None\n"
        f"sys.argv[1:] = ['--gib', '0.02', '--files', '3', '--repeats', '1', '--work', {str(tmp_path / 'w')!r}, "
        f"'--out', {str(tmp_path / 'o')!r}]\n"
        "runpy.run_module('benchmarks.verify_speed', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "o/verify_speed.json").read_text())
    assert result["files"] == 3
    assert result["verify_gb_per_s"] > 0
    assert result["read_gb_per_s"] > 0
    assert not (tmp_path / "w/version").exists()
