"""The ledger: what happened to every version, append-only, each row bound to the one before. It is what is true.

    ledger = open_ledger(root)
    ledger.append("promoted", "medgpt-ko", version=digest, body={…}, check=…)
    ledger.events("medgpt-ko", kinds={"promoted", "rolled_back"})

One table, medtune_ledger, beside MLflow's own in the SQLite file or PostgreSQL database of MEDTUNE_LEDGER_URI (by
default the tracking store). No Alembic: its version table would collide with MLflow's; each row names its schema.

A row's digest is taken over its content and the digest of the row before, so an edited, removed or swapped row breaks
the chain from there on (`verify`). What a chain alone cannot see is a tail cut off, or an old copy of the database put
back: so each checkout keeps the last row it saw in mlruns/ledger.head. Triggers refuse UPDATE and DELETE; they stop
accidents, the chain shows the rest. Whoever may write to the database and recomputes every digest is stopped by
neither: that is what signed manifests are for.

Every append is one transaction that reads the newest row, asks `check`, and adds the next number, while nobody else can
write: BEGIN IMMEDIATE on SQLite, a table lock on PostgreSQL. A promotion that expects a champion is refused by `check`
when another came first: that makes it compare-and-swap.
"""

import getpass
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.database import Connection, Server, Sqlite, engine, transaction
from medtune.tracking.store import HOME, SQLITE

SCHEMA = 1
TABLE = "medtune_ledger"
KINDS = frozenset(
    {"registered", "evaluated", "approved", "rejected", "inconclusive", "approved_by", "waiver", "signed", "adopted"}
    | {"promoted", "rolled_back", "restored", "retired", "looked", "retracted", "retrain_requested", "alias_drift"}
    | {"data_claimed", "data_done", "data_released"}
)
COLUMNS = ("seq", "schema_version", "at", "event", "model", "version", "actor", "body", "previous", "digest")
START = "0" * 64  # what the first row follows
LONGEST = 4_000_000  # characters of a body: findings are some 10,000; nobody fills the database through one event
ADVISORY = 7_305_516_211  # PostgreSQL's advisory locks are numbers: this one is the ledger's


@dataclass(frozen=True)
class Event:
    """One row. version: digest of 64 hex, None where the event is of no single one; at: UTC, ISO 8601."""

    seq: int
    schema: int
    at: str
    event: str
    model: str
    version: str | None
    actor: str
    body: dict[str, Any]
    previous: str
    digest: str


