"""Runs left RUNNING: real processes killed, another host's silence, a busy checkout, runs that name nobody."""

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from medtune.tracking.holder import ENDED, HOST, PID, SEEN, STARTED, TABLE, TRAINED, busy, moment, read_holder
from medtune.tracking.reaper import end, idle_runs, reap_runs
from medtune.tracking.runs import candidate_run, finish
from medtune.tracking.store import connect, open_store

CHILD = """
import sys, time
from medtune.tracking.runs import candidate_run
print(candidate_run(*sys.argv[1:]), flush=True)
time.sleep(600)
"""


@pytest.fixture
def uri(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = open_store(fresh)
    yield uri
    client = connect(uri)  # the next test's runs are its own
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)


def opened(uri: str, name: str, **tags: str) -> str:
    """A candidate's run of this process; `tags` put another in its place."""
    run = candidate_run(uri, "medtune", hashlib.sha256(name.encode()).hexdigest(), name)
    for key, value in tags.items():
        connect(uri).set_tag(run, f"medtune.{key}", value)
    return run


def far(seen: timedelta) -> dict[str, str]:
    """Tags of a process on another host that was last seen so long ago."""
    return {"host": "gpu-7", "process_table": "another", "seen": moment(datetime.now(UTC) - seen)}


def test_a_killed_process_is_reaped_and_a_living_one_is_not(uri: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"killed").hexdigest()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, uri, "medtune", digest, "killed"], stdout=subprocess.PIPE, text=True
    ) as child:
        run = child.stdout.readline().strip()
        mine = opened(uri, "mine")
        assert reap_runs(uri, tmp_path) == []  # both live
        child.send_signal(signal.SIGKILL)
        child.wait()
    client = connect(uri)
    seen = read_holder(client.get_run(run).data.tags).seen
    (sentence,) = reap_runs(uri, tmp_path)
    assert sentence.startswith("run killed: KILLED, since ")
    assert f"process {child.pid} on {socket.gethostname()} is gone, last seen {seen:%Y-%m-%d %H:%M:%S} UTC" in sentence
    found = client.get_run(run)
    assert found.info.status == "KILLED"
    assert found.data.tags[ENDED] in sentence
    assert found.info.end_time == int(seen.timestamp() * 1000)  # when it was last seen, not when it was found
    assert client.get_run(mine).info.status == "RUNNING"
    assert reap_runs(uri, tmp_path) == []

    assert candidate_run(uri, "medtune", digest, "killed") == run  # taken up again, by us
    found = client.get_run(run)
    assert found.info.status == "RUNNING"
    assert ENDED not in found.data.tags
    assert reap_runs(uri, tmp_path) == []


def test_a_reused_process_id_is_another_process(uri: str, tmp_path: Path) -> None:
    run = opened(uri, "reused", process_started="1000.0")  # our own id, of a process long gone
    (sentence,) = reap_runs(uri, tmp_path)
    assert "is gone" in sentence
    assert connect(uri).get_run(run).info.status == "KILLED"


def test_another_host_is_given_half_an_hour(uri: str, tmp_path: Path) -> None:
    run = opened(uri, "far", **far(timedelta(minutes=25)))
    assert reap_runs(uri, tmp_path) == []
    (sentence,) = reap_runs(uri, tmp_path, silence=timedelta(minutes=20))
    assert f"nothing was heard of {read_holder(connect(uri).get_run(run).data.tags).words} since" in sentence
    assert "more than 20 minutes" in sentence


def test_a_container_of_the_same_name_is_another_host(uri: str, tmp_path: Path) -> None:
    """Its process ids are its own: that ours has no such process says nothing."""
    opened(uri, "container", process_table="boot pid:[1]", pid="999999")
    assert reap_runs(uri, tmp_path) == []


def test_between_train_and_register(uri: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    gone = {"process_started": "1000.0", "checkout": str(tmp_path)}
    run = opened(uri, "trained", trained=moment(now), seen=moment(now - timedelta(minutes=50)), **gone)
    assert reap_runs(uri, tmp_path) == []  # a person may go on with it
    with pipeline(tmp_path):
        assert reap_runs(uri, tmp_path, now=now + timedelta(days=2)) == []  # merge and evaluate take what they take
        assert reap_runs(uri, Path("/"), now=now + timedelta(days=2)) == []  # asked from another checkout
    (sentence,) = reap_runs(uri, tmp_path, now=now + timedelta(hours=2))
    assert "its training reached its end at" in sentence
    assert connect(uri).get_run(run).info.status == "KILLED"


class pipeline:
    """Another process that holds mlruns/pipeline.lock as flows/lock.py does."""

    def __init__(self, root: Path) -> None:
        self.lock = root / "mlruns/pipeline.lock"

    def __enter__(self) -> None:
        self.lock.parent.mkdir(exist_ok=True)
        holds = (
            "import fcntl, json, os, socket, sys, time\n"
            "file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX); file.truncate(0)\n"
            "json.dump({'pid': os.getpid(), 'host': socket.gethostname(), 'since': 'now'}, file); file.flush()\n"
            "print(flush=True); time.sleep(600)"
        )
        self.process = subprocess.Popen([sys.executable, "-c", holds, self.lock], stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_who_runs_a_checkout(tmp_path: Path) -> None:
    assert busy(tmp_path) is None
    with pipeline(tmp_path):
        assert "the pipeline (process" in busy(tmp_path)
    assert json.loads((tmp_path / "mlruns/pipeline.lock").read_text())  # its text stays
    assert busy(tmp_path) is None
    with (tmp_path / "mlruns/pipeline.lock").open("a") as file:  # looking took no lock
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    rwlock = tmp_path / ".dvc/tmp/rwlock"
    rwlock.write_text(json.dumps({"write": {"data/adapter": {"pid": os.getppid(), "cmd": "dvc repro"}}, "read": {}}))
    assert busy(tmp_path) == f"`dvc repro` (process {os.getppid()})"
    rwlock.write_text(json.dumps({"write": {}, "read": {"data/raw": [{"pid": 2**22 + 1, "cmd": "dvc repro"}]}}))
    assert busy(tmp_path) is None


def test_a_run_that_names_nobody_is_told_and_left_for_a_day(uri: str, tmp_path: Path) -> None:
    run = opened(uri, "nameless")
    client = connect(uri)
    for key in (HOST, PID, STARTED, TABLE, SEEN):
        client.delete_tag(run, key)
    (sentence,) = reap_runs(uri, tmp_path)
    assert "does not say who works on it" in sentence
    assert client.get_run(run).info.status == "RUNNING"
    later = datetime.now(UTC) + timedelta(days=1, minutes=1)
    with pipeline(tmp_path):
        assert "left as it is" in reap_runs(uri, tmp_path, now=later)[0]
    assert "KILLED" in reap_runs(uri, tmp_path, now=later)[0]


def test_what_is_taken_up_while_the_reaper_looks_is_left_alone(uri: str, tmp_path: Path) -> None:
    run = opened(uri, "raced", process_started="1000.0")
    (item,) = idle_runs(uri, tmp_path)
    assert opened(uri, "raced") == run
    assert end(uri, item) is None
    assert connect(uri).get_run(run).info.status == "RUNNING"


def test_ended_runs_and_those_of_others_are_none_of_its_business(uri: str, tmp_path: Path) -> None:
    finish(uri, opened(uri, "done", process_started="1000.0"))
    client = connect(uri)
    client.create_run(client.create_experiment("somebody's own"))
    assert reap_runs(uri, tmp_path) == []
    assert TRAINED not in client.get_run(opened(uri, "done")).data.tags
