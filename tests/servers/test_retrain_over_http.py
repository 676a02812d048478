"""The services of compose.yaml as processes, and nothing done by hand: rows are dropped, a champion comes out.

PostgreSQL, an S3 store, MLflow and Prefect behind passwords, the deployments and automations of this checkout, a
worker. The watcher sees the rows, its event starts one retrain, the stages run, the version goes over HTTP into the
registry and through the gate, and the bytes to DVC's remote.
"""

import base64
import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from e2e.project import Project, copy_checkout
from servers.processes import Postgres
from servers.stack import Stack, start_stack

pytestmark = pytest.mark.slow
SECONDS = 420.0


@dataclass
class Team:
    project: Project
    stack: Stack

    def prefect(self, path: str, body: dict) -> list[dict]:
        return self._ask(f"{self.stack.prefect}{path}", self.stack.secret("prefect_auth"), body)

    def mlflow(self, path: str) -> dict:
        return self._ask(self.stack.mlflow + path, f"admin:{self.stack.secret('mlflow_admin_password')}")

    def runs(self, flow: str) -> list[dict]:
        return self.prefect("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"})

    def _ask(self, url: str, login: str, body: dict | None = None):
        request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def team(postgres: Postgres, store, tiny_base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    own = Postgres(postgres.binaries, postgres.user)
    overrides = ["retrain.min_new_rows=20", "retrain.quiet_seconds=1"]
    project = copy_checkout(tmp_path_factory.mktemp("team") / "checkout", tiny_base, *overrides)
    try:
        with start_stack(tmp_path_factory.mktemp("stack"), project.root, own, store.endpoint) as stack:
            project.env |= stack.client()
            project.python("dvc", "remote", "add", "--default", "store", "s3://medtune-dvc/team")
            project.python("dvc", "repro", "download")  # the corpus that the recipe names is no news
            stack.run("deploy")
            stack.start("worker")
            yield Team(project, stack)
    finally:
        own.stop()


@pytest.fixture(scope="module")
def retrained(team: Team) -> dict:
    """The run of medtune-retrain that the rows led to, once it has ended."""
    rows = [
        {"input": f"{number}일째 {place} 아파요.", "output": "푹 쉬고 물을 드세요. 낫지 않으면 병원에 가세요."}
        for place in ("머리가", "배가", "허리가", "무릎이", "어깨가")
        for number in range(1, 6)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = team.project.root / "data/incoming/march.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    deadline = time.monotonic() + SECONDS
    final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
    while True:
        ended = [run for run in team.runs("medtune-retrain") if run["state_type"] in final]
        if any(run["state_type"] != "CANCELLED" for run in ended):
            return next(run for run in ended if run["state_type"] != "CANCELLED")
        assert time.monotonic() < deadline, team.stack.log("worker")[-6000:]
        time.sleep(2)


def test_the_rows_led_to_a_champion_without_a_hand(team: Team, retrained: dict) -> None:
    log = team.stack.log("worker")
    ended = retrained["state_type"], retrained["state"]["name"]
    assert ended == ("COMPLETED", "Completed"), (retrained["state"], log[-6000:])
    assert retrained["parameters"]["reason"] == "25 new rows in 1 file (retrain.min_new_rows 20)"
    found = team.mlflow("/api/2.0/mlflow/registered-models/alias?name=medgpt-ko&alias=champion")["model_version"]
    assert found["version"] == "1"
    run = team.mlflow(f"/api/2.0/mlflow/runs/get?run_id={found['run_id']}")["run"]
    assert run["info"]["status"] == "FINISHED"
    assert run["info"]["artifact_uri"].startswith("mlflow-artifacts:")
    status = team.project.status()
    assert status["champion"]["number"] == 1
    assert status["champion"]["files"].startswith("mlflow-artifacts:")
    assert status["incoming"]["rows"] == 0


def test_every_record_is_there(team: Team, retrained: dict) -> None:
    history = team.project.python("medtune.cli", "history")
    assert "promoted" in history
    lines = (team.project.root / "data/versions.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["data"] == retrained["parameters"]["data"]
    assert (team.project.root / "data/incoming.dvc").exists()
    tasks = team.prefect("/task_runs/filter", {"flow_runs": {"id": {"any_": [retrained["id"]]}}})
    named = {task["name"]: task["state_type"] for task in tasks}
    stages = {"download", "validate", "tokenize", "train", "merge", "evaluate", "register"}
    assert {name for name, state in named.items() if state == "COMPLETED"} >= stages | {"push"}, named


def test_one_run_for_one_data_version(team: Team, retrained: dict) -> None:
    """The watcher goes on looking; what was trained on is done."""

    def looked() -> int:
        """Looks that came to their end: the schedule has made runs far ahead as well."""
        return sum(run["state_type"] == "COMPLETED" for run in team.runs("medtune-watch"))

    before, deadline = looked(), time.monotonic() + 200
    while looked() <= before:
        assert time.monotonic() < deadline, team.stack.log("worker")[-3000:]
        time.sleep(2)
    done = [run for run in team.runs("medtune-retrain") if run["state"]["name"] == "Completed"]
    assert [run["id"] for run in done] == [retrained["id"]]


def test_no_password_stands_in_a_log_and_no_training_is_late(team: Team, retrained: dict) -> None:
    secrets = {path.name: path.read_text() for path in (team.stack.folder / "secrets").iterdir()}
    assert len(secrets) > 3
    logs = {path.name: path.read_text(errors="replace") for path in team.stack.folder.glob("*.log")}
    assert {"worker.log", "mlflow.log", "prefect.log"} <= set(logs)
    assert not [(name, log) for name, secret in secrets.items() for log, text in logs.items() if secret in text]
    names = [run["state"]["name"] for run in team.runs("medtune-retrain") + team.runs("medtune-pipeline")]
    assert "Late" not in names
