"""Real servers, one set a session: PostgreSQL, an S3 store (moto's), `mlflow server` with basic-auth on top of both.

They skip with a reason where a part is not installed: PostgreSQL's programs (Debian: apt-get install postgresql) or
moto. Each ends with the session, also when it is killed.
"""

import base64
import logging
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from registry_checkout import checkout, fresh_store, make_checkout, tiny_adapter  # noqa: F401
from servers.processes import Postgres, demoted, free_port, postgres_binaries, start, stop, wait_for

BUCKET = "medtune-artifacts"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    binaries, user = postgres_binaries(), demoted()
    if binaries is None:
        pytest.skip(
            "PostgreSQL is not installed: no initdb in PATH or /usr/lib/postgresql (apt-get install postgresql)"
        )
    if user is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'psycopg[binary]')")
    server = Postgres(binaries, user)
    yield server
    server.stop()


@dataclass(frozen=True)
class Store:
    """An S3 store with one bucket. `environment` is what an S3 client needs to reach it."""

    endpoint: str
    environment: dict[str, str] = field(repr=False)

    def client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )

    def keys(self, part: str = "") -> dict[str, int]:
        """Sizes by key of the objects whose key holds `part`."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {o["Key"]: o["Size"] for page in pages for o in page.get("Contents", []) if part in o["Key"]}

    def multipart(self) -> list[str]:
        """Keys that arrived by multipart upload: S3 marks their ETag with the number of parts."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [o["Key"] for page in pages for o in page.get("Contents", []) if "-" in o["ETag"]]


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    moto = pytest.importorskip("moto.server", reason="moto is not installed (pip install 'moto[s3,server]')")
    pytest.importorskip("boto3", reason="boto3 is not installed")
    port = free_port()
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": f"AKIA{secrets.token_hex(8).upper()}",
        "AWS_SECRET_ACCESS_KEY": f"s3-{secrets.token_hex(16)}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
    }
    store = Store(endpoint, environment)
    store.client().create_bucket(Bucket=BUCKET)
    yield store
    server.stop()


@dataclass(frozen=True)
class Server:
    """`mlflow server` with a password. `environment` is what a client needs; `log` is the server's own output."""

    url: str
    user: str
    password: str = field(repr=False)
    log: Path
    ledger: str = field(repr=False)  # a database of its own for the ledger

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MEDTUNE_LEDGER_URI": self.ledger,
            # a server that is gone is told in seconds, not after MLflow's four minutes
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        }

    def get(self, path: str, password: str | None = None) -> int:
        """The status of a GET, with the given password or, for "", without any."""
        request = urllib.request.Request(self.url + path)
        secret = self.password if password is None else password
        if secret:
            token = base64.b64encode(f"{self.user}:{secret}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="session")
def mlflow_server(postgres: Postgres, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    backend, auth, ledger = (postgres.create(name) for name in ("tracking", "auth", "ledger"))
    # the file holds no password: libpq takes it from PGPASSWORD
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = {auth.replace(':' + postgres.password, '')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n"  # else each request hashes the password anew: 0.1 s and more
    )
    password, port = f"mlflow-{secrets.token_hex(12)}", free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_", "MEDTUNE_"))},
        **store.environment,
        "PGPASSWORD": postgres.password,
        "MLFLOW_BACKEND_STORE_URI": backend,
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    server = Server(f"http://127.0.0.1:{port}", "admin", password, folder / "server.log", ledger)
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--serve-artifacts"]
    process = start(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"], server.log, env=environment
    )

    def answers() -> bool:
        try:
            return server.get("/api/2.0/mlflow/experiments/search?max_results=1") == 200
        except OSError:
            return False

    wait_for(answers, process, server.log)
    yield server
    stop(process)


@pytest.fixture
def server_environment(
    request: pytest.FixtureRequest, mlflow_server: Server, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment of a client of the servers, set for this process too: tracking over HTTP, the ledger apart."""
    if "make_checkout" in request.fixturenames:  # which takes MLFLOW_TRACKING_URI away: before us
        request.getfixturevalue("make_checkout")
    for key in list(os.environ):
        if key.startswith(("MLFLOW_TRACKING", "MLFLOW_REGISTRY", "MEDTUNE_", "AWS_")):
            monkeypatch.delenv(key)
    for key, value in mlflow_server.environment.items():
        monkeypatch.setenv(key, value)
    return mlflow_server.environment


@pytest.fixture
def no_models(mlflow_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry of the servers without a model: which files used it before is chance, by how workers share them."""
    from medtune.tracking.store import connect

    with monkeypatch.context() as patch:
        for key, value in mlflow_server.environment.items():
            patch.setenv(key, value)
        client = connect(mlflow_server.url)
        for model in client.search_registered_models():
            client.delete_registered_model(model.name)
