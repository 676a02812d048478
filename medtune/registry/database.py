"""Connections to the database of the ledger and of MLflow's tables: SQLite or PostgreSQL, the same statements for both.

    with engine(uri).connect() as connection:
        connection.execute("SELECT body FROM medtune_ledger WHERE seq = :seq", {"seq": 1}).first()

PostgreSQL comes through SQLAlchemy. SQLite comes through Python's own driver: importing SQLAlchemy takes half a second,
a third of what `medtune status` may take in all (benchmarks/status_speed.py). Both commit each statement by itself;
transactions are begun by hand, since only a writer may wait for writers. A connection lives as long as its `with`.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medtune.params.errors import RegistryError
from medtune.tracking.store import SQLITE

WAIT = 60  # seconds for another writer
ANSWER = 10  # seconds for a server to let us in


class Unanswered(RegistryError):
    """The database is away, locked for too long, refuses us, or lacks the tables."""


class Result(Protocol):
    """What both drivers give: tuples of a row, one after the other."""

    rowcount: int

    def first(self) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """Statements with named parameters (:name)."""

    def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> Result: ...


@dataclass(frozen=True)
class Sqlite:
    path: Path

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        try:
            connection = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise Unanswered(f"the database {self.path} cannot be opened: {error}") from None
        try:
            yield _Statements(connection, self.path)
        finally:
            connection.close()


class _Cursor(sqlite3.Cursor):
    def first(self) -> Any:
        return self.fetchone()


@dataclass(frozen=True)
class _Statements:
    connection: sqlite3.Connection
    path: Path

    def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> Result:
        try:
            return self.connection.cursor(_Cursor).execute(str(statement), values or {})
        except sqlite3.IntegrityError:  # a constraint or a trigger: the caller's business
            raise
        except sqlite3.DatabaseError as error:
            raise Unanswered(f"the database {self.path} does not answer as it should: {error}") from None


@dataclass(frozen=True)
class Server:
    uri: str

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, ProgrammingError
        from sqlalchemy.pool import NullPool

        try:
            made = create_engine(
                self.uri, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": ANSWER}
            )
        except ModuleNotFoundError as error:
            raise RegistryError(f"{error.name} is not installed: pip install 'medtune[server]'") from None
        except (ArgumentError, ValueError):  # their words may quote a part of a password
            made = None
        if made is None:
            scheme = self.uri[: self.uri.find("://") + 3] if "://" in self.uri else ""
            raise RegistryError(
                f"the address {scheme}… of the database cannot be read; write it as "
                "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with @ : / of a password as %40 %3A %2F"
            )
        try:
            with made.connect() as connection:
                yield _ServerStatements(connection)
            return
        except (InterfaceError, OperationalError, ProgrammingError) as error:
            # the driver's words quote host and user; SQLAlchemy's statement and parameters may be large, and stay out
            said = next(iter(str(error.orig).strip().splitlines()), type(error.orig).__name__)
        address = made.url.render_as_string(hide_password=True)
        # outside the handler: the original is not even its context
        raise Unanswered(f"the database {address} does not answer as it should: {said}")


@dataclass(frozen=True)
class _ServerStatements:
    connection: Any

    def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> Result:
        from sqlalchemy import text

        return self.connection.execute(text(str(statement)), values or {})


def engine(uri: str) -> Sqlite | Server:
    """What opens connections to a database; opens none itself. A bare postgresql:// is taken for psycopg's."""
    if uri.startswith(SQLITE):
        return Sqlite(Path(uri.removeprefix(SQLITE)))
    scheme, _, rest = uri.partition(":")
    return Server(f"postgresql+psycopg:{rest}" if scheme in ("postgres", "postgresql") else uri)


@contextmanager
def transaction(uri: str, alone_on: str | None = None, also: str | None = None) -> Iterator[Connection]:
    """A connection in one transaction: committed at the end, rolled back by whatever is raised.

    `alone_on`: the table that nobody else may write to meanwhile (on SQLite, the whole file). `also`: on a server, a
    statement to begin with instead, where there is no table yet to lock.
    """
    sqlite = uri.startswith(SQLITE)
    with engine(uri).connect() as connection:
        connection.execute("BEGIN IMMEDIATE" if sqlite and (alone_on or also) else "BEGIN")
        try:
            if not sqlite and also:
                connection.execute(also)
            elif not sqlite and alone_on:
                connection.execute(f"LOCK TABLE {alone_on} IN SHARE ROW EXCLUSIVE MODE")
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
