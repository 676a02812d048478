"""The workflow of GitHub Actions: its schema, its rights, its pins, and the comment that it posts."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / ".github/workflows/ci.yml"
TEXT = PATH.read_text(encoding="utf-8")
# YAML 1.1 reads the key `on` as true
WORKFLOW: dict[str, Any] = {("on" if k is True else k): v for k, v in yaml.safe_load(TEXT).items()}
JOBS: dict[str, Any] = WORKFLOW["jobs"]


def steps() -> list[dict[str, Any]]:
    return [step for job in JOBS.values() for step in job["steps"]]


def test_githubs_schema_takes_it() -> None:
    import jsonschema

    schema = json.loads((ROOT / "tests/schemas/github-workflow.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(WORKFLOW)] == []
    assert list(validator.iter_errors({**WORKFLOW, "permissions": {"contents": "much"}}))


def test_actionlint_has_nothing_to_say() -> None:
    actionlint = shutil.which("actionlint")
    if not actionlint:
        pytest.skip("actionlint is not in PATH (its package fetches a binary as it installs: no dependency of ours)")
    done = subprocess.run([actionlint, PATH], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_rights_are_the_least() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "comment": {"pull-requests": "write"}
    }
    assert "pull_request_target" not in WORKFLOW["on"]
    # where the token may write, nothing of the branch runs
    assert [step["uses"].partition("@")[0] for step in JOBS["comment"]["steps"] if "uses" in step] == [
        "actions/download-artifact"
    ]
    checkouts = [step for step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False, False]


def test_actions_are_pinned_by_commit() -> None:
    used = re.findall(r"uses: (\S+)(.*)", TEXT)
    assert len(used) == len([step for step in steps() if "uses" in step])
    assert [name for name, _ in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)] == []
    assert [name for name, rest in used if not re.fullmatch(r"  # v\d+\.\d+\.\d+", rest)] == []


def test_nothing_of_an_event_is_pasted_into_a_script() -> None:
    assert [step["run"] for step in steps() if "${{" in step.get("run", "")] == []


def test_no_variable_of_the_repository_is_a_target_s_key() -> None:
    """There MEDTUNE_DVC_REMOTE is the name of a remote: one word must not be a name here and a yes there."""
    from medtune.tracking.target_file import PLACES

    used = set(re.findall(r"vars\.(\w+)", TEXT))
    assert used == {"MEDTUNE_CI_PULL", "AWS_ENDPOINT_URL_S3"}
    assert not used & set(PLACES)


def test_it_runs_what_the_makefile_has() -> None:
    targets = re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text())
    ran = [command for step in steps() for command in re.findall(r"\bmake (\w+)", step.get("run", ""))]
    assert {"setup", "lint", "test", "run"} == set(ran)
    assert set(ran) <= set(targets)


@pytest.fixture(scope="module")
def comment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pull_request_comment", ROOT / ".github/comment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REPORT = {
    "decision": "rejected",
    "reasons": ["the candidate is worse than the champion"],
    "findings": [],
    "champion": None,
    "run_id": None,
    "versions": {"merged": {"model": "medgpt-ko", "number": 3}},
}


@pytest.fixture
def branch(tmp_path: Path) -> Path:
    """A git branch with DVC that changed a metric and the recipe against `base`."""
    identity = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def run(*command: str) -> None:
        subprocess.run(command, cwd=tmp_path, env=os.environ | identity, check=True, capture_output=True)

    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "reports").mkdir()
    stage = {"cmd": "true", "params": ["lora"], "metrics": [{"reports/metrics.json": {"cache": False}}]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))
    (tmp_path / "reports/metrics.json").write_text(json.dumps({"nll_per_char": 1.5}))
    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "base")
    run("git", "branch", "base")
    assert params.count("\n  r: ") == 1
    (tmp_path / "params.yaml").write_text(re.sub(r"\n  r: \d+", "\n  r: 64", params))
    (tmp_path / "reports/metrics.json").write_text(json.dumps({"nll_per_char": 1.25}))
    (tmp_path / "reports/register.json").write_text(json.dumps(REPORT))
    return tmp_path


def test_the_comment_has_decision_metrics_and_recipe(comment: ModuleType, branch: Path) -> None:
    text = comment.comment(branch, "base")
    assert text.startswith("## medgpt-ko version 3: rejected\n")
    assert "because the candidate is worse than the champion" in text
    assert re.search(r"reports/metrics.json \| nll_per_char +\| 1.5 +\| 1.25 +\| -0.25", text)
    assert re.search(r"params.yaml \| lora.r +\| \d+ +\| 64", text)
    assert "release-card" in text
    assert any(step.get("with", {}).get("name") == "release-card" for step in steps())


def test_a_base_that_is_not_there_and_a_report_that_says_too_much(comment: ModuleType, branch: Path) -> None:
    loud = {**REPORT, "reasons": ["```\n# not a heading " + "x" * 100_000]}
    (branch / "reports/register.json").write_text(json.dumps(loud))
    text = comment.comment(branch, "base")
    assert len(text) < 65_536
    assert "cut off" in text
    assert text.count("```") == 1  # the fence is opened by us alone
    (branch / "reports/register.json").write_text(json.dumps(REPORT))
    text = comment.comment(branch, "nowhere")
    assert text.count("Not known: ") == 2
    assert "rejected" in text


def test_without_a_report_it_says_so(comment: ModuleType, branch: Path) -> None:
    from medtune.params.errors import UserError

    (branch / "reports/register.json").unlink()
    with pytest.raises(UserError, match="did `make run` end well"):
        comment.comment(branch, "base")
