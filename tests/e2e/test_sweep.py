"""A sweep over the project's own dvc.yaml, and its finalist through the whole graph: trained once, judged once."""

from pathlib import Path

import pytest

from medtune.tracking.store import connect
from tests.e2e.project import copy_checkout

SWEEP = "from medtune.commands.sweep import sweep; sweep({words}, 'e2e', 1, False, False, False, None)"


@pytest.mark.slow
def test_the_finalist_is_not_trained_anew_and_its_run_is_completed_by_register(tiny_base: Path, tmp_path: Path):
    made = copy_checkout(tmp_path / "project", tiny_base)
    made.env |= {"PYTHONPATH": str(made.root), "MEDTUNE_CACHE": str(tmp_path / "cache")}
    told = made.run("python", "-c", SWEEP.format(words=["train.learning_rate=1e-5,1e-2"]))
    assert "1  0.01 " in told
    assert not (made.root / "reports/evaluate.json").exists()
    trials = made.json("reports/sweeps/e2e.json")["trials"]
    best = next(item for item in trials if item["params"] == {"train.learning_rate": 0.01})
    made.run("python", "-c", SWEEP.format(words=["finalist"]))
    told = made.python("dvc", "repro")
    assert "Stage 'train' is cached" in told
    report = made.json("reports/register.json")
    assert made.json("reports/train.json")["candidate"] == best["candidate"]
    run = connect(f"sqlite:///{made.root}/mlruns/mlflow.db").get_run(best["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["medtune.sweep"] == "e2e"
    assert run.data.tags["medtune.version"] == report["version"]
    assert "evaluate.adapter.nll_per_char" in run.data.metrics
    assert report["looks"]["used"] == 1  # two trainings, and one look at the test split
