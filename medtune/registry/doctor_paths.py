"""Absolute paths in MLflow's SQLite file after a checkout was moved or copied: `medtune doctor` rebases them.

MLflow writes down where artifacts lie, absolute, with and without file://. After a move every page of the UI is empty
and models:/…@champion loads nothing; after a copy both go to the original. A path <old>/mlruns/artifacts/… becomes
<root>/mlruns/artifacts/… where <old> is shown to have been this very checkout: some file of it lies here at the same
relative place, or the database was made there. What lies at <old> alone is left and reported.

All in one transaction, with a copy of the file before it. Tracking elsewhere (HTTP, PostgreSQL, another SQLite file,
which several checkouts may share) is left alone: whose paths those are, this checkout cannot know.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from medtune.params.errors import RegistryError
from medtune.registry.doctor_trouble import Examination, Trouble, local_path
from medtune.tracking.store import SQLITE

ARTIFACTS = "/mlruns/artifacts"
FILE = "file://"
# (table, column, further condition); those that an MLflow does not have are passed over
PLACES = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("logged_models", "artifact_location", ""),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
    ("workspaces", "default_artifact_root", ""),
)
WAIT = 60  # seconds for another writer


@dataclass(frozen=True)
class Stale:
    """A stored value that points into another checkout; `rest` is what follows its mlruns/artifacts."""

    table: str
    column: str
    value: str
    old: Path
    rest: str

    def there(self) -> bool:
        return Path(f"{self.old}{ARTIFACTS}{self.rest}").exists()

    def here(self, root: Path) -> Path:
        return Path(f"{root}{ARTIFACTS}{self.rest}")

    def rebased(self, root: Path) -> str:
        path = self.here(root)
        return path.as_uri() if self.value.startswith(FILE) else str(path)


def check_paths(seen: Examination) -> list[Trouble]:
    """Paths of MLflow that point to where this checkout was, or was copied from."""
    database = local_path(seen.root)
    if seen.uri != f"{SQLITE}{database}" or not database.exists():
        return []
    root = seen.root.resolve()
    with closing(_connect(database)) as connection:
        stale = list(_stale(connection, root))
        birth = _birth(connection)
    troubles = []
    for old in sorted({item.old for item in stale}):
        items = [item for item in stale if item.old == old]
        if old != birth and not any(item.here(root).exists() for item in items):
            continue  # a place that somebody chose: nothing of it was ever here
        moving = [item for item in items if item.here(root).exists() or not item.there()]
        behind = [item for item in items if item not in moving]
        if moving:
            was = "lies beside it still" if (old / "mlruns/mlflow.db").exists() else "is there no more"
            troubles.append(
                Trouble(
                    "moved_checkout",
                    f"{len(moving)} paths in mlruns/mlflow.db point below {old}, where this checkout was moved or "
                    f"copied from ({was}), such as {moving[0].table}.{moving[0].column} {moving[0].value}",
                    f"rebase them to {root}: `medtune doctor`",
                    lambda moving=moving: rebase(database, root, moving),
                )
            )
        if behind:
            troubles.append(
                Trouble(
                    "left_behind",
                    f"{len(behind)} paths in mlruns/mlflow.db point to files that lie below {old} alone, such as "
                    f"{behind[0].value}",
                    f"copy {old}{ARTIFACTS} to {root}{ARTIFACTS}, then run `medtune doctor` again",
                )
            )
    return troubles


def rebase(database: Path, root: Path, items: list[Stale]) -> str:
    """Point these values to `root`, all or none; a copy of the database as it was stays beside it."""
    with closing(_connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # from here on nobody else writes: the copy is what is changed
        try:
            kept = _keep(database)
            changed = 0
            for item in items:
                done = connection.execute(
                    f"UPDATE {item.table} SET {item.column} = ? WHERE {item.column} = ?",
                    (item.rebased(root), item.value),
                )
                changed += done.rowcount
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    return f"{changed} rows point to {root} now; the database as it was is {kept}"


def _keep(database: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    kept = database.with_name(f"{database.name}.before-rebase-{stamp}")
    making = kept.with_name(f".{kept.name}.tmp")
    try:
        with closing(_connect(database)) as source, closing(sqlite3.connect(making)) as target:
            source.backup(target)
    except sqlite3.Error as error:
        making.unlink(missing_ok=True)
        raise RegistryError(f"{kept} cannot be written ({error}); make room, nothing was changed") from None
    os.replace(making, kept)
    return kept


def _connect(database: Path) -> sqlite3.Connection:
    # rw for readers too: they roll back what a kill left half written; transactions are by hand
    return sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=WAIT, isolation_level=None)


def _stale(connection: sqlite3.Connection, root: Path) -> Iterator[Stale]:
    for table, column, condition in PLACES:
        if column not in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
            continue
        where = f"WHERE {column} LIKE '%{ARTIFACTS}%'" + (f" AND {condition}" if condition else "")
        for (value,) in connection.execute(f"SELECT DISTINCT {column} FROM {table} {where}"):
            split = _split(value)
            if split and split[0].resolve() != root:
                yield Stale(table, column, value, *split)


def _split(value: str) -> tuple[Path, str] | None:
    """(checkout, what follows its mlruns/artifacts) of a path or file: URI on this disk, None for anything else."""
    path = value
    if value.startswith(FILE):
        parts = urlsplit(value)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            return None
        path = unquote(parts.path)
    if not path.startswith("/") or ".." in path.split("/"):
        return None
    old, _, rest = path.rpartition(ARTIFACTS)
    return (Path(old), rest) if old and (not rest or rest.startswith("/")) else None


def _birth(connection: sqlite3.Connection) -> Path | None:
    """Where this database was made: MLflow's own first experiment lies there."""
    row = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    split = _split(row[0]) if row and row[0] else None
    return split[0] if split else None
