"""Processes that end with the test session, also when it crashes, and the PostgreSQL that they share.

Used by conftest.py. Nothing listens anywhere but on the loopback, and no password stands on a command line.
"""

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    command: list[str], log: Path, ends_by: int = signal.SIGTERM, env: Mapping[str, str] | None = None, user: str = ""
) -> subprocess.Popen:
    """A process in a group of its own that the kernel ends by `ends_by` when this one dies (Linux)."""
    libc = ctypes.CDLL(None)
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env,
            start_new_session=True,
            # after the change of user, which would clear it
            preexec_fn=lambda: libc.prctl(1, ends_by),
            **as_user(user),
        )


def stop(process: subprocess.Popen, by: int = signal.SIGTERM, patience: float = 15) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, by)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(ready: Callable[[], bool], process: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    """Until `ready()`; a process that ended, or time that ran out, fails with the end of its log."""
    until = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            stop(process)
            pytest.fail(f"{process.args[0]} did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


def as_user(name: str) -> dict[str, object]:
    """Popen's arguments that run a command as this user; none for "" ."""
    if not name:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def postgres_binaries() -> Path | None:
    """The folder that holds initdb and postgres (Debian keeps them out of PATH), None where they are not installed."""
    folders = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").is_file() and (f / "postgres").is_file()), None)


def demoted() -> str | None:
    """Whom PostgreSQL can run as: "" for ourselves, another user where we are root, None where there is none."""
    if os.getuid():
        return ""
    names = {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid}
    return next((name for name in ("postgres", "nobody") if name in names), None)


class Postgres:
    """A cluster in a temporary folder: TCP on the loopback, scram passwords, no Unix socket."""

    def __init__(self, binaries: Path, user: str) -> None:
        self.binaries, self.user = binaries, user
        self.password = f"pg-{secrets.token_hex(12)}"
        self.port = free_port()
        # not pytest's folder, which is closed to other users
        self.folder = Path(tempfile.mkdtemp(prefix="medtune-postgres-"))
        self.log = self.folder / "log"
        secret = self.folder / "password"
        secret.touch(0o600)
        secret.write_text(self.password)
        if user:
            for path in (self.folder, secret):
                shutil.chown(path, user)
        subprocess.run(
            [
                binaries / "initdb",
                "-D",
                self.folder / "data",
                "-U",
                "medtune",
                "--pwfile",
                secret,
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            cwd="/",
            **as_user(user),
        )
        secret.unlink()
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for its clients
        self.process = start(
            [str(binaries / "postgres"), "-D", str(self.folder / "data"), *flags], self.log, signal.SIGINT, user=user
        )
        wait_for(self._answers, self.process, self.log)

    def uri(self, database: str, password: str | None = None) -> str:
        secret = self.password if password is None else password
        return f"postgresql+psycopg://medtune:{secret}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new, empty database; its URI."""
        import psycopg

        with psycopg.connect(self._dsn(), autocommit=True) as connection:
            connection.execute(f'create database "{database}"')
        return self.uri(database)

    def stop(self) -> None:
        stop(self.process, signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _dsn(self) -> str:
        return self.uri("postgres").replace("+psycopg", "")

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self._dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True
