"""The whole pipeline on the tiny base: real `dvc repro`, the real flow, a real registry, in a copy of this checkout.

The tests of this file follow one another on one project, as a team's days do.
"""

import hashlib
import json
import sys

import pytest
import yaml
from e2e.project import Project, copy_checkout

from medtune.params.recipe import read_yaml
from medtune.registry.manifest import verify_manifest
from medtune.tracking.store import connect

pytestmark = pytest.mark.slow
NOTHING_LEARNED = ("train.learning_rate=1e-9", "train.warmup_steps=0")
SWEEP = "from medtune.commands.sweep import sweep; sweep({words}, 'e2e', 1, False, False, False, None)"


@pytest.fixture(scope="module")
def project(tiny_base, tmp_path_factory) -> Project:
    made = copy_checkout(tmp_path_factory.mktemp("e2e") / "checkout", tiny_base)
    made.first = made.python("dvc", "repro")
    return made


def test_seven_stages_lead_to_a_champion(project):
    for stage in ("download", "validate", "tokenize", "train", "merge", "evaluate", "register"):
        assert f"Running stage '{stage}'" in project.first
    report = project.json("reports/register.json")
    assert report["decision"] == "approved", report["reasons"]
    status = project.status()
    assert status["champion"]["number"] == 1
    assert status["champion"]["version"] == report["version"] == project.json("reports/merge.json")["version"]
    assert project.json("reports/merge.json")["kl_mean"] < 1e-6
    assert project.json("reports/evaluate.json")["adapter_minus_base"]["high"] < 0
    shown = project.python("dvc", "metrics", "show").splitlines()
    assert shown[0].split() == ["Path", *sorted(project.json("reports/metrics.json"))]
    assert len(shown) == 2
    assert "vehicle for the pipeline" in project.first  # the recipe's note stands wherever the decision does
    assert "release card: reports/card/card.html" in project.first
    page = (project.root / "reports/card/card.html").read_text()
    assert "Approved" in page
    assert "vehicle for the pipeline" in page
    assert project.json("reports/card/card.json")["version"] == report["version"]
    assert project.status()["looks"]["used"] == 1


def test_dvc_lock_holds_the_md5_of_every_byte(project):
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    outs = [out for stage in lock.values() for out in stage["outs"]]
    assert len(outs) >= 14
    for out in outs:
        path = project.root / out["path"]
        if not out["md5"].endswith(".dir"):
            assert hashlib.md5(path.read_bytes()).hexdigest() == out["md5"], out["path"]
            continue
        cached = project.root / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]
        listed = json.loads(cached.read_text())
        assert hashlib.md5(cached.read_bytes()).hexdigest() + ".dir" == out["md5"]
        assert {entry["relpath"] for entry in listed} == {
            file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()
        }
        for entry in listed:
            assert hashlib.md5((path / entry["relpath"]).read_bytes()).hexdigest() == entry["md5"], entry


def test_the_versions_files_are_those_of_the_workspace_and_verified(project):
    version = project.json("reports/register.json")["version"]
    folder = project.root / "mlruns/artifacts/versions" / version
    assert len(verify_manifest(folder)["files"]) > 10
    for part in ("adapter", "merged"):
        for file in (project.root / "data" / part).rglob("*"):
            if file.is_file():
                kept = folder / part / file.relative_to(project.root / "data" / part)
                assert kept.read_bytes() == file.read_bytes()


def test_git_sees_only_what_a_team_commits(project):
    seen = {line[3:] for line in project.run("git", "status", "--porcelain", "-uall").splitlines()}
    assert seen <= {"dvc.lock", "data/first_seen.txt", "reports/register.json", "reports/.gitignore", "data/.gitignore"}
    assert {"dvc.lock", "data/first_seen.txt", "reports/register.json"} <= seen


def test_every_row_is_accounted_for(project):
    report = project.json("reports/validate.json")
    assert report["rows_in"] == 150 == report["rows_out"] + report["quarantined"]
    rows = [json.loads(line) for line in (project.root / "data/valid/rows.jsonl").read_text().splitlines()]
    assert len(rows) == report["rows_out"] == sum(report["splits"].values())
    tokens = project.json("reports/tokenize.json")
    planted = tokens["canaries"]["rows"]
    assert planted == 1
    assert sum(split["rows"] for split in tokens["splits"].values()) + len(tokens["dropped"]) == len(rows) + planted


