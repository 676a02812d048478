"""Ends candidate runs that say RUNNING with nobody working on them, and says why in the run.

    for sentence in reap_runs(uri): print(sentence)

A run is left RUNNING by whatever ends a process without asking it: kill -9, the kernel short of memory, a host that
went down. Who works on a run stands in its tags (medtune/tracking/holder.py). On this host the process table decides;
of another host only its silence tells. A run whose training reached its end waits for register, and stages without a
run of their own may work hours for it: it is left alone while its checkout is busy, and for a while after.

What is ended is not lost: the next `dvc repro` of the same candidate takes the run up again.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from medtune.tracking.holder import ENDED, SILENCE, TRAINED, Holder, busy, moment, read_holder
from medtune.tracking.runs import CANDIDATE, CURVE
from medtune.tracking.store import connect, lock, store_errors

KILLED = "KILLED"
PAUSE = timedelta(hours=1)  # between train's end and register, with nobody at work here
FAR_PAUSE = timedelta(days=1)  # the same on a host that cannot be looked at
NAMELESS = timedelta(days=1)  # a run that names nobody


@dataclass(frozen=True)
class Idle:
    """A run that says RUNNING. dead: end it, as of `ended`; else it is only told of, and left as it is."""

    run_id: str
    name: str
    sentence: str
    dead: bool
    ended: datetime
    holder: Holder | None


def reap_runs(uri: str, root: Path = Path("."), silence: timedelta = SILENCE, now: datetime | None = None) -> list[str]:
    """End every run that nobody works on, as KILLED with its reason; what was ended, and what only looks so.

    RegistryError where the store does not answer. `now`: UTC.
    """
    sentences = []
    for item in idle_runs(uri, root, silence, now):
        sentence = end(uri, item) if item.dead else item.sentence
        sentences += [sentence] if sentence else []
    return sentences


def idle_runs(
    uri: str, root: Path = Path("."), silence: timedelta = SILENCE, now: datetime | None = None
) -> list[Idle]:
    """Candidate runs that say RUNNING and have nobody, the certain ones and those to be told of; changes nothing."""
    now = now or datetime.now(UTC)
    with store_errors(uri):
        client = connect(uri)
        found = [_judge(client, run, root, silence, now) for run in _running(client)]
    return [item for item in found if item is not None]


def end(uri: str, item: Idle) -> str | None:
    """End a dead run as of when it was last seen. None where somebody has taken it up since it was looked at."""
    with store_errors(uri), lock(uri):
        client = connect(uri)
        run = client.get_run(item.run_id)
        if run.info.status != "RUNNING" or read_holder(run.data.tags) != item.holder:
            return None
        client.set_tag(item.run_id, ENDED, item.sentence)
        client.set_terminated(item.run_id, KILLED, int(item.ended.timestamp() * 1000))
    return f"{item.name}: {KILLED}, since {item.sentence}"


def _judge(client: Any, run: Any, root: Path, silence: timedelta, now: datetime) -> Idle | None:
    holder = read_holder(run.data.tags)
    name = f"run {run.info.run_name or run.info.run_id}"
    if holder is None:
        return _nameless(client, run, name, root, now)
    gone = holder.death(now, silence)
    if gone is None:
        return None
    checkouts = {root.resolve(), Path(holder.checkout or root).resolve()} if holder.near else set()
    if any(busy(checkout) for checkout in checkouts):
        return None  # between two stages, or about to take it up; the next look tells
    if trained := run.data.tags.get(TRAINED):
        if now - holder.seen <= (PAUSE if holder.near else FAR_PAUSE):
            return None
        gone = f"its training reached its end at {trained}, no stage went on with it, and {gone}"
    return Idle(run.info.run_id, name, gone, True, holder.seen, holder)


def _nameless(client: Any, run: Any, name: str, root: Path, now: datetime) -> Idle | None:
    points = [point.timestamp for key in CURVE for point in client.get_metric_history(run.info.run_id, key)]
    last = datetime.fromtimestamp(max([run.info.start_time, *points]) / 1000, UTC)
    who = "it does not say who works on it (it is older than that, or its tags were removed)"
    dead = now - last > NAMELESS and busy(root) is None
    if dead:
        sentence = f"{who}, nothing came in since {moment(last)}, and nobody runs the stages here"
    else:
        sentence = f"{name} says RUNNING; {who}: it is left as it is until a day has passed without a sign"
    return Idle(run.info.run_id, name, sentence, dead, last, None)


def _running(client: Any) -> list[Any]:
    """Every candidate's run that says RUNNING, of all experiments that are not deleted."""
    experiments, token = [], None
    while True:
        page = client.search_experiments(max_results=1000, page_token=token)
        experiments += [item.experiment_id for item in page]
        if not (token := page.token):
            break
    found = []
    while experiments:
        page = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000, page_token=token)
        found += [run for run in page if CANDIDATE in run.data.tags]
        if not (token := page.token):
            break
    return found
