"""Stages restored by DVC, with an MLflow store that has never seen them: register makes the candidate's run whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from registry_checkout import Checkout, checkout, fresh_store, make_checkout, tiny_adapter

from medtune.tracking.runs import FROM_HISTORY, TOLD
from medtune.tracking.store import connect, open_store
from stages.register import main

__all__ = ["checkout", "fresh_store", "make_checkout", "tiny_adapter"]
STAGES = ("validate", "tokenize", "train", "merge", "evaluate")
MADE = ["data/adapter", "data/merged", "data/valid/rows.jsonl", "data/base.json", "data/raw/dataset.json"]
MADE += ["reports/evaluate", *(f"reports/{name}.json" for name in STAGES)]
# puts the outs in place as the stages before register would, and leaves a mark
MAKE = """
import shutil, sys
from pathlib import Path
for name in sys.argv[1:]:
    source, target = Path("kept") / name, Path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
with open("made.txt", "a") as tally:
    tally.write("made\\n")
"""


def dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(checkout: Checkout) -> Path:
    """A DVC project whose stage `make` has the outs of the stages before register."""
    root = checkout.root
    checkout.candidate("a")
    for name in MADE:
        (root / "kept" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / name, root / "kept" / name)
    (root / "make.py").write_text(MAKE)
    stages = {"make": {"cmd": f"python make.py {' '.join(MADE)}", "deps": ["make.py"], "outs": MADE}}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    dvc(root, "init", "--no-scm", "--quiet")
    return root


def record(root: Path) -> dict:
    """All that MLflow has of the candidate's one run."""
    client = connect(open_store(root))
    run = client.get_run(json.loads((root / "reports/register.json").read_text())["run_id"])
    assert len(client.search_runs([run.info.experiment_id])) == 1
    folders = ("", "reports", "evaluate", "train", "merge")
    return {
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "metrics": run.data.metrics,
        "curve": {
            key: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
            for key in ("loss", "eval_loss", "learning_rate", "grad_norm")
        },
        "artifacts": sorted(item.path for folder in folders for item in client.list_artifacts(run.info.run_id, folder)),
        "tags": {key: value for key, value in run.data.tags.items() if key.startswith("medtune.")},
    }


def test_a_candidate_restored_by_dvc_has_a_whole_run(project: Path, fresh_store: Path, tmp_path: Path) -> None:
    dvc(project, "repro")
    main(project)
    first = record(project)

    # a machine that has DVC's cache and lock, and nothing of MLflow
    other = project.rename(tmp_path / "another")
    for gone in ("mlruns", "data", "reports"):
        shutil.rmtree(other / gone)
    (other / "dvc.lock").unlink()
    (other / "mlruns").mkdir()
    shutil.copy(fresh_store, other / "mlruns/mlflow.db")
    said = dvc(other, "repro")
    assert "Stage 'make' is cached" in said
    assert (other / "made.txt").read_text().splitlines() == ["made"]  # once, on the machine before
    main(other)

    again = record(other)
    assert again["status"] == first["status"] == "FINISHED"
    assert again["params"] == first["params"]
    assert again["metrics"] == first["metrics"]
    assert again["curve"] == first["curve"]
    assert again["curve"]["loss"] == [(1, 3.0), (2, 1.5)]
    assert again["artifacts"] == first["artifacts"]
    assert {"params.yaml", "train/history.jsonl", "evaluate/rows.parquet", "reports/train.json"} <= set(
        first["artifacts"]
    )
    assert again["tags"].keys() == first["tags"].keys()
    assert again["tags"][TOLD] == FROM_HISTORY  # its times are those of register, and it says so
    begun, ended = again["times"]
    assert first["times"][1] < begun <= ended
