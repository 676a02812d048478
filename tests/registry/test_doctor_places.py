"""`medtune doctor` on moved checkouts, DVC's side, servers that are away, and as a command."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import typer
from registry.doctored import MODEL, client_of, codes, database, kinds, run
from registry_checkout import ROOT, Checkout
from soak import every
from typer.testing import CliRunner

from medtune.commands.doctor import doctor
from medtune.corpus.frozen import LIST
from medtune.corpus.sources import incoming_files
from medtune.params.recipe import load_recipe
from medtune.registry.champion import champion_dir
from medtune.registry.status import read_status, render
from medtune.tracking.store import connect, open_store
from stages.register import main


def stored(root: Path) -> str:
    """Every path that MLflow keeps."""
    with database(root) as connection:
        return "\n".join(
            str(row[0])
            for query in (
                "SELECT artifact_location FROM experiments",
                "SELECT artifact_uri FROM runs",
                "SELECT source FROM model_versions",
                "SELECT storage_location FROM model_versions",
            )
            for row in connection.execute(query)
        )


def loads(root: Path) -> None:
    """By raw MLflow and by ours, and the run's artifacts too."""
    import mlflow

    uri = open_store(root)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    folder = Path(mlflow.artifacts.download_artifacts("models:/medgpt-ko@champion"))
    assert root in folder.parents
    pipe = mlflow.transformers.load_model("models:/medgpt-ko@champion")
    assert pipe.model.num_parameters() > 0
    mlflow.set_tracking_uri(None)  # it is kept in the environment too, for the tests that come after
    mlflow.set_registry_uri("")
    assert champion_dir(root, load_recipe(root / "params.yaml")).is_dir()
    client = connect(uri)
    version = client.get_model_version_by_alias(MODEL, "champion")
    assert (Path(client.download_artifacts(version.run_id, "reports/evaluate.json"))).read_text()


