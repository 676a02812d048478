"""A version's MLflow run, read without importing MLflow where its store is a database: params, times, artifacts.

    run = read_run(root, run_id)            # RegistryError says why it cannot be told
    run.artifact("reports/evaluate.json")   # bytes, None where the run keeps none such

A run is a candidate's: another merge of the same adapter writes its own report over the first one's, so that whoever
reads a report holds its `version` to the one that is meant.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from medtune.params.errors import RegistryError
from medtune.registry.aliases import _ask, _connect, registry_uri
from medtune.tracking.store import HOME, SQLITE


@dataclass(frozen=True)
class Run:
    """started, finished: UTC, RFC 3339; params: as MLflow keeps them, texts; place: the artifacts' folder or URI."""

    run_id: str
    uri: str
    status: str
    started: str | None
    finished: str | None
    params: dict[str, str]
    place: Path | str

    def artifact(self, path: str) -> bytes | None:
        """A file of the run; None where there is none, or its store does not answer."""
        if isinstance(self.place, Path):
            try:
                return (self.place / path).read_bytes()
            except OSError:
                return None
        return _downloaded(self.uri, self.run_id, path)


def read_run(root: Path, run_id: str) -> Run:
    """The run of a version. RegistryError where MLflow does not answer or has no such run."""
    uri = registry_uri(root)
    if uri.startswith(("http:", "https:")):
        answer = _ask(uri, "GET", "runs/get", params={"run_id": run_id})
        if answer is None:
            raise _none(run_id)
        info, data = answer["run"]["info"], answer["run"].get("data", {})
        params = {item["key"]: item["value"] for item in data.get("params", [])}
        status, started, finished = info.get("status", ""), info.get("start_time"), info.get("end_time")
        place = info.get("artifact_uri", "")
    else:
        status, started, finished, place, params = _from_tables(uri, run_id)
    return Run(run_id, uri, status, _moment(started), _moment(finished), params, _place(root, run_id, place))


def _from_tables(uri: str, run_id: str) -> tuple:
    """MLflow's tables runs and params; tests/registry/test_lineage.py holds what is read to what its client says."""
    from sqlalchemy import text

    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        raise RegistryError(f"MLflow's database {uri.removeprefix(SQLITE)} is not there")
    with _connect(uri) as connection:
        row = connection.execute(
            text("SELECT status, start_time, end_time, artifact_uri FROM runs WHERE run_uuid = :run"), {"run": run_id}
        ).first()
        if row is None:
            raise _none(run_id)
        params = connection.execute(text("SELECT key, value FROM params WHERE run_uuid = :run"), {"run": run_id})
        return *row, dict(sorted(tuple(param) for param in params))


def _place(root: Path, run_id: str, uri: str) -> Path | str:
    """The folder of a run's artifacts where it is on this disk; a checkout that moved has them where it lies now."""
    parsed = urlparse(uri)
    if parsed.scheme in ("", "file"):
        folder = Path(url2pathname(parsed.path))
        moved = sorted((root / HOME / "artifacts" / "runs").glob(f"*/{run_id}/artifacts"))
        return folder if folder.is_dir() or not moved else moved[0]
    return uri


def _downloaded(uri: str, run_id: str, path: str) -> bytes | None:
    """From a store that MLflow's client knows how to ask. It would try a dead server for minutes: once is enough."""
    import tempfile

    from medtune.tracking.store import connect

    few = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in few}
    os.environ.update(few)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return Path(connect(uri).download_artifacts(run_id, path, folder)).read_bytes()
    except Exception:  # every store has its own errors: whichever it is, the file cannot be told
        return None
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _none(run_id: str) -> RegistryError:
    return RegistryError(f"MLflow has no run {run_id}: it was deleted for good, or another store is asked")


def _moment(milliseconds: object) -> str | None:
    """MLflow counts milliseconds since 1970."""
    if not milliseconds:
        return None
    return datetime.fromtimestamp(int(str(milliseconds)) / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
