"""The MLflow store: one SQLite file and one artifact folder under mlruns/, made exactly once.

    uri = open_store()          # sqlite:////…/mlruns/mlflow.db, or $MLFLOW_TRACKING_URI
    client = connect(uri)

MLflow creates its tables on a client's first contact and takes no lock while doing so: of eight clients on a fresh
file seven die. So the database is made here under a file lock, beside its place, and renamed into it: whoever finds
the file finds it whole, also after a kill.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from medtune.params.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

HOME = Path("mlruns")
SQLITE = "sqlite:///"


def open_store(root: Path = Path(".")) -> str:
    """Make the tracking store if there is none and return its URI, absolute, so that it holds from any directory.

    MLFLOW_TRACKING_URI in the environment wins; a SQLite file that it names is made in the same way, a server or
    another database is taken as it is. RegistryError where the path cannot be written as a database URL.
    """
    harden_environment()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{(root / HOME / 'mlflow.db').resolve()}"
    if uri.startswith(SQLITE):
        database = _database(uri)
        if "?" in str(database):
            raise RegistryError(f"{database}: a tracking database cannot lie under a path with '?'; move the checkout")
        uri = f"{SQLITE}{database}"
        # an empty file is what a SQLite client leaves that looked before anything was made
        if not database.exists() or database.stat().st_size == 0:
            database.parent.mkdir(parents=True, exist_ok=True)
            with lock(uri):
                if not database.exists() or database.stat().st_size == 0:
                    _make(database)
    return uri


def connect(uri: str) -> "MlflowClient":
    """A client whose tracking store and registry are both `uri`, whatever the process-wide settings say."""
    harden_environment()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def harden_environment() -> None:
    """What MLflow must know before it is imported: nothing about us leaves the machine, no pickle is ever opened."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"


def lock(uri: str) -> FileLock:
    """The lock that guards get-or-create in one store: beside a SQLite file, else per host in the temporary folder.

    Two instances in one process exclude each other too; do not nest them.
    """
    if uri.startswith(SQLITE):
        return FileLock(f"{_database(uri)}.lock")
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"medtune-store-{os.getuid()}-{name}.lock")


def artifact_root(uri: str) -> Path | None:
    """The folder that takes a SQLite store's artifacts; None where a server decides."""
    return _database(uri).parent / "artifacts" if uri.startswith(SQLITE) else None


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(SQLITE)).resolve()


def _make(database: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for stale in database.parent.glob(f".{database.name}.making-*"):  # of a kill; we hold the lock
        stale.unlink()
    making = database.with_name(f".{database.name}.making-{os.getpid()}")
    store = SqlAlchemyStore(f"{SQLITE}{making}", (database.parent / "artifacts").as_uri())
    store.engine.dispose()
    os.replace(making, database)