def test_a_moved_checkout(two: Checkout, tmp_path: Path) -> None:
    old, new = two.root, tmp_path / "새 집 100%"
    shutil.move(old, new)
    before = stored(new)
    assert str(old) in before
    with pytest.raises(Exception, match="No such artifact"):
        loads(new)
    checked = run(new, repair=False)
    assert codes(checked) == ([], ["moved_checkout"], [])
    assert stored(new) == before
    report = run(new)
    assert codes(report) == (["moved_checkout"], [], [])
    assert str(old) in report.repaired[0][0].sentence
    assert str(old) not in stored(new)
    loads(new)
    kept = max((new / "mlruns").glob("mlflow.db.before-rebase-*"))
    assert str(kept) in report.repaired[0][1]
    with closing(sqlite3.connect(kept)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert str(old) in connection.execute("SELECT source FROM model_versions").fetchone()[0]
    assert codes(run(new)) == ([], [], [])
    main(new)  # and goes on as before
    assert codes(run(new, deep=True)) == ([], [], [])


def test_a_copied_checkout_lets_go_of_the_original(two: Checkout, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(two.root, copy)
    run_folder = next((copy / "mlruns/artifacts/runs/medtune").iterdir())
    shutil.rmtree(run_folder)  # not copied
    before = stored(two.root)
    report = run(copy)
    assert codes(report) == (["moved_checkout"], ["left_behind"], [])
    assert "lies beside it still" in report.repaired[0][0].sentence
    assert run_folder.name in report.left[0].sentence
    assert stored(two.root) == before
    assert codes(run(two.root)) == ([], [], [])
    shutil.copytree(two.root / run_folder.relative_to(copy), run_folder)  # as the mend says
    assert codes(run(copy)) == (["moved_checkout"], [], [])
    assert f"{two.root}/" not in stored(copy)
    loads(copy)


def test_places_that_somebody_chose_stay(two: Checkout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "nas/mlruns/artifacts/mine"
    client_of(two.root).create_experiment("mine", elsewhere.as_uri())
    client_of(two.root).create_experiment("bucket", "s3://bucket/mlruns/artifacts/x")
    assert codes(run(two.root)) == ([], [], [])
    assert elsewhere.as_uri() in stored(two.root)


def test_rebasing_is_all_or_nothing(two: Checkout, tmp_path: Path) -> None:
    new = tmp_path / "moved"
    shutil.move(two.root, new)
    before = stored(new)
    with database(new) as connection:  # the last table to be written refuses
        connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON model_versions BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    report = run(new)
    assert "the repair failed: " in report.left[0].sentence
    assert "refused" in report.left[0].sentence
    assert stored(new) == before
    with database(new) as connection:
        connection.execute("DROP TRIGGER refuse")
    assert codes(run(new)) == (["moved_checkout"], [], [])


LOCK = """schema: '2.0'
stages:
  train:
    cmd: python -m stages.train
    deps:
    - path: data/tokens
      hash: md5
      md5: 2c1743a391305fbf367df8e4f069f9f9.dir
      size: 6
      nfiles: 2
    outs:
    - path: data/adapter
      hash: md5
      md5: 2c1743a391305fbf367df8e4f069f9f9
      size: 6
"""


def test_a_truncated_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    path = tmp_path / "dvc.lock"
    path.write_text(LOCK)
    assert codes(run(tmp_path)) == ([], [], [])
    borders = [LOCK.index(entry) + at for entry in ("    outs", "    - path: data/adapter") for at in (-1, 0, 1)]
    for end in every(7, len(LOCK), 1, *borders):
        path.write_text(LOCK[:end])
        # a cut between two entries leaves a whole, shorter file: stages that are missing run again, which is no harm
        whole = LOCK[:end].endswith(("nfiles: 2\n", "stages.train\n"))
        assert codes(run(tmp_path))[1] == ([] if whole else ["dvc_lock"]), LOCK[:end][-60:]
    path.write_bytes(b"\xff\xfe" + LOCK.encode()[:50])
    report = run(tmp_path)
    assert codes(report)[1] == ["dvc_lock"]
    assert "git checkout dvc.lock" in report.left[0].mend


def test_a_corrupted_cache_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    command = "mkdir -p out && echo one > out/a && echo two > out/b && echo three > c"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  make:\n    cmd: {command}\n    outs: [out, c]\n")
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)
    assert codes(run(tmp_path, deep=True)) == ([], [], [])
    for name, out in ((b"two\n", "out/b"), (b"three\n", "c")):
        victim = next(p for p in (tmp_path / ".dvc/cache/files").rglob("*") if p.is_file() and p.read_bytes() == name)
        victim.chmod(0o644)
        victim.write_bytes(b"other\n")
        assert codes(run(tmp_path)) == ([], [], [])  # quick reads no object
        report = run(tmp_path, deep=True)
        assert codes(report)[1] == ["cache_object"]
        assert f"{victim} in DVC's cache is damaged" in report.left[0].sentence
        assert out in report.left[0].sentence
        assert f"`rm -f {victim}`" in report.left[0].mend
        assert f"`dvc commit -f` where {out}" in report.left[0].mend
        victim.write_bytes(name)


def test_a_list_that_a_killed_flow_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    for name in ("early", "late"):
        put(tmp_path / f"data/incoming/{name}.jsonl")
    killed = "import os, sys; from medtune.corpus.frozen import frozen; from pathlib import Path\n"
    killed += "with frozen(Path(sys.argv[1]), ['early.jsonl']): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], cwd=ROOT, check=False)
    assert incoming_files(tmp_path) == [tmp_path / "data/incoming/early.jsonl"]
    holds = "import sys; from pathlib import Path; from medtune.tracking.pipeline_lock import pipeline_lock\n"
    holds += "with pipeline_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as flow:
        assert flow.stdout.readline() == b"held\n"
        assert codes(run(tmp_path)) == ([], [], [])  # it is the flow's that runs now
        assert read_status(tmp_path, load_recipe(tmp_path / "params.yaml"))["incoming"]["hidden"] is None
        flow.stdin.close()
    told = read_status(tmp_path, load_recipe(tmp_path / "params.yaml"))
    assert "data/incoming: a flow that was killed has left data/.dvcignore" in render(told)
    assert told["next"] == "medtune doctor"
    assert codes(run(tmp_path, repair=False)) == ([], ["incoming_hidden"], [])
    report = run(tmp_path)
    assert codes(report) == (["incoming_hidden"], [], [])
    assert len(incoming_files(tmp_path)) == 2
    assert codes(run(tmp_path)) == ([], [], [])
    (tmp_path / LIST).write_text("/somebodys-own\n")
    report = run(tmp_path)
    assert codes(report)[0] == []
    assert "remove data/.dvcignore" in next(item.mend for item in report.left if item.code == "incoming_ignored")
    assert (tmp_path / LIST).exists()


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"instruction": "질문", "output": "답"}\n')


def test_a_claim_without_a_version(two: Checkout) -> None:
    (two.root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  register:\n    cmd: x\n")
    assert codes(run(two.root)) == ([], [], [])
    report = json.loads((two.root / "reports/register.json").read_text())
    (two.root / "reports/register.json").write_text(json.dumps({**report, "version": "f" * 64}))
    left = run(two.root).left
    assert [item.code for item in left] == ["lost"]
    assert "ffffffffffff" in left[0].sentence


def test_a_server_that_is_away_proves_nothing(two: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version looks deleted when MLflow does not answer: nobody is restored, nothing is written."""
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{two.root}/mlruns/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    before = kinds(two.root)
    start = time.monotonic()
    report = run(two.root)
    assert time.monotonic() - start < 30
    assert "mlflow_unreachable" in codes(report)[1]
    assert report.repaired == []
    assert "secret" not in report.text()
    assert kinds(two.root) == before


def test_a_check_that_breaks_does_not_silence_the_others(two: Checkout) -> None:
    client_of(two.root).set_registered_model_alias(MODEL, "champion", "1")
    with database(two.root) as connection:
        connection.execute("ALTER TABLE experiments RENAME COLUMN artifact_location TO elsewhere")
    report = run(two.root)
    assert "not_checked" in codes(report)[1]
    assert "paths could not be looked at: OperationalError" in report.left[0].sentence
    assert "alias_drift" in codes(report)[0]


def test_command(two: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """As cron runs it, no terminal and stdin closed; then the same function in this process."""
    client_of(two.root).set_registered_model_alias(MODEL, "champion", "1")
    code = "import typer; from medtune.commands.doctor import doctor; typer.run(doctor)"
    checked = subprocess.run(
        [sys.executable, "-c", code, "--check", "--json"], cwd=two.root, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert checked.returncode == 1, checked.stderr
    assert json.loads(checked.stdout)["left"][0]["code"] == "alias_drift"
    app = typer.Typer()
    app.command()(doctor)
    monkeypatch.chdir(two.root)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0, done.output
    assert "repaired  medgpt-ko: MLflow's alias champion points to version 1, the ledger says version 2" in done.stdout
    deep = CliRunner().invoke(app, ["--deep", "--json"])
    assert deep.exit_code == 0
    assert json.loads(deep.stdout)["sound"]
    assert "reading version 2" in deep.stderr