class Ledger:
    """The events of one database. Readers and writers share it; it holds no connection between calls."""

    def __init__(self, engine: Sqlite | Server, uri: str, head: Path | None = None) -> None:
        self._engine, self._uri, self._head = engine, uri, head
        self._open: Connection | None = None  # the ledger that `check` is given reads in append's transaction

    def events(
        self,
        model: str | None = None,
        version: str | None = None,
        kinds: Collection[str] | None = None,
        until: str | None = None,
        bodies: bool = True,
    ) -> list[Event]:
        """Rows in the order of writing. `until`: UTC ISO 8601, inclusive. Without `bodies` they are {}: faster."""
        wanted, values = [], {}
        for column, value in (("model", model), ("version", version)):
            if value is not None:
                wanted.append(f"{column} = :{column}")
                values[column] = value
        if until is not None:
            wanted.append("at <= :until")
            values["until"] = until
        if kinds is not None:
            wanted.append(f"event IN ({', '.join(f':kind{n}' for n in range(len(kinds))) or 'NULL'})")
            values |= {f"kind{n}": kind for n, kind in enumerate(sorted(kinds))}
        columns = ", ".join(column if bodies or column != "body" else "'{}' AS body" for column in COLUMNS)
        where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
        query = f"SELECT {columns} FROM {TABLE}{where} ORDER BY seq"
        with self._reading() as connection:
            return [_event(row) for row in connection.execute(query, values)]

    def append(
        self,
        event: str,
        model: str,
        version: str | None = None,
        body: dict[str, Any] | None = None,
        actor: str | None = None,
        check: Callable[["Ledger"], Any] | None = None,
    ) -> Event:
        """Add one event, in one transaction; `check(ledger)` sees what it sees, and raises to refuse it.

        RegistryError for an unknown kind and for a body that is too large; whatever `check` raises.
        """
        if event not in KINDS:
            raise RegistryError(f"the ledger knows no event {event!r}; there are {', '.join(sorted(KINDS))}")
        text = json.dumps(body or {}, ensure_ascii=False, sort_keys=True)
        if len(text) > LONGEST:
            raise RegistryError(f"the {event} event of {model} has {len(text):,} characters; {LONGEST:,} are allowed")
        with transaction(self._uri, TABLE) as connection:  # nobody else can write in it
            if check is not None:
                seen = Ledger(self._engine, self._uri)
                seen._open = connection
                check(seen)
            made = self._insert(connection, event, model, version, text, actor or whoami())
        self._remember(made)
        return made

    def verify(self) -> int:
        """Recompute the chain; returns its length. RegistryError names the first row that is not as it was written."""
        events = self.events()
        previous = START
        for number, event in enumerate(events, start=1):
            if event.seq != number:
                raise RegistryError(f"ledger row {number} is missing: after it comes row {event.seq}; {_MEND}")
            if event.previous != previous:
                raise RegistryError(f"ledger row {number} does not follow row {number - 1}: one was exchanged; {_MEND}")
            if event.digest != _digest(event):
                raise RegistryError(
                    f"ledger row {number} ({event.event}, {event.model}, {event.at}) was edited after it was written; "
                    f"{_MEND}"
                )
            previous = event.digest
        self._verify_head(events)
        return len(events)

    @contextmanager
    def lock(self, model: str) -> Iterator[None]:
        """One writer of the registry at a time: registrations and their projection on MLflow. Ends with its process."""
        if self._uri.startswith(SQLITE):
            from filelock import FileLock

            database = Path(self._uri.removeprefix(SQLITE))
            with FileLock(database.with_name(f"{database.name}.registry.lock")):
                yield
        else:
            key = int(hashlib.sha256(f"{ADVISORY} {model}".encode()).hexdigest()[:15], 16)
            with self._engine.connect() as connection:
                connection.execute("SELECT pg_advisory_lock(:key)", {"key": key})
                try:
                    yield
                finally:
                    connection.execute("SELECT pg_advisory_unlock(:key)", {"key": key})

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if self._open is not None:
            yield self._open
        else:
            with self._engine.connect() as connection:
                yield connection

    def _insert(
        self, connection: Connection, event: str, model: str, version: str | None, body: str, actor: str
    ) -> Event:
        last = connection.execute(f"SELECT seq, at, digest FROM {TABLE} ORDER BY seq DESC LIMIT 1").first()
        seq, before, previous = (last[0] + 1, last[1], last[2]) if last else (1, "", START)
        at = max(datetime.now(UTC).isoformat(timespec="microseconds"), before)  # clocks step back, history does not
        bare = Event(seq, SCHEMA, at, event, model, version, actor, json.loads(body), previous, "")
        made = Event(**{**vars(bare), "digest": _digest(bare)})
        values = {**vars(made), "schema_version": made.schema, "body": body}
        connection.execute(
            f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})",
            {name: values[name] for name in COLUMNS},
        )
        return made

    def _remember(self, event: Event) -> None:
        if self._head is None:
            return
        temporary = self._head.with_name(f".{self._head.name}.{os.getpid()}.tmp")
        try:
            if self._head.exists() and int(self._head.read_text().split()[0]) >= event.seq:
                return  # another process of this checkout has seen more
        except (ValueError, IndexError):
            pass  # a broken note is written anew; `verify` has nothing to hold against the ledger then
        self._head.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(f"{event.seq} {event.digest}\n")
        os.replace(temporary, self._head)

    def _verify_head(self, events: list[Event]) -> None:
        if self._head is None or not self._head.exists():
            return
        try:
            seq, digest = self._head.read_text().split()
            seq = int(seq)
        except ValueError:
            raise RegistryError(f"{self._head} is broken; remove it, the next event writes it anew") from None
        if len(events) < seq or events[seq - 1].digest != digest:
            raise RegistryError(
                f"this checkout has seen ledger row {seq} ({digest[:12]}), and the ledger has "
                + (f"only {len(events)} rows" if len(events) < seq else "another one in its place")
                + f": rows were cut off, or an older database was put back; {_MEND}. Where that was meant, remove "
                f"{self._head}"
            )


_MEND = "put the newest sound backup of the database back, and find out who wrote to it"


