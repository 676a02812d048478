"""Which retrain works on which data version: claims in a real ledger, by living, dead and racing processes."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import clean_processes
import pytest

from medtune.registry.data_claims import (
    CHECKOUT,
    TRIES,
    Claim,
    DataTaken,
    alive,
    claim,
    claims,
    finish,
    holder,
    release,
    release_dead,
)
from medtune.registry.ledger import Ledger, open_ledger
from medtune.tracking.holder import HOST, PID, SEEN, STARTED, TABLE
from medtune.tracking.pipeline_lock import pipeline_lock

MODEL = "medgpt-ko"
A, B = "a" * 64, "b" * 64


@pytest.fixture
def root(fresh_store: Path, tmp_path: Path) -> Path:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(fresh_store, tmp_path / "mlruns/mlflow.db")
    return tmp_path


@pytest.fixture
def ledger(root: Path) -> Ledger:
    return open_ledger(root)


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A process of another checkout that was there and is gone."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    code = (
        "import json; from pathlib import Path; from medtune.registry.data_claims import holder; "
        f"print(json.dumps(holder(Path({str(elsewhere)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def me(root: Path) -> dict:
    """This process, in the checkout of the test."""
    return holder(root, flow_run="f1")


@pytest.fixture
def other(tmp_path: Path) -> dict:
    """This process, which lives, in another checkout."""
    return holder(tmp_path / "other", flow_run="f2")


def test_a_data_version_is_claimed_once(ledger, me, other):
    claim(ledger, MODEL, A, me, "60 new rows")
    with pytest.raises(DataTaken, match=rf"is being worked on: process {os.getpid()} on .*\(flow run f1\)"):
        claim(ledger, MODEL, A, other, "the same event again")
    claim(ledger, MODEL, B, me, "another version")
    finish(ledger, MODEL, A, "approved", "c" * 64)
    with pytest.raises(DataTaken, match=r"was worked on already: approved, version cccccccccccc, 20"):
        claim(ledger, MODEL, A, other, "late", again=True)
    found = claims(ledger, MODEL)
    assert (found[A].state, found[A].outcome, found[A].tries) == ("done", "approved", 1)
    assert found[B].state == "claimed"
    assert claims(ledger, "another-model") == {}
    ledger.verify()


@pytest.mark.parametrize("outcome", ["failed", "held", "cancelled"])
def test_what_came_to_no_decision_is_done_again_by_a_person_and_by_no_event(ledger, me, outcome):
    claim(ledger, MODEL, A, me, "60 new rows")
    finish(ledger, MODEL, A, outcome, reason="train: out of memory")
    with pytest.raises(DataTaken, match=outcome):
        claim(ledger, MODEL, A, me, "event")
    claim(ledger, MODEL, A, me, "by hand", again=True)
    assert claims(ledger, MODEL)[A].state == "claimed"


def test_what_a_killed_run_holds_is_free_again(ledger, root, dead, me):
    claim(ledger, MODEL, A, dead, "60 new rows", forced=True)
    (told,) = release_dead(ledger, MODEL, root)
    assert f"process {dead[PID]} on" in told
    assert told.startswith("data version aaaaaaaaaaaa: ")
    assert release_dead(ledger, MODEL, root) == []
    free = claims(ledger, MODEL)[A]
    assert free == Claim(A, "free", 1, None, free.at, reason=told[27:].split(";")[0], forced=True)
    assert free.begun
    claim(ledger, MODEL, A, dead, "again")
    claim(ledger, MODEL, A, me, "without anybody releasing it")  # the claim sees for itself that it is dead
    assert claims(ledger, MODEL)[A].tries == 3


def test_after_three_kills_a_person_must_look(ledger, root, dead, me):
    for _ in range(TRIES):
        claim(ledger, MODEL, A, dead, "60 new rows")
        release_dead(ledger, MODEL, root)
    assert claims(ledger, MODEL)[A].exhausted
    with pytest.raises(DataTaken, match=r"begun 3 times and never came to an end: .*python -m flows\.retrain"):
        claim(ledger, MODEL, A, me, "event")
    claim(ledger, MODEL, A, me, "by hand", again=True)


def test_stopped_in_good_order_is_no_kill(ledger, me):
    for _ in range(TRIES + 1):
        claim(ledger, MODEL, A, me, "60 new rows")
        assert release(ledger, MODEL, A, me, "the run was stopped", own=True)
    free = claims(ledger, MODEL)[A]
    assert (free.begun, free.exhausted, free.tries) == (True, False, 0)


def test_of_a_container_that_is_gone_the_lock_tells(ledger, root, me):
    """Its process cannot be looked up; but a run of this checkout would hold the pipeline's lock."""
    elsewhere = {**me, HOST: "an older container", TABLE: "another-boot pid:[1]"}
    claim(ledger, MODEL, A, elsewhere, "60 new rows")
    with pipeline_lock(root):
        assert release_dead(ledger, MODEL, root) == []
    assert len(release_dead(ledger, MODEL, root)) == 1


