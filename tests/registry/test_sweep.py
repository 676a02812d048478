"""Sweeps through DVC's real queue, over a project whose trainings take no time."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from medtune.params.errors import RecipeError, RegistryError
from medtune.params.recipe import load_recipe
from medtune.registry import sweep_workspace
from medtune.registry.sweep import finalist, plan, sweep
from medtune.registry.sweep_record import read_sweep, write_sweep
from medtune.registry.sweep_workspace import DVC, PLACE
from medtune.tracking.pipeline_lock import PipelineBusy, pipeline_lock
from medtune.tracking.runs import candidate_run
from medtune.tracking.store import connect, open_store
from tests.registry.sweep_project import ROOT, SweepProject

WORDS = ("lora.r=4,8,13", "train.learning_rate=2e-4")


def make(root: Path, fresh_store: Path) -> SweepProject:
    project = SweepProject.create(root)
    (root / "mlruns").mkdir()
    shutil.copy(fresh_store, root / "mlruns/mlflow.db")
    (root / "data/incoming/a.jsonl").write_text('{"question": "q", "answer": "a"}\n')  # git does not keep it
    (root / "source.txt").write_text("배가 아파요.")  # a change that is not committed
    return project


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path):
    """A sweep that is killed while one trial trains, one has ended and one has failed: the project, what git saw of it
    before, and the process that trained."""
    project = make(tmp_path_factory.mktemp("sweep") / "root", fresh_store)
    before = project.tree()
    hold, pid = Path(f"{project.tally}.hold"), Path(f"{project.tally}.pid")
    hold.write_text("8")  # this trial waits in the middle of its training
    code = "import sys; from pathlib import Path; from medtune.registry.sweep import sweep; "
    code += "sweep(Path('.'), sys.argv[1:], 'ranks', 2)"
    process = subprocess.Popen([sys.executable, "-c", code, *WORDS], cwd=project.root, env=project.environment())

    def trains() -> bool:
        assert process.poll() is None, "the sweep ended by itself"
        # a trial's record comes some seconds after its end, while the queue goes on to the next
        record = read_sweep(project.root, "ranks")
        return pid.exists() and bool(pid.read_text()) and record is not None and len(record.trials) == 2

    try:
        assert waited(trains, 500)
        training = psutil.Process(int(pid.read_text()))
    finally:
        process.kill()
        process.wait()
    hold.unlink()
    return project, before, training


@pytest.fixture(scope="module")
def swept(killed):
    project, before, training = killed
    assert waited(lambda: gone(training), 60)  # before another begins
    project.trained()
    done = project.medtune(*WORDS, "--name", "ranks", "--jobs", "2")
    return project, done, before


def waited(true, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.05)
    return False


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def runs_of(project: SweepProject, name: str) -> list:
    client = connect(open_store(project.root))
    found = client.search_experiments(filter_string="name = 'medtune'")
    return client.search_runs([found[0].experiment_id], f"tags.`medtune.sweep` = '{name}'")


@pytest.mark.timeout(900)
def test_killed_it_leaves_nobody_behind(killed):
    project, _, training = killed
    assert waited(lambda: gone(training), 60)
    record = read_sweep(project.root, "ranks")
    assert [trial.params["lora.r"] for trial in record.done()] == [4]
    assert [trial.params["lora.r"] for trial in record.failed()] == [13]


@pytest.mark.timeout(900)
def test_again_it_trains_what_was_killed_and_what_failed(swept):
    project, done, _ = swept
    assert done.returncode == 0, done.stderr
    assert sorted(project.trained()) == ["13 0.0002", "8 0.0002"]


def test_every_combination_has_a_result_and_the_failed_one_is_told(swept):
    project, done, _ = swept
    record = read_sweep(project.root, "ranks")
    assert [trial.params["lora.r"] for trial in record.done()] == [8, 4]
    assert [trial.problem for trial in record.failed()] == ["lora.r: 13 does not fit this base; take another"]
    assert "FAILED: lora.r: 13 does not fit this base" in done.stdout
    table = (project.root / "reports/sweeps/ranks.csv").read_text().splitlines()
    assert table[0].startswith("trial,lora.r,train.learning_rate,validation_loss")
    assert len(table) == 4
    assert (project.root / "reports/sweeps/ranks.png").read_bytes().startswith(b"\x89PNG")


def test_the_test_split_is_not_evaluated_and_the_checkout_is_left_alone(swept):
    project, _, before = swept
    assert not Path(f"{project.tally}.evaluated").exists()
    new = [line for line in project.tree().splitlines() if line not in before.splitlines()]
    assert new == ["?? data/first_seen.txt", "?? reports/sweeps/"]
    # of its own folder, the checkpoints that were gone on with and the copy are removed
    assert [path.name for path in (project.root / PLACE).iterdir()] == ["ranks.lock"]
    # rows that git does not keep reached the trials, and the order of their first sight came back
    assert (project.root / "data/first_seen.txt").read_text() == "a.jsonl"


def test_runs_stand_side_by_side_in_mlflow_and_none_is_left_running(swept):
    project, _, _ = swept
    runs = runs_of(project, "ranks")
    trials = [run for run in runs if run.data.tags.get("medtune.trial") == "true"]
    (parent,) = [run for run in runs if run.data.tags.get("medtune.sweep.parent") == "true"]
    assert sorted(run.info.status for run in trials) == ["FAILED", "FINISHED", "FINISHED"]
    good = [run for run in trials if run.info.status == "FINISHED"]
    assert {run.data.tags["mlflow.parentRunId"] for run in good} == {parent.info.run_id}
    assert {run.data.params["lora.r"]: run.data.metrics["train.validation_loss"] for run in good} == {
        "4": 3.0,
        "8": 2.0,
    }
    assert parent.info.status == "FINISHED"
    listed = {item.path for item in connect(open_store(project.root)).list_artifacts(parent.info.run_id)}
    assert {"ranks.csv", "ranks.png"} <= listed


def test_the_finalist_is_trained_by_no_one_anew_and_register_can_take_its_run(swept, tmp_path):
    project, _, _ = swept
    comments = (project.root / "params.yaml").read_text().count("#")
    project.trained()
    trial, _ = finalist(project.root, "ranks")
    assert trial.params == {"lora.r": 8, "train.learning_rate": 0.0002}
    recipe = load_recipe(project.root / "params.yaml")
    assert (recipe.lora.r, recipe.train.learning_rate) == (8, 0.0002)
    assert (project.root / "params.yaml").read_text().count("#") == comments
    told = project.run(*DVC, "repro", "train")
    assert project.trained() == []
    assert "Stage 'train' is cached" in told
    uri = open_store(project.root)
    report = json.loads((project.root / "reports/train.json").read_text())
    run = candidate_run(uri, "medtune", report["candidate"], "again")
    assert run == trial.run_id
    assert connect(uri).get_run(run).info.status == "FINISHED"


def test_another_recipe_gets_no_finalist(swept, tmp_path):
    project, _, _ = swept
    other = tmp_path / "other"
    (other / "reports").mkdir(parents=True)
    shutil.copytree(project.root / "reports/sweeps", other / "reports/sweeps")
    text = (project.root / "params.yaml").read_text()
    (other / "params.yaml").write_text(text.replace("max_steps: 24", "max_steps: 36"))
    with pytest.raises(RecipeError, match=r"train\.max_steps 24 → 36"):
        finalist(other, "ranks")
    with pytest.raises(RegistryError, match="there is no sweep rank; "):
        finalist(other, "rank")


def test_a_checkout_without_git_or_a_commit_is_told_the_mend(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(ROOT / "recipes/sample.yaml", bare / "params.yaml")
    with pytest.raises(RegistryError, match="this is no git checkout: git init && git add -A && git commit"):
        plan(bare, ["lora.r=4,8"])
    subprocess.run(["git", "init", "--quiet"], cwd=bare, check=True)
    with pytest.raises(RegistryError, match="nothing is committed yet: git add -A"):
        plan(bare, ["lora.r=4,8"])


def test_while_a_pipeline_runs_none_begins(swept):
    project, _, _ = swept
    started = project.tally.read_text() if project.tally.exists() else None
    with pipeline_lock(project.root):
        done = project.medtune("lora.r=2", "--name", "other")
    assert done.returncode != 0
    assert f"the pipeline is running already: process {os.getpid()} on " in done.stderr
    assert "wait for its end" in done.stderr
    assert (project.tally.read_text() if project.tally.exists() else None) == started


def test_it_holds_the_pipelines_lock_while_it_trains(swept, monkeypatch):
    """Told by the copy that it makes: what comes after that is trained under the same lock."""
    project, *_ = swept
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)
    said = []

    def copy(root, *_):
        with pytest.raises(PipelineBusy, match=f"process {os.getpid()} on"):
            pipeline_lock(root).__enter__()
        said.append("held")
        raise RegistryError("far enough")

    monkeypatch.setattr("medtune.registry.sweep.make_workspace", copy)
    with pytest.raises(RegistryError, match="far enough"):
        sweep(project.root, ["lora.r=2"], "held", say=said.append)
    assert said == ["held"]
    with pipeline_lock(project.root):
        pass


def test_a_half_copied_file_stays_out_of_the_trials(swept, tmp_path, monkeypatch):
    project = SweepProject(shutil.copytree(swept[0].root, tmp_path / "root", symlinks=True))
    incoming = project.root / "data/incoming"
    (incoming / "a.jsonl").rename(incoming / "whole.jsonl")
    (incoming / "whole.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (incoming / "half.jsonl").write_text('{"question": "q", "ans')
    (incoming / "README.md").touch()
    monkeypatch.setattr(sweep_workspace, "GATHER_SECONDS", 0.0)
    monkeypatch.setenv("TALLY", str(project.tally))
    recipe = load_recipe(project.root / "params.yaml")
    said = []
    assert sweep_workspace._settled(project.root, recipe.retrain, said.append, wait=2.0) == ("whole.jsonl",)
    assert "half.jsonl, line 1: the file ends in the middle of this line" in said[-2]
    made = sweep_workspace.make_workspace(project.root, "grid", recipe, said.append)
    there = {path.name for path in (made.root / "data/incoming").iterdir()}
    assert there == {"whole.jsonl"}
    assert (made.root / "data/incoming.dvc").is_file()


def test_dry_run_tells_the_combinations_and_a_name_of_other_keys_is_refused(swept):
    project, _, _ = swept
    told = project.medtune("lora.r=4,8,4", "--dry-run")
    assert "2 combination(s), 1 said twice; nothing was queued" in told.stdout
    refused = project.medtune("lora.r=4,8", "--name", "ranks", "--dry-run")
    assert "the sweep ranks varies lora.r, train.learning_rate; give another --name" in refused.stderr


def test_a_broken_record_names_file_and_mend(tmp_path):
    (tmp_path / "reports/sweeps").mkdir(parents=True)
    (tmp_path / "reports/sweeps/x.json").write_text("{")
    with pytest.raises(RegistryError, match=r"sweeps/x.json is no sweep's record .* restore it from git"):
        read_sweep(tmp_path, "x")
    assert read_sweep(tmp_path, "y") is None


def test_seeds_are_ranked_by_their_mean(tmp_path):
    from medtune.registry.sweep_record import SweepRecord, TrialRecord
    from medtune.registry.sweep_table import rank, render

    losses = {(4, 1): 1.9, (4, 2): 2.5, (8, 1): 2.0, (8, 2): 2.1}
    record = SweepRecord("seeds", ["lora.r", "train.seed"], {})
    for number, ((r, seed), loss) in enumerate(losses.items()):
        params = {"lora.r": r, "train.seed": seed}
        record.trials[str(number)] = TrialRecord(str(number), params, "done", "s", validation_loss=loss, steps=2)
    first, second = rank(record)
    assert first.params == {"lora.r": 8}
    assert first.loss == pytest.approx(2.05)
    assert second.spread == pytest.approx(0.4243, abs=1e-4)
    assert "not more than seeds alone make" in render(record)
    write_sweep(tmp_path, record)
    assert read_sweep(tmp_path, "seeds") == record
