"""The services of compose.yaml as processes, and nothing done by hand: rows are dropped, a champion comes out.

PostgreSQL, an S3 store, MLflow and Prefect behind passwords, the deployments and automations of this checkout, a
worker. The watcher sees the rows, its event starts one retrain, the stages run, the version goes over HTTP into the
registry and through the gate, and the bytes to DVC's remote. Meanwhile: doors are closed, secrets stay secret.
"""

import json
import os
import subprocess
import sys

import pytest
import yaml
from servers.stack import ROOT, Stack
from servers.team import Team, retrained, stack, team

__all__ = ["retrained", "stack", "team"]
pytestmark = pytest.mark.slow  # the servers take half a minute to start, the retrain more
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def test_mlflow_lets_nobody_in_without_the_password(stack: Stack) -> None:
    login = f"admin:{stack.secret('mlflow_admin_password')}"
    assert stack.get(stack.mlflow + SEARCH, login) == 200
    assert stack.get(stack.mlflow + SEARCH) == 401
    assert stack.get(stack.mlflow + SEARCH, "admin:wrong") == 401
    assert stack.get(stack.mlflow + SEARCH, login, host="elsewhere.example") == 403


def test_prefect_lets_nobody_in_without_the_auth_string(stack: Stack) -> None:
    flows = f"{stack.prefect}/flows/filter"
    assert stack.get(flows, stack.secret("prefect_auth"), "POST") == 200
    assert stack.get(flows, method="POST") == 401
    assert stack.get(flows, "medtune:wrong", "POST") == 401
    assert stack.get(f"{stack.prefect}/health") == 200  # the health check of compose has no secret


def test_each_database_opens_for_its_own_role(stack: Stack) -> None:
    import psycopg

    for role, own, other in (("ledger", "ledger", "mlflow"), ("prefect", "prefect", "ledger")):
        login = {"host": "127.0.0.1", "port": stack.postgres.port, "user": role}
        login["password"] = stack.secret(f"{role}_database_password")
        psycopg.connect(dbname=own, **login).close()
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(dbname=other, **login)


def test_the_ledger_opens_as_the_worker_is_told(stack: Stack) -> None:
    code = "from pathlib import Path; from medtune.registry.ledger import open_ledger; print(open_ledger(Path('.')))"
    env = stack.client() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=stack.root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert stack.secret("ledger_database_password") not in done.stdout


def test_deploy_makes_what_prefect_yaml_says_and_the_pool_of_the_cluster(team: Team) -> None:
    wanted = {item["name"] for item in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    found = {item["name"]: item for item in team.prefect("/deployments/filter", {})}
    assert set(found) == wanted
    assert all(f"/{name}" in team.deployed for name in wanted)
    template = json.loads((ROOT / "k8s/job-template.json").read_text())
    pool = {"name": "clusters", "type": "kubernetes", "base_job_template": template}
    assert team.prefect("/work_pools/", pool)["base_job_template"] == template


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
    team.look_again()
    done = [run for run in team.runs("medtune-retrain") if run["state"]["name"] == "Completed"]
    assert [run["id"] for run in done] == [retrained["id"]]


def test_no_training_is_late(team: Team, retrained: dict) -> None:
    names = [run["state"]["name"] for run in team.runs("medtune-retrain") + team.runs("medtune-pipeline")]
    assert retrained["state"]["name"] in names
    assert "Late" not in names


def test_no_secret_stands_on_a_command_line_or_in_a_log(stack: Stack, retrained: dict) -> None:
    """Not in those of the stages either, which the worker's log holds."""
    secrets = {path.name: path.read_text() for path in (stack.folder / "secrets").iterdir()}
    lines = subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True, check=True).stdout
    assert [name for name, value in secrets.items() if value in lines] == []
    logs = {path.name: path.read_text(errors="replace") for path in stack.folder.glob("*.log")}
    assert {"worker.log", "mlflow.log", "prefect.log"} <= set(logs)
    assert [(name, log) for name, value in secrets.items() for log, text in logs.items() if value in text] == []
    # the mapping of this test aside, compose.yaml names files alone: what `docker inspect` would show
    told = json.dumps({name: stack._environment(name) for name in ("prepare", "mlflow", "prefect", "worker")})
    assert [name for name, value in secrets.items() if value in told] == []
    assert oct(os.stat(stack.folder / "secrets/prefect_auth").st_mode & 0o777) == "0o600"


def test_a_second_prepare_changes_nothing_but_a_password(stack: Stack) -> None:
    """The last of this file: the worker knows the old password."""
    import psycopg

    said = stack.run("prepare")
    assert said == "databases and buckets are as they should be\n"
    old = stack.secret("ledger_database_password")
    path = stack.folder / "secrets/ledger_database_password"
    path.unlink()
    subprocess.run(["bash", ROOT / "docker/secrets.sh", path.parent], check=True, capture_output=True)
    assert stack.secret("ledger_database_password") != old
    stack.run("prepare")
    login = {"host": "127.0.0.1", "port": stack.postgres.port, "user": "ledger", "dbname": "ledger"}
    psycopg.connect(**login, password=stack.secret("ledger_database_password")).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**login, password=old)