def test_only_the_one_that_was_judged_dead_is_released(ledger, me, dead):
    claim(ledger, MODEL, A, dead, "60 new rows")
    claim(ledger, MODEL, A, me, "taken up")  # between the watcher's look and its word
    assert not release(ledger, MODEL, A, dead, "is gone")
    assert claims(ledger, MODEL)[A].holder == me
    finish(ledger, MODEL, A, "rejected", "c" * 64)
    assert not release(ledger, MODEL, A, me, "a doctor that was late")
    assert claims(ledger, MODEL)[A].state == "done"


def test_a_person_who_knows_better_takes_over(ledger, me, other):
    claim(ledger, MODEL, A, other, "60 new rows")
    with pytest.raises(DataTaken, match="--take-over"):
        claim(ledger, MODEL, A, me, "by hand", again=True)
    claim(ledger, MODEL, A, me, "by hand", again=True, take_over=True)
    assert claims(ledger, MODEL)[A].holder == me


def test_who_lives(me, dead, other):
    assert alive(me)
    assert not alive(dead)
    assert not alive({**me, STARTED: str(float(me[STARTED]) - 100)})  # its number was given to another
    elsewhere = {**dead, HOST: "elsewhere"}
    assert alive(elsewhere)
    assert not alive({**elsewhere, SEEN: "2026-01-01T00:00:00+00:00"})
    assert not alive(None)
    boot, _, space = me[TABLE].partition(" ")
    assert not alive({**me, TABLE: f"another-boot {space}"})  # the host was started anew
    assert alive({**me, TABLE: f"{boot} pid:[1]"})  # another container, perhaps
    ours = me[CHECKOUT]
    assert not alive({**me, TABLE: f"{boot} pid:[1]"}, ours, at_work=False)  # nobody runs stages in our checkout
    assert alive({**me, TABLE: f"{boot} pid:[1]"}, ours, at_work=True)
    assert alive(other, ours, at_work=False)


def race(root: str, gate: "multiprocessing.synchronize.Event", won: "multiprocessing.Queue") -> None:
    ledger = open_ledger(Path(root))
    gate.wait()
    try:
        claim(ledger, MODEL, A, holder(Path(root) / str(os.getpid())), "race")
        won.put(os.getpid())
    except DataTaken:
        won.put(None)


def test_of_eight_at_once_one_gets_it(root):
    context = clean_processes.context()
    gate, won, hold = context.Event(), context.Queue(), context.Event()
    racers = [clean_processes.process(_hold, str(root), gate, won, hold) for _ in range(8)]
    for racer in racers:
        racer.start()
    gate.set()
    answers = [won.get(timeout=60) for _ in racers]
    hold.set()  # the winner lives until all have asked: a dead one's claim would be free
    for racer in racers:
        racer.join(timeout=30)
    assert sum(answer is not None for answer in answers) == 1
    assert claims(open_ledger(root), MODEL)[A].tries == 1


def _hold(root: str, gate, won, hold) -> None:
    race(root, gate, won)
    hold.wait(60)
