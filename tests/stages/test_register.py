"""The register stage end to end on a real SQLite store, from reports to aliases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from registry_checkout import QUESTIONS, ROOT, Checkout, checkout, fresh_store, make_checkout, tiny_adapter

from medtune.params.errors import RecipeError, RegistryError
from medtune.params.recipe import load_recipe
from medtune.registry import tags
from medtune.registry.ledger import open_ledger
from medtune.registry.release import champion_reports
from medtune.tracking.store import connect, open_store
from stages.register import main

__all__ = ["checkout", "fresh_store", "make_checkout", "tiny_adapter"]
NEW = (
    *QUESTIONS[:2],
    *(
        f"{place} 가려워요."
        for place in ("눈이", "귀가", "코가", "팔이", "등이", "발이", "손이", "목이", "뺨이", "턱이")
    ),
)


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
    checkout.candidate("idle", nll=1.9, gain=0.0)
    main(checkout.root)

    said = capsys.readouterr().out
    assert "NO  improvement: nll_per_char minus that of the base is" in said
    assert "an improvement of 0.2 is excluded" in said
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
    said = capsys.readouterr().out
    assert "NO  not_worse: nll_per_char minus that of champion version 1 is +0.1" in said
    assert "24 clusters of 24 test rows): worse, and not within 0.05" in said
    checkout.candidate("better", nll=1.9)
    main(checkout.root)
    assert report(checkout.root)["decision"] == "approved"
    assert state(checkout.root)["models"]["medgpt-ko"]["aliases"] == {"challenger": "3", "champion": "3"}


def test_inconclusive_is_a_result_and_moves_no_champion(checkout: Checkout, capsys: pytest.CaptureFixture) -> None:
    first = checkout.candidate("good")
    main(checkout.root)
    checkout.candidate("unsure", gain=0.3, spread=1.0)
    main(checkout.root)
    assert report(checkout.root)["decision"] == "inconclusive"
    assert report(checkout.root)["champion"] == {"number": 1, "version": first}
    said = capsys.readouterr().out
    assert "??  improvement: nll_per_char" in said
    assert "that it is better is not shown" in said
    kept, description, *_ = state(checkout.root)["models"]["medgpt-ko"]["versions"]["2"]
    assert kept[tags.STATUS] == "inconclusive"
    assert description.startswith("**Inconclusive.**")


def test_few_rows_are_inconclusive_however_good_they_look(checkout: Checkout) -> None:
    checkout.candidate("few", questions=QUESTIONS[:4])
    main(checkout.root)
    assert report(checkout.root)["decision"] == "inconclusive"
    assert "4 clusters of rows with this figure, and 10 is the least" in report(checkout.root)["reasons"][0]
    checkout.candidate("twelve", questions=QUESTIONS[:12], spread=0.3)
    main(checkout.root)
    assert report(checkout.root)["decision"] == "inconclusive"


def test_ties_are_inconclusive(checkout: Checkout) -> None:
    checkout.candidate("tied", spread=0.0)
    main(checkout.root)
    assert report(checkout.root)["decision"] == "inconclusive"
    assert "all 24 clusters have the same difference" in report(checkout.root)["reasons"][0]


def test_looks_are_a_budget(checkout: Checkout, capsys: pytest.CaptureFixture) -> None:
    checkout.params("looks: 20 ", "looks: 2 ")
    for name, nll in (("a", 2.0), ("b", 1.9)):
        checkout.candidate(name, nll=nll)
        main(checkout.root)
        assert report(checkout.root)["decision"] == "approved"
    main(checkout.root)  # known: no look
    assert report(checkout.root)["looks"]["left"] == 0
    assert "2 of 2 looks used, 0 left; new rows make a new test set" in capsys.readouterr().out
    checkout.candidate("c", nll=1.0)
    main(checkout.root)
    assert report(checkout.root)["decision"] == "inconclusive"
    assert report(checkout.root)["champion"]["number"] == 2
    assert "was not looked at: test set" in report(checkout.root)["reasons"][0]
    assert "new rows make a new test set" in report(checkout.root)["reasons"][0]
    checkout.candidate("c", nll=1.0, questions=(*QUESTIONS, "손이 저려요."))  # a row more: a new test digest
    main(checkout.root)
    assert report(checkout.root)["decision"] == "approved"


def test_a_kill_while_it_decides_gives_no_free_look(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    import stages.register as stage

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    checkout.candidate("a")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "decide", killed)
        with pytest.raises(KeyboardInterrupt):
            main(checkout.root)
    ledger = open_ledger(checkout.root)
    (before,) = ledger.events(kinds={"looked"})
    main(checkout.root)  # the same decision: the look is there already
    assert ledger.events(kinds={"looked"}) == [before]
    assert report(checkout.root)["decision"] == "approved"


def test_a_part_of_the_test_set_has_the_same_budget(checkout: Checkout) -> None:
    checkout.candidate("a")
    main(checkout.root)
    whole = json.loads((checkout.root / "reports/tokenize.json").read_text())
    checkout.candidate("b", nll=1.9, questions=QUESTIONS[:20])  # as evaluate.max_rows: 20 would
    path = checkout.root / "reports/tokenize.json"
    path.unlink()
    path.write_text(json.dumps(whole))
    main(checkout.root)
    assert report(checkout.root)["looks"]["used"] == 2


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
    checkout.candidate("b", nll=2.5, questions=NEW)
    main(checkout.root)
    assert "scoring the champion on 12 test rows" in capsys.readouterr().out
    assert report(checkout.root)["decision"] == "approved"
    assert len(list(scores.glob("*.json"))) == 2
    finding = next(f for f in report(checkout.root)["findings"] if f["name"] == "not_worse")
    assert finding["value"] < -2.5
    assert finding["details"]["rows"] == 12
    main(checkout.root)
    assert "scoring the champion" not in capsys.readouterr().out


@pytest.mark.parametrize("value", [None, float("nan"), "0.1", True, float("-inf")])
def test_figures_that_are_no_numbers_never_pass(checkout: Checkout, value: object) -> None:
    checkout.candidate("a", adapter={"eos_after_reference": value})
    main(checkout.root)
    assert report(checkout.root)["decision"] == "inconclusive"
    assert report(checkout.root)["champion"] is None


def test_lost_registry_is_registered_anew_as_dvc_runs_it(checkout: Checkout) -> None:
    version = checkout.candidate("a")
    main(checkout.root)
    (checkout.root / "mlruns/mlflow.db").unlink()

    def again() -> subprocess.CompletedProcess:
        # a process of its own: MLflow's connections of this one still hold the file that is gone
        return subprocess.run(
            [sys.executable, "-m", "stages.register"],
            cwd=checkout.root,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    refused = again()  # the ledger went with it, and this checkout knows that there was one
    assert refused.returncode == 1
    said = refused.stderr.splitlines()[-1]
    assert said.startswith("error: ")
    assert "the ledger has only 0 rows" in said
    assert "Where that was meant, remove" in said
    (checkout.root / "mlruns/ledger.head").unlink()
    done = again()
    assert done.returncode == 0, done.stderr
    assert "registered: approved" in done.stdout
    assert report(checkout.root)["champion"] == {"number": 1, "version": version}


def test_a_report_that_is_missing_is_named(checkout: Checkout) -> None:
    checkout.candidate("a")
    (checkout.root / "reports/train.json").unlink()
    with pytest.raises(RegistryError, match=r"reports/train\.json is missing; run `dvc repro`$"):
        main(checkout.root)


@pytest.mark.parametrize("key", ["candidate", "version"])
def test_another_candidates_evaluation_is_refused(checkout: Checkout, key: str) -> None:
    checkout.candidate("a")
    path = checkout.root / "reports/evaluate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "0" * 64}))
    with pytest.raises(RegistryError, match=rf"reports/evaluate\.json is of another {key}"):
        main(checkout.root)


def test_rows_that_are_not_the_reports_are_refused(checkout: Checkout) -> None:
    import pyarrow.parquet as pq

    checkout.candidate("a")
    path = checkout.root / "reports/evaluate/rows.parquet"
    table = pq.read_table(path)
    for rows, said in (
        (table.slice(0, 0), "holds no row of the base model"),
        (table.slice(0, 71), "holds other rows of the base model than of the merged one"),
        (table.filter([n % 24 != 3 for n in range(72)]), r"holds other rows than reports/evaluate\.json is of"),
    ):
        pq.write_table(rows, path)
        with pytest.raises(RegistryError, match=said):
            main(checkout.root)
    path.write_bytes(b"no parquet")
    with pytest.raises(RegistryError, match="cannot be read"):
        main(checkout.root)


def test_rows_from_outside_the_test_split_are_refused(checkout: Checkout) -> None:
    checkout.candidate("a")
    tokenize = checkout.root / "reports/tokenize.json"
    tokenize.write_text(json.dumps({**json.loads(tokenize.read_text()), "test_digest": "0" * 64}))
    valid = checkout.root / "data/valid/rows.jsonl"
    valid.write_text(valid.read_text().replace('"split": "test"', '"split": "train"', 1))
    with pytest.raises(RegistryError, match="holds 1 rows that are not in the test split"):
        main(checkout.root)


def test_an_unknown_figure_is_named_with_its_line_and_costs_no_look(checkout: Checkout) -> None:
    checkout.candidate("a")
    checkout.params("adapter.eos_after_reference, at_least", "adapter.eos_after_refrence, at_least")
    lines = (checkout.root / "params.yaml").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "eos_after_refrence" in text)
    said = rf"params\.yaml, line {line}: gate\.checks\.eos\.figure: .*did you mean 'eos_after_reference'\?"
    with pytest.raises(RecipeError, match=said):
        main(checkout.root)
    assert not (checkout.root / "mlruns/looks").exists()


def test_a_damaged_champion_approves_nobody(checkout: Checkout) -> None:
    champion = checkout.candidate("a")
    main(checkout.root)
    merged = checkout.root / "mlruns/artifacts/versions" / champion / "merged/config.json"
    merged.unlink()
    merged.write_text("{}")
    checkout.candidate("b", nll=1.0, questions=NEW)
    main(checkout.root)
    assert report(checkout.root)["decision"] == "inconclusive"
    assert "its rows cannot be scored" in report(checkout.root)["reasons"][1]


def test_another_candidates_merge_is_refused(checkout: Checkout) -> None:
    checkout.candidate("a")
    path = checkout.root / "reports/merge.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "candidate": "0" * 64}))
    with pytest.raises(RegistryError, match=r"reports/merge\.json is of another candidate"):
        main(checkout.root)


def test_a_server_without_a_ledger_is_refused_before_anything_is_written(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.candidate("a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="set MEDTUNE_LEDGER_URI"):
        main(checkout.root)
    assert not (checkout.root / "mlruns/artifacts").exists()


def test_the_champions_answers_can_be_reviewed_beside_a_candidates(checkout: Checkout) -> None:
    with pytest.raises(RegistryError, match="no champion yet"):
        champion_reports(checkout.root, load_recipe(checkout.root / "params.yaml"))
    version = checkout.candidate("a")
    answers = '{"set": "test", "id": "1", "question": "머리가 아파요.", "answers": {"adapter": {"text": "쉬세요."}}}\n'
    (checkout.root / "reports/evaluate/answers.jsonl").write_text(answers, encoding="utf-8")
    main(checkout.root)
    checkout.candidate("b")
    folder = champion_reports(checkout.root, load_recipe(checkout.root / "params.yaml"))
    assert (folder / "evaluate/answers.jsonl").read_text(encoding="utf-8") == answers
    assert json.loads((folder / "evaluate.json").read_text(encoding="utf-8"))["version"] == version
