"""What we read from and write to MLflow's tables, held to what MLflow's own client says, on SQLite and PostgreSQL.

An MLflow that names its tables or columns otherwise must fail here, before it reaches anybody's registry.
"""

import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from servers.conftest import postgres  # noqa: F401 - a fixture

from medtune.params.errors import RegistryError
from medtune.registry.aliases import Unreachable, read_aliases, write_alias, write_tag
from medtune.tracking.store import connect, open_store

MODEL, ADAPTER = "medgpt-ko", "medgpt-ko-adapter"
# what aliases.py names in its statements, and the keys by which one row is the one
RELIED_ON = {
    "registered_model_aliases": ({"name", "alias", "version"}, {"workspace", "name", "alias"}),
    "model_versions": ({"name", "version", "current_stage"}, {"workspace", "name", "version"}),
    "model_version_tags": ({"name", "version", "key", "value"}, {"workspace", "name", "version", "key"}),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sqlite":
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (tmp_path / "mlruns").mkdir()
        shutil.copy(fresh_store, tmp_path / "mlruns/mlflow.db")
    else:
        server = request.getfixturevalue("postgres")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.create(f"aliases_{tmp_path.name.lower()}"[:60]))
    return open_store(tmp_path)


@pytest.fixture
def client(uri: str, tmp_path: Path):
    """MLflow's client of a store with two registered models of three versions."""
    client = connect(uri)
    for model in (MODEL, ADAPTER):
        client.create_registered_model(model)
        for _ in range(3):
            client.create_model_version(model, str(tmp_path))
    return client


def told(client, model: str = MODEL) -> dict[str, int]:
    return {alias: int(number) for alias, number in client.get_registered_model(model).aliases.items()}


def test_what_mlflow_writes_is_what_we_read(client, uri: str) -> None:
    assert read_aliases(uri, MODEL) == {}
    client.set_registered_model_alias(MODEL, "champion", "1")
    client.set_registered_model_alias(MODEL, "challenger", "3")
    client.set_registered_model_alias(ADAPTER, "champion", "2")
    assert read_aliases(uri, MODEL) == told(client) == {"champion": 1, "challenger": 3}
    assert read_aliases(uri, ADAPTER) == told(client, ADAPTER) == {"champion": 2}
    client.set_registered_model_alias(MODEL, "champion", "2")
    client.delete_registered_model_alias(MODEL, "challenger")
    assert read_aliases(uri, MODEL) == told(client) == {"champion": 2}
    client.delete_model_version(MODEL, "2")  # MLflow drops the alias with the version
    assert read_aliases(uri, MODEL) == told(client) == {}
    assert read_aliases(uri, "no-such-model") == {}


def test_what_we_write_is_what_mlflow_reads(client, uri: str) -> None:
    for alias, number in (("champion", 1), ("challenger", 3), ("champion", 2), ("champion", 2)):
        write_alias(uri, MODEL, alias, number)
        assert int(client.get_model_version_by_alias(MODEL, alias).version) == number
        assert alias in client.get_model_version(MODEL, str(number)).aliases
    assert told(client) == read_aliases(uri, MODEL) == {"champion": 2, "challenger": 3}
    assert told(client, ADAPTER) == {}
    write_alias(uri, MODEL, "champion", None)
    write_alias(uri, MODEL, "champion", None)  # already gone
    assert told(client) == {"challenger": 3}
    write_alias(uri, MODEL, "champion", 1)
    client.set_registered_model_alias(MODEL, "champion", "3")  # MLflow moves what we wrote
    assert told(client) == read_aliases(uri, MODEL) == {"champion": 3, "challenger": 3}
    client.delete_registered_model_alias(MODEL, "champion")
    assert read_aliases(uri, MODEL) == {"challenger": 3}


def test_no_alias_points_where_mlflow_has_no_version(client, uri: str) -> None:
    write_alias(uri, MODEL, "champion", 1)
    client.delete_model_version(MODEL, "3")
    for number in (3, 4):  # deleted: its row stays in the table; never there
        with pytest.raises(RegistryError, match=f"no {MODEL} version {number}"):
            write_alias(uri, MODEL, "champion", number)
        with pytest.raises(RegistryError, match=f"no {MODEL} version {number}"):
            write_tag(uri, MODEL, number, "medtune.decision", "x")
    assert told(client) == {"champion": 1}  # as it was


def test_tags(client, uri: str) -> None:
    client.set_model_version_tag(MODEL, "1", "validation_status", "rejected")
    for value in ("approved", "x" * 20_000, "위험: 119"):
        write_tag(uri, MODEL, 1, "validation_status", value)
        assert client.get_model_version(MODEL, "1").tags == {"validation_status": value}
    write_tag(uri, MODEL, 1, "medtune.new", "1")
    assert [int(item.version) for item in client.search_model_versions("tags.`medtune.new` = '1'")] == [1]
    client.set_model_version_tag(MODEL, "1", "medtune.new", "2")
    assert client.get_model_version(MODEL, "1").tags["medtune.new"] == "2"
    assert client.get_model_version(MODEL, "2").tags == {}


def test_the_schema_that_we_rely_on(uri: str) -> None:
    from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
    from sqlalchemy import create_engine, inspect

    assert STAGE_DELETED_INTERNAL == "Deleted_Internal"
    made = create_engine(uri)
    inspector = inspect(made)
    for table, (used, key) in RELIED_ON.items():
        columns = {column["name"]: column for column in inspector.get_columns(table)}
        assert used <= columns.keys(), (
            f"MLflow's {table} has no {used - columns.keys()}: mend medtune/registry/aliases.py"
        )
        assert set(inspector.get_pk_constraint(table)["constrained_columns"]) == key, table
        if table == "model_versions":
            continue  # never inserted into
        unfilled = {n for n, column in columns.items() if not column["nullable"] and column["default"] is None} - used
        assert not unfilled, f"MLflow's {table} now demands {unfilled}, which aliases.py does not write"
    made.dispose()


def test_a_database_that_is_not_mlflows(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    assert read_aliases(f"sqlite:///{path}", MODEL) == {}
    assert not path.exists()  # looking makes nothing
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(Unreachable):
        read_aliases(f"sqlite:///{path}", MODEL)


def test_a_database_that_is_away_tells_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(Unreachable) as caught:
        read_aliases("postgresql+psycopg://medtune:geheim@127.0.0.1:1/mlflow", MODEL)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_two_writers_at_once(client, uri: str) -> None:
    """Each waits for the other; none ends in a key that is there twice."""

    def write(number: int) -> None:
        for n in range(15):
            write_alias(uri, MODEL, "champion", number)
            write_tag(uri, MODEL, 1, f"medtune.{n}", str(number))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (1, 2)))
    assert told(client)["champion"] in (1, 2)


@pytest.mark.parametrize("page", [b"<html>please log in</html>", b'"up"'])
def test_a_login_page_is_no_mlflow_server(page: bytes) -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *words: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Unreachable, match=r"no MLflow server .* is MLFLOW_TRACKING_URI right"):
            read_aliases(f"http://127.0.0.1:{server.server_port}", MODEL)
        server.shutdown()