def ledger_uri(root: Path) -> str:
    """Where the ledger lies: MEDTUNE_LEDGER_URI, or the tracking store if that is a database."""
    given = os.environ.get("MEDTUNE_LEDGER_URI")
    tracking = os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or tracking or f"{SQLITE}{(root / HOME / 'mlflow.db').resolve()}"
    if uri.startswith(("http:", "https:")):
        raise RegistryError(
            "tracking is over HTTP, which takes no ledger: set MEDTUNE_LEDGER_URI to the database behind the server "
            "(postgresql+psycopg://user@host/mlflow, its password in PGPASSWORD or ~/.pgpass)"
        )
    if uri.startswith(SQLITE):
        return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}"
    if uri.startswith(("postgresql:", "postgres:")):
        uri = f"postgresql+psycopg:{uri.partition(':')[2]}"
    if not uri.startswith("postgresql+"):
        raise RegistryError(
            f"the ledger lies in SQLite or PostgreSQL, not in {uri.partition(':')[0]}: set MEDTUNE_LEDGER_URI to "
            "sqlite:///… or postgresql+psycopg://…"
        )
    return uri


def open_ledger(root: Path) -> Ledger:
    """The ledger, its table made if there is none."""
    uri = ledger_uri(root)
    if uri.startswith(SQLITE):
        from medtune.tracking.store import open_store

        if "MEDTUNE_LEDGER_URI" not in os.environ:
            open_store(root)  # the same file: MLflow's tables first, or it would take ours for a broken store
        Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(engine(uri), uri, _head(root, uri))
    with ledger._engine.connect() as connection:
        made = _has_table(connection, uri)
    if not made:
        _make(uri)
    return ledger


def read_ledger(root: Path) -> Ledger | None:
    """The ledger for reading; None where there is no database yet or nothing was ever written."""
    uri = ledger_uri(root)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return None
    ledger = Ledger(engine(uri), uri, _head(root, uri))
    with ledger._engine.connect() as connection:
        return ledger if _has_table(connection, uri) else None


def whoami() -> str:
    """Who acts: MEDTUNE_ACTOR, or the login name."""
    try:
        return os.environ.get("MEDTUNE_ACTOR") or getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _head(root: Path, uri: str) -> Path:
    """One note a ledger: a checkout may be pointed at another database."""
    own = uri == f"{SQLITE}{(root / HOME / 'mlflow.db').resolve()}"
    place = "ledger.head" if own else f"ledger-{hashlib.sha256(_nameless(uri).encode()).hexdigest()[:12]}.head"
    return root / HOME / place


def _nameless(uri: str) -> str:
    """Without user and password: they change, and are nobody's business."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _has_table(connection: Connection, uri: str) -> bool:
    query = (
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name"
        if uri.startswith(SQLITE)
        else "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = :name"
    )
    return connection.execute(query, {"name": TABLE}).first() is not None


def _make(uri: str) -> None:
    """Table, index and triggers in one transaction, by whoever comes first."""
    kind = "sqlite" if uri.startswith(SQLITE) else "postgresql"
    with transaction(uri, also=f"SELECT pg_advisory_xact_lock({ADVISORY})") as connection:
        if not _has_table(connection, uri):
            connection.execute(
                f"CREATE TABLE {TABLE} (seq BIGINT PRIMARY KEY, schema_version INTEGER NOT NULL, "
                "at VARCHAR(40) NOT NULL, event VARCHAR(32) NOT NULL, model VARCHAR(256) NOT NULL, "
                "version VARCHAR(64), actor VARCHAR(256) NOT NULL, "
                "previous CHAR(64) NOT NULL, digest CHAR(64) NOT NULL, body TEXT NOT NULL)"
            )
            connection.execute(f"CREATE INDEX {TABLE}_of ON {TABLE} (model, event, seq)")
            for statement in _TRIGGERS[kind]:
                connection.execute(statement)


_TRIGGERS = {
    "sqlite": [
        f"CREATE TRIGGER {TABLE}_no_{verb} BEFORE {verb} ON {TABLE} "
        f"BEGIN SELECT RAISE(ABORT, '{TABLE} is append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        f"CREATE OR REPLACE FUNCTION {TABLE}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{TABLE} is append-only'; END $$",
        f"CREATE TRIGGER {TABLE}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {TABLE} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {TABLE}_append_only()",
    ],
}


def _event(row: Any) -> Event:
    seq, schema, at, event, model, version, actor, body, previous, digest = row
    if schema > SCHEMA:
        raise RegistryError(
            f"ledger row {seq} has schema {schema}, and this medtune knows {SCHEMA}: use the one that wrote it"
        )
    try:
        body = json.loads(body)
    except ValueError:
        raise RegistryError(f"ledger row {seq} was edited: its body is no JSON; {_MEND}") from None
    return Event(seq, schema, at, event, model, version, actor, body, previous, digest)


def _digest(event: Event) -> str:
    content = [value for name, value in vars(event).items() if name != "digest"]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
