"""The MLflow store: one SQLite file and one artifact folder under mlruns/, made exactly once.

    uri = open_store()          # sqlite:////…/mlruns/mlflow.db, or $MLFLOW_TRACKING_URI
    client = connect(uri)

MLflow creates its tables on a client's first contact and takes no lock while doing so: of eight clients on a fresh
file seven die. So the database is made here under a file lock, beside its place, and renamed into it: whoever finds
the file finds it whole, also after a kill. A PostgreSQL database is made under an advisory lock of its own, which
holds over all hosts. Behind `mlflow server` the server makes its tables.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from medtune.params.errors import RegistryError
from medtune.tracking.secrets import redact, take_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection

HOME = Path("mlruns")
SQLITE = "sqlite:///"
POSTGRES = "postgresql+psycopg:"
MAKING = 7_305_516_212  # PostgreSQL's advisory locks are numbers: this one guards the making of MLflow's tables


def open_store(root: Path = Path(".")) -> str:
    """Make the tracking store if there is none and return its URI, absolute, so that it holds from any directory.

    MLFLOW_TRACKING_URI in the environment wins; a SQLite file or a PostgreSQL database that it names is made in the
    same way, a server is taken as it is: nothing is asked of it yet. A user and password inside a server's address
    move to MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, so that the URI returned can be shown.
    RegistryError where the path cannot be written as a database URL, and where PostgreSQL does not let us in.
    """
    harden_environment()
    given = os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or f"{SQLITE}{(root / HOME / 'mlflow.db').resolve()}"
    if uri.startswith(("http:", "https:")) and (uri := take_password(uri)) != given:
        os.environ["MLFLOW_TRACKING_URI"] = uri  # MLflow and subprocesses read it too
    if uri.startswith(("postgresql:", "postgres:")):  # SQLAlchemy would take psycopg2, which is not installed
        uri = f"{POSTGRES}{uri.partition(':')[2]}"
    if uri.startswith(POSTGRES):
        _make_postgres(uri, _artifacts(root))
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


def artifact_root(uri: str) -> str | None:
    """The URI that a database store's artifacts lie under; None where a server decides.

    Beside a SQLite file; for PostgreSQL without a server, MLFLOW_DEFAULT_ARTIFACT_ROOT, which `mlflow server` reads
    too, or mlruns/artifacts of the folder that we run in.
    """
    if uri.startswith(SQLITE):
        return (_database(uri).parent / "artifacts").as_uri()
    return None if uri.startswith(("http:", "https:")) else _artifacts(Path("."))


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn "does not answer" and "does not let us in", of MLflow, SQLAlchemy or requests, into a RegistryError without
    any password. Whatever else the store says passes as it is."""
    try:
        yield
    except Exception as error:
        sentence = _outage(error)
        if sentence is None:
            raise
        raise RegistryError(f"the tracking store {redact(uri)} {sentence}") from None


def _outage(error: Exception) -> str | None:
    """What to say of an error that means that the store is away or refuses us; None for any other."""
    kind, text = type(error), redact(error)
    family = kind.__module__.partition(".")[0]
    status = (
        getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "get_http_status_code", int)()
    )
    if family not in ("mlflow", "requests", "sqlalchemy", "psycopg", "botocore"):
        return None
    if status == 401 or "error code 401" in text:
        return "does not know us (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if status == 403 or "error code 403" in text:
        return "does not let this user do that (403): ask its administrator for permission"
    if "password authentication failed" in text or "no password supplied" in text:
        return "refuses user or password: set them in the URI or, better, in PGUSER and PGPASSWORD"
    if family == "mlflow" and not ("failed with" in text and ("exception" in text or "error code 5" in text)):
        if getattr(error, "error_code", "") != "TEMPORARILY_UNAVAILABLE":
            return None
    elif family == "sqlalchemy" and kind.__name__ not in ("OperationalError", "InterfaceError"):
        return None
    return f"does not answer ({_first_line(text)}); is it running, and is its address right?"


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    return line if len(line) <= 300 else f"{line[:300]} …"


def _artifacts(root: Path) -> str:
    return os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or (root / HOME / "artifacts").resolve().as_uri()


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


def _make_postgres(uri: str, artifacts: str) -> None:
    """MLflow's tables, by whoever comes first; the others wait. A kill frees the lock, and the next one goes on."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    with store_errors(uri):
        try:
            engine = create_engine(
                uri, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 10}
            )
        except ModuleNotFoundError as error:
            raise RegistryError(f"{error.name} is not installed: pip install 'medtune[server]'") from None
        with engine.connect() as connection:
            if _is_made(connection):
                return
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MAKING})  # until the connection ends
            if not _is_made(connection):
                from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

                SqlAlchemyStore(uri, artifacts).engine.dispose()


def _is_made(connection: "Connection") -> bool:
    """The last thing that MLflow writes when it makes its tables is the row of the default experiment."""
    from sqlalchemy import text

    tables = connection.execute(
        text("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename IN (:a, :b)"),
        {"a": "experiments", "b": "alembic_version"},
    ).scalar_one()
    return tables == 2 and connection.execute(text("SELECT 1 FROM experiments LIMIT 1")).first() is not None