def test_the_run_in_mlflow_is_complete(project):
    code = (
        "from medtune.tracking.store import open_store; import mlflow, json\n"
        "mlflow.set_tracking_uri(open_store())\n"
        "run = mlflow.search_runs(search_all_experiments=True, output_format='list')\n"
        "assert len(run) == 1, run\n"
        "client = mlflow.MlflowClient()\n"
        "steps = [m.step for m in client.get_metric_history(run[0].info.run_id, 'loss')]\n"
        "print(json.dumps([run[0].info.status, steps, sorted(run[0].data.metrics)]))\n"
        "pipe = mlflow.transformers.load_model('models:/medgpt-ko@champion')\n"
        "print(len(pipe('머리가 아파요.', max_new_tokens=4)[0]['generated_text']) > 0)\n"
    )
    out = project.run(sys.executable, "-c", code).splitlines()
    told = next(line for line in out if line.startswith("["))
    status, steps, metrics = json.loads(told)
    assert status == "FINISHED"
    assert sorted(set(steps)) == list(range(1, 9))
    assert {"loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second"} <= set(metrics)
    assert "True" in out


def test_the_champion_answers(project):
    assert "진료를 대신하지 않습니다" in project.python("medtune.cli", "ask", "머리가 아파요.", "--seed", "1")


def test_nothing_is_left_to_do(project):
    assert "Data and pipelines are up to date." in project.python("dvc", "repro")
    out = project.python("flows.pipeline")
    assert "nothing, every stage is as in dvc.lock" in out
    assert "The pipeline is up to date: Completed" in out
    assert "medtune ask" in out


def test_a_candidate_that_learned_nothing_is_rejected_by_the_flow(project):
    """No better than the champion, and it never learned to end: each is told as a reason."""
    project.use(*NOTHING_LEARNED, "gate.checks.eos.blocks=true")
    out = project.python("flows.pipeline")
    assert "to do: train → merge → evaluate → register" in out
    assert "The pipeline is up to date: Rejected" in out
    assert "not_worse: " in out
    assert "it must know when an answer is over" in out
    status = project.status()
    assert status["champion"]["number"] == 1
    assert status["challenger"]["number"] == 2
    report = project.json("reports/register.json")
    assert report["decision"] == "rejected"
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["eos"]["outcome"] == found["not_worse"]["outcome"] == "failed"
    assert found["eos"]["value"] < 0.5


def test_going_back_registers_nothing_and_moves_no_alias(project):
    project.use()
    project.python("dvc", "repro")
    status = project.status()
    assert status["champion"]["number"] == 1
    assert project.json("reports/register.json")["version"] == status["champion"]["version"]
    code = (
        "from medtune.tracking.store import open_store; import mlflow; mlflow.set_tracking_uri(open_store())\n"
        "print('versions', len(mlflow.MlflowClient().search_model_versions(\"name='medgpt-ko'\")))"
    )
    assert "versions 2" in project.run(sys.executable, "-c", code)


def test_the_finalist_of_a_sweep_is_not_trained_anew_and_costs_one_look(project):
    """Of its two trials one was trained before; the other is the finalist, whose run register completes."""
    project.env |= {"PYTHONPATH": str(project.root), "MEDTUNE_CACHE": str(project.root.parent / "cache")}
    told = project.run(sys.executable, "-c", SWEEP.format(words=["train.learning_rate=1e-9,5e-3", NOTHING_LEARNED[1]]))
    assert "1  0.005 " in told
    trials = project.json("reports/sweeps/e2e.json")["trials"]
    best = next(item for item in trials if item["params"]["train.learning_rate"] == 0.005)
    before = project.status()["looks"]["used"]
    project.run(sys.executable, "-c", SWEEP.format(words=["finalist"]))
    assert "Stage 'train' is cached" in project.python("dvc", "repro")
    report = project.json("reports/register.json")
    assert project.json("reports/train.json")["candidate"] == best["candidate"]
    run = connect(f"sqlite:///{project.root}/mlruns/mlflow.db").get_run(best["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["medtune.sweep"] == "e2e"
    assert run.data.tags["medtune.version"] == report["version"]
    assert "evaluate.adapter.nll_per_char" in run.data.metrics
    assert report["looks"]["used"] == before + 1


def test_new_rows_move_no_old_row(project):
    def sides() -> dict[str, str]:
        rows = map(json.loads, (project.root / "data/valid/rows.jsonl").read_text().splitlines())
        return {row["row_id"]: row["split"] for row in rows}

    before = sides()
    assert len(before) > 100
    # one of them sorts before every other file, and its rows are nearly rows that are known
    known = (project.root / "data/sample/dialogues.jsonl").read_text().splitlines()[150:190]
    near = [json.loads(line) for line in known]
    more = near + [row | {"output": row["output"] + " 꼭 기억하세요."} for row in near]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in more)
    (project.root / "data/incoming/0-first.jsonl").write_text(lines)
    project.python("dvc", "repro", "validate")
    after = sides()
    assert {row: after[row] for row in before} == before
    assert len(after) >= len(before) + 80 - project.json("reports/validate.json")["quarantined"]
    assert read_yaml(project.root / "params.yaml")["retrain"]["min_new_rows"] == 50
