"""MLflow's aliases without MLflow: its tables by SQL where the store is a database, its REST interface over HTTP.

Importing MLflow takes seconds, and `medtune status` and `medtune rollback` must not. tests/registry/test_aliases.py
holds what is read and written here to what MLflow's own client says, so that an MLflow with other tables fails there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medtune.params.errors import RegistryError
from medtune.registry.database import Connection, Unanswered, transaction
from medtune.tracking.secrets import take_password
from medtune.tracking.store import HOME, SQLITE

SECONDS = 3  # for a server that does not answer: the ledger is written already, and doctor repairs later


class Unreachable(RegistryError):
    """MLflow does not answer."""


def registry_uri(root: Path) -> str:
    """Where MLflow's registry lies; makes nothing."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return take_password(given) if given else f"{SQLITE}{(root / HOME / 'mlflow.db').resolve()}"


def read_aliases(uri: str, model: str) -> dict[str, int]:
    """{alias: number} of a registered model; {} where there is none. Unreachable where MLflow does not answer."""
    if uri.startswith(("http:", "https:")):
        answer = _ask(uri, "GET", "registered-models/get", params={"name": model})
        aliases = (answer or {}).get("registered_model", {}).get("aliases", [])
        return {item["alias"]: int(item["version"]) for item in aliases}
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return {}
    with _connect(uri) as connection:
        rows = connection.execute(
            "SELECT alias, version FROM registered_model_aliases WHERE name = :name", {"name": model}
        )
        return {alias: int(number) for alias, number in rows}


def write_alias(uri: str, model: str, alias: str, number: int | None) -> None:
    """Point an alias at a version, or remove it (None). RegistryError where MLflow has no such version."""
    if uri.startswith(("http:", "https:")):
        if number is None:
            _ask(uri, "DELETE", "registered-models/alias", json={"name": model, "alias": alias})
        else:
            body = {"name": model, "alias": alias, "version": str(number)}
            if _ask(uri, "POST", "registered-models/alias", json=body) is None:
                raise _gone(model, number)
        return
    key = {"name": model, "alias": alias}
    with _connect(uri, "registered_model_aliases") as connection:
        if number is not None and not _is_there(connection, model, number):
            raise _gone(model, number)
        connection.execute("DELETE FROM registered_model_aliases WHERE name = :name AND alias = :alias", key)
        if number is not None:
            connection.execute(
                "INSERT INTO registered_model_aliases (name, alias, version) VALUES (:name, :alias, :number)",
                {**key, "number": number},
            )


def write_tag(uri: str, model: str, number: int, key: str, value: str) -> None:
    """Set a tag of a model version. RegistryError where MLflow has no such version."""
    if uri.startswith(("http:", "https:")):
        body = {"name": model, "version": str(number), "key": key, "value": value}
        if _ask(uri, "POST", "model-versions/set-tag", json=body) is None:
            raise _gone(model, number)
        return
    row = {"name": model, "number": number, "key": key, "value": value}
    with _connect(uri, "model_version_tags") as connection:
        if not _is_there(connection, model, number):
            raise _gone(model, number)
        where = "WHERE name = :name AND version = :number AND key = :key"
        if connection.execute(f"UPDATE model_version_tags SET value = :value {where}", row).rowcount == 0:
            columns = "INSERT INTO model_version_tags (name, version, key, value) VALUES (:name, :number, :key, :value)"
            connection.execute(columns, row)


def _is_there(connection: Connection, model: str, number: int) -> bool:
    query = "SELECT 1 FROM model_versions WHERE name = :name AND version = :number AND current_stage <> :deleted"
    row = {"name": model, "number": number, "deleted": "Deleted_Internal"}  # MLflow keeps the rows of deleted versions
    return connection.execute(query, row).first() is not None


def _gone(model: str, number: int) -> RegistryError:
    return RegistryError(f"MLflow has no {model} version {number}: someone deleted it; run `medtune doctor`")


@contextmanager
def _connect(uri: str, writes: str | None = None) -> Iterator[Connection]:
    """A transaction in MLflow's database. `writes`: the table that nobody else may write to meanwhile; two who insert
    the same key at once would else end in an IntegrityError."""
    try:
        with transaction(uri, writes) as connection:
            yield connection
    except Unanswered as error:
        raise Unreachable(f"MLflow: {error}") from None


def _ask(uri: str, method: str, path: str, **arguments: Any) -> dict[str, Any] | None:
    """The answer as JSON, None where the thing asked for is not there."""
    import requests

    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/{quote(path)}"
    headers = {"Authorization": f"Bearer {token}"} if token and not user else {}
    try:
        answer = requests.request(
            method, url, auth=(user, password or "") if user else None, headers=headers, timeout=SECONDS, **arguments
        )
    except requests.RequestException as error:
        raise Unreachable(f"the MLflow server does not answer ({type(error).__name__})") from None
    if answer.status_code == 404:
        return None
    if answer.status_code in (401, 403):
        raise Unreachable(
            "the MLflow server refuses: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that "
            "may write"
        )
    if not answer.ok:
        raise Unreachable(f"the MLflow server answered {answer.status_code}")
    try:
        told = answer.json()
    except ValueError:  # a login page, with status 200
        told = None
    if not isinstance(told, dict):
        raise Unreachable("what answers is no MLflow server (no JSON); is MLFLOW_TRACKING_URI right?")
    return told
