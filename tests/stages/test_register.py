"""The register stage end to end on a real SQLite store, from reports to aliases."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from registry_checkout import Checkout, checkout, fresh_store, make_checkout, tiny_adapter

from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.tracking.store import connect, open_store
from stages.register import main

__all__ = ["checkout", "fresh_store", "make_checkout", "tiny_adapter"]


def state(root: Path) -> dict:
    """Everything the registry says, and the run: what a rerun must not change."""
    client = connect(open_store(root))
    models = {}
    for name in ("medgpt-ko", "medgpt-ko-adapter"):
        versions = client.search_model_versions(f"name='{name}'")
        models[name] = {
            "aliases": {key: str(number) for key, number in client.get_registered_model(name).aliases.items()},
            "versions": {str(v.version): (dict(v.tags), v.description, v.source, v.run_id) for v in versions},
        }
    experiment = client.get_experiment_by_name("medtune").experiment_id
    runs = {}
    for run in client.search_runs([experiment]):
        points = {key: len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics}
        runs[run.info.run_id] = (run.info.status, run.info.end_time, dict(run.data.params), dict(run.data.tags), points)
    return {"models": models, "runs": runs}


def report(root: Path) -> dict:
    return json.loads((root / "reports/register.json").read_text())


def test_first_candidate_becomes_champion(checkout: Checkout, capsys: pytest.CaptureFixture) -> None:
    version = checkout.candidate("a")
    main(checkout.root)

    said = capsys.readouterr().out
    assert "it is the champion: models:/medgpt-ko@champion" in said
    assert "medtune ask" in said
    result = report(checkout.root)
    assert result["decision"] == "approved"
    assert result["champion"] == {"number": 1, "version": version}
    now = state(checkout.root)
    for name, half, other in (
        ("medgpt-ko", "merged", "medgpt-ko-adapter/1"),
        ("medgpt-ko-adapter", "adapter", "medgpt-ko/1"),
    ):
        assert now["models"][name]["aliases"] == {"challenger": "1", "champion": "1"}
        kept, description, source, run_id = now["models"][name]["versions"]["1"]
        assert source == str((checkout.root / "mlruns/artifacts/versions" / version / half).resolve())
        assert (kept[tags.VERSION], kept[tags.STATUS], kept[tags.COUNTERPART]) == (version, "approved", other)
        assert {"medtune.base", "medtune.data", "medtune.tokens", "medtune.test", "medtune.evaluation"} <= set(kept)
        assert (kept["dataset.license"], kept["base.license"], kept["dataset.id"]) == (
            "CC0-1.0",
            "Apache-2.0",
            "medtune-sample",
        )
        assert description.startswith(
            "**Approved.** tiny@1 with" if half == "merged" else "**Approved.** A LoRA adapter"
        )
        assert run_id in description
    (status, end, params, _, points) = now["runs"][result["run_id"]]
    assert status == "FINISHED"
    assert end
    assert params["train.learning_rate"] == "0.001"
    assert points["loss"] == 2
    assert points["eval_loss"] == 1
    assert points["evaluate.adapter_minus_base.high"] == 1
    artifacts = connect(open_store(checkout.root)).list_artifacts(result["run_id"], "evaluate")
    assert [item.path for item in artifacts] == ["evaluate/rows.parquet"]


def test_second_run_changes_nothing(checkout: Checkout, capsys: pytest.CaptureFixture) -> None:
    checkout.candidate("a")
    main(checkout.root)
    before, text = state(checkout.root), (checkout.root / "reports/register.json").read_bytes()
    main(checkout.root)
    assert state(checkout.root) == before
    assert (checkout.root / "reports/register.json").read_bytes() == text
    assert "was registered before and stands as it is: approved" in capsys.readouterr().out


def test_rejection_leaves_the_champion_alone(checkout: Checkout, capsys: pytest.CaptureFixture) -> None:
    checkout.candidate("good")
    main(checkout.root)
    gain = {"mean": -0.1, "low": -0.3, "high": 0.1, "confidence": 0.95}
    checkout.candidate("unsure", nll=1.9, adapter_minus_base=gain)
    main(checkout.root)

    said = capsys.readouterr().out
    assert "improvement: evaluate.adapter_minus_base.high is 0.1; it must be below 0" in said
    assert "the champion is version 1" in said
    assert report(checkout.root)["decision"] == "rejected"
    now = state(checkout.root)["models"]
    for name in now:
        assert now[name]["aliases"] == {"challenger": "2", "champion": "1"}
        assert now[name]["versions"]["2"][0][tags.STATUS] == "rejected"
        assert "## Why it was rejected" in now[name]["versions"]["2"][1]
        assert now[name]["versions"]["1"][0][tags.STATUS] == "approved"


def test_worse_than_the_champion_on_the_same_rows(checkout: Checkout, capsys: pytest.CaptureFixture) -> None:
    checkout.candidate("good", nll=2.0)
    main(checkout.root)
    checkout.candidate("worse", nll=2.1)
    main(checkout.root)
    assert report(checkout.root)["decision"] == "rejected"
    assert "2.1 nats a character on 4 test rows, above the 2 of champion version 1" in capsys.readouterr().out
    checkout.candidate("better", nll=1.9)
    main(checkout.root)
    assert report(checkout.root)["decision"] == "approved"
    assert state(checkout.root)["models"]["medgpt-ko"]["aliases"] == {"challenger": "3", "champion": "3"}


def test_returning_to_a_known_digest_moves_no_alias(checkout: Checkout) -> None:
    first = checkout.candidate("a", nll=2.0)
    main(checkout.root)
    second = checkout.candidate("b", nll=1.9)
    main(checkout.root)
    before = state(checkout.root)["models"]
    checkout.candidate("a", nll=2.0)
    main(checkout.root)
    assert state(checkout.root)["models"] == before
    assert report(checkout.root)["version"] == first
    assert report(checkout.root)["decision"] == "approved"
    assert report(checkout.root)["champion"]["version"] == second


def test_a_changed_gate_judges_a_known_version_anew(checkout: Checkout) -> None:
    checkout.candidate("a", merged={"nll_per_char": 2.0}, adapter={"eos_after_reference": 0.3, "loop_share": 0.0})
    main(checkout.root)
    assert report(checkout.root)["champion"] is None
    checkout.params("eos_after_reference, at_least: 0.5", "eos_after_reference, at_least: 0.25")
    main(checkout.root)
    assert report(checkout.root)["champion"]["number"] == 1
    checkout.params("eos_after_reference, at_least: 0.25", "eos_after_reference, at_least: 0.9")
    main(checkout.root)  # a decision takes no alias away
    assert report(checkout.root)["decision"] == "rejected"
    assert report(checkout.root)["champion"]["number"] == 1


def test_champion_is_scored_on_new_test_rows(checkout: Checkout, capsys: pytest.CaptureFixture) -> None:
    champion = checkout.candidate("a", nll=2.0)
    main(checkout.root)
    scores = checkout.root / "mlruns/scores" / champion
    assert len(list(scores.glob("*.json"))) == 1
    # the real champion is a random model: far above 2 nats a character
    checkout.candidate("b", nll=2.5, questions=("눈이 아파요.", "귀가 아파요.", "머리가 아파요."))
    main(checkout.root)
    assert "scoring the champion on 3 test rows" in capsys.readouterr().out
    assert report(checkout.root)["decision"] == "approved"
    assert len(list(scores.glob("*.json"))) == 2
    finding = report(checkout.root)["findings"][-1]
    assert float(finding["bound"].removeprefix("at most ")) > 5
    main(checkout.root)
    assert "scoring the champion" not in capsys.readouterr().out


@pytest.mark.parametrize("value", [None, float("nan"), "0.1", True, float("-inf")])
def test_figures_that_are_no_numbers_never_pass(checkout: Checkout, value: object) -> None:
    checkout.candidate("a", adapter_minus_base={"mean": -1.0, "low": -2.0, "high": value})
    main(checkout.root)
    assert report(checkout.root)["decision"] == "rejected"
    assert report(checkout.root)["champion"] is None


def test_lost_registry_is_registered_anew(checkout: Checkout) -> None:
    version = checkout.candidate("a")
    main(checkout.root)
    (checkout.root / "mlruns/mlflow.db").unlink()
    main(checkout.root)
    assert report(checkout.root)["champion"] == {"number": 1, "version": version}


def test_another_candidates_merge_is_refused(checkout: Checkout) -> None:
    checkout.candidate("a")
    path = checkout.root / "reports/merge.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "candidate": "0" * 64}))
    with pytest.raises(RegistryError, match=r"reports/merge\.json is of another candidate"):
        main(checkout.root)


def test_several_at_once_make_one_version(checkout: Checkout) -> None:
    checkout.candidate("a")
    workers = [multiprocessing.get_context("fork").Process(target=main, args=(checkout.root,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    now = state(checkout.root)
    assert [list(now["models"][name]["versions"]) for name in now["models"]] == [["1"], ["1"]]
    assert len(now["runs"]) == 1


def test_a_server_is_refused_before_anything_is_written(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout.candidate("a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="a tracking server takes no version from a local folder"):
        main(checkout.root)
    assert not (checkout.root / "mlruns/artifacts").exists()


def test_as_dvc_runs_it(checkout: Checkout) -> None:
    checkout.candidate("a")
    done = subprocess.run(
        [sys.executable, "-m", "stages.register"],
        cwd=checkout.root,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "registered: approved" in done.stdout
    (checkout.root / "reports/train.json").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "stages.register"],
        cwd=checkout.root,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "error: reports/train.json is missing; run `dvc repro`"
