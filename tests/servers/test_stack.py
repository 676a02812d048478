"""compose.yaml's services as processes: options exist, doors are closed, a worker runs a flow with its keys."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from e2e.project import copy_checkout
from servers.processes import Postgres, stop
from servers.stack import ROOT, Stack, start_stack

pytestmark = pytest.mark.slow  # the servers take half a minute to start
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
FLOW = '''
import mlflow
from prefect import flow


@flow(name="probe")
def probe(word: str) -> str:
    """What a flow of ours does with the environment that the worker hands on."""
    with mlflow.start_run(run_name=word) as run:
        mlflow.log_text(word, "word.txt")
    return run.info.run_id
'''
DEPLOY = """
from prefect import flow
flow.from_source(source=".", entrypoint="probe.py:probe").deploy(
    name="by-hand", work_pool_name="medtune", build=False, push=False, print_next_steps=False, ignore_warnings=True
)
"""


@pytest.fixture(scope="module")
def stack(postgres: Postgres, store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    own = Postgres(postgres.binaries, postgres.user)  # the names of its databases are compose's
    root = copy_checkout(tmp_path_factory.mktemp("stack") / "checkout", Path("none")).root
    (root / "probe.py").write_text(FLOW)
    (root / "deploy.py").write_text(DEPLOY)
    try:
        with start_stack(tmp_path_factory.mktemp("running"), root, own, store.endpoint) as made:
            yield made
    finally:
        own.stop()


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


def test_a_second_prepare_changes_nothing_but_a_password(stack: Stack) -> None:
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


def test_a_worker_runs_a_flow_that_writes_to_mlflow_and_the_bucket(stack: Stack, store) -> None:
    worker = stack.start("worker")  # content with its health check: it polls the pool
    env = stack.client()
    subprocess.run([sys.executable, "deploy.py"], cwd=stack.root, env=env, check=True, capture_output=True)
    arguments = ["deployment", "run", "probe/by-hand", "--param", "word=mountain", "--watch", "--watch-timeout", "120"]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=stack.root, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr + stack.log("worker")
    login = f"admin:{stack.secret('mlflow_admin_password')}"
    assert stack.get(f"{stack.mlflow}{SEARCH}", login) == 200
    assert [key for key in store.keys("word.txt") if key.endswith("artifacts/word.txt")]
    assert worker.poll() is None
    stop(worker)  # else it would run what `deploy` schedules


def test_deploy_makes_what_prefect_yaml_says_and_the_pool_of_the_cluster(stack: Stack) -> None:
    said = stack.run("deploy")
    wanted = {item["name"] for item in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    env = stack.client()
    template = ["--type", "kubernetes", "--base-job-template", str(ROOT / "k8s/job-template.json")]
    prefect = [sys.executable, "-m", "prefect"]
    options = {"cwd": stack.root, "env": env | {"COLUMNS": "200"}, "capture_output": True, "text": True}
    made = subprocess.run([*prefect, "work-pool", "create", "clusters", *template], **options)
    assert made.returncode == 0, made.stdout + made.stderr
    listed = subprocess.run([*prefect, "deployment", "ls"], **options)
    assert [name for name in wanted if f"/{name}" not in listed.stdout] == [], said + listed.stdout
    assert "medtune-retrain/weekly" in said


def test_no_secret_stands_on_a_command_line_or_in_a_log(stack: Stack) -> None:
    secrets = {path.name: path.read_text() for path in (stack.folder / "secrets").iterdir()}
    lines = subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True, check=True).stdout
    logs = "".join(path.read_text(errors="replace") for path in stack.folder.glob("*.log"))
    assert [name for name, value in secrets.items() if value in lines] == []
    assert [name for name, value in secrets.items() if value in logs] == []
    # the mapping of this test aside, compose.yaml names files alone: what `docker inspect` would show
    told = json.dumps({name: stack._environment(name) for name in ("prepare", "mlflow", "prefect", "worker")})
    assert [name for name, value in secrets.items() if value in told] == []
    assert oct(os.stat(stack.folder / "secrets/prefect_auth").st_mode & 0o777) == "0o600"
