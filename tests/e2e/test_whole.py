"""The whole pipeline on the tiny base: real `dvc repro`, the real flow, a real registry, in a copy of this checkout.

The tests of this file follow one another on one project, as a team's days do.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medtune.params.recipe import read_yaml
from medtune.params.recipes import compose
from medtune.registry.manifest import verify_manifest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "base.source=path",
    "base.revision=null",
    "base.sha256=null",
    "download.limit=150",
    "validate.min_rows=100",
    "tokenize.max_length=1024",
    "train.max_steps=8",
    "train.learning_rate=1e-2",
    "train.eval_steps=4",
    "train.save_steps=4",
    "merge.dtype=float32",
    "merge.certificate_rows=2",
    "merge.generation.max_new_tokens=8",
    "evaluate.max_rows=12",
    "evaluate.max_questions=2",
    "evaluate.max_new_tokens=8",
    "evaluate.bootstrap_samples=200",
    # eight steps teach a random model that some bytes are likelier than others, and no more
    "gate.checks.eos.blocks=false",
]

pytestmark = pytest.mark.slow


class Project:
    def __init__(self, root: Path, base: Path):
        self.root, self.base = root, base
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        identity = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        keep_out = {"PYTEST_CURRENT_TEST", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"}
        self.env = {k: v for k, v in os.environ.items() if k not in keep_out}
        self.env |= identity | {
            "PATH": path,
            "PREFECT_HOME": str(root / ".prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def python(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", *arguments)

    def use(self, *overrides: str) -> None:
        text = (ROOT / "recipes/sample.yaml").read_text()
        made, _ = compose(text, [*SETTINGS, f"base.id={self.base}", *overrides], lambda *_: "", "sample")
        (self.root / "params.yaml").write_text(made)

    def json(self, name: str) -> dict:
        return json.loads((self.root / name).read_text())

    def status(self) -> dict:
        return json.loads(self.python("medtune.cli", "status", "--json"))


@pytest.fixture(scope="module")
def project(tiny_base, tmp_path_factory) -> Project:
    root = tmp_path_factory.mktemp("e2e") / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "reports/")) and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "data/first_seen.txt").unlink(missing_ok=True)
    made = Project(root, tiny_base)
    made.use()
    made.run("git", "init", "-q")
    made.run("git", "add", "-A")
    made.run("git", "commit", "-qm", "start")
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
    assert sum(split["rows"] for split in tokens["splits"].values()) + len(tokens["dropped"]) == len(rows)


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


def test_a_candidate_that_is_no_better_is_rejected_by_the_flow(project):
    project.use("train.learning_rate=1e-9", "train.warmup_steps=0")
    out = project.python("flows.pipeline")
    assert "to do: train → merge → evaluate → register" in out
    assert "The pipeline is up to date: Rejected" in out
    assert "not_worse_than_champion" in out
    status = project.status()
    assert status["champion"]["number"] == 1
    assert status["challenger"]["number"] == 2
    assert project.json("reports/register.json")["decision"] == "rejected"


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
