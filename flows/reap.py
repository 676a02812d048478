"""Puts flow runs right that say something which is no longer so, by Prefect's client alone.

    for sentence in reap_flow_runs(): print(sentence)

Running, Pending and Cancelling runs whose process is gone end Crashed (Cancelled, where that was asked for), or as
their own last word says, where the server was away when it was spoken (flows/word.py). Runs that piled up while
nobody worked are cancelled but for the newest. An approval that nobody answered ends Cancelled, named Expired. Works
with a server (PREFECT_API_URL) and, without one, on the local database. The heartbeat automation does the first of
these within minutes where a server runs (flows/automations.py); this one also sees runs that no automation saw.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, State

from flows.approve import GRACE, expired
from flows.approve import NAME as APPROVE
from flows.word import words
from medtune.tracking.holder import read_holder

OURS = "medtune-"
SILENCE = timedelta(minutes=30)  # no heartbeat (every minute, prefect.toml) for so long, where nobody can look
LATE = timedelta(hours=1)
PAGE = 200
ALIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
UNANSWERED = "The flow was paused and never resumed."  # the server's own words (services/pause_expirations.py)


def reap_flow_runs(root: Path = Path("."), silence: timedelta = SILENCE, late: timedelta = LATE) -> list[str]:
    """Put right what can be; a sentence for each run that was changed. The server's errors pass as they are."""
    now = datetime.now(UTC)
    with get_client(sync_client=True) as client:
        return [
            *_words(client, root),
            *_zombies(client, silence, now),
            *_unanswered(client, now),
            *_piled_up(client, late, now),
        ]


def _words(client: SyncPrefectClient, root: Path) -> list[str]:
    """Runs whose end the server never heard, or took for a crash since the process could not tell it."""
    sentences = []
    for word in words(root):
        try:
            run = client.read_flow_run(word.run)
        except ObjectNotFound:  # of another server, or deleted
            if word.old:
                word.path.unlink(missing_ok=True)
            continue
        untold = run.state is None or not run.state.is_final() or run.state.is_crashed()
        holder = read_holder({key: str(value) for key, value in run.labels.items()})
        if untold and holder is not None and holder.near and holder.death(datetime.now(UTC)) is None:
            continue  # it is still trying to tell it itself
        if untold:
            was = run.state.name if run.state else "nothing"
            client.set_flow_run_state(run.id, word.state(), force=True)
            _close_tasks(client, run, word.state())
            sentences.append(f"{_name(run)}: {word.name}, as it ended at {word.at:%Y-%m-%d %H:%M} UTC (it said {was})")
        word.path.unlink(missing_ok=True)
    return sentences


def _zombies(client: SyncPrefectClient, silence: timedelta, now: datetime) -> list[str]:
    sentences = []
    for run in _runs(client, ALIVE):
        reason = _gone(client, run, silence, now)
        if reason is None:
            continue
        asked = run.state.is_cancelling()
        state = Cancelled(message=reason) if asked else Crashed(message=reason)
        if _set(client, run, state):
            _close_tasks(client, run, state)
            sentences.append(f"{_name(run)}: {state.name}, {reason}")
    return sentences


def _close_tasks(client: SyncPrefectClient, run: FlowRun, state: State) -> None:
    """Stages of an ended run that say Running still: the server never heard of their end."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task in client.read_task_runs(flow_run_filter=wanted):
        if task.state is not None and not task.state.is_final():
            told = "its flow run has ended; Prefect's server never heard of this stage's own end"
            client.set_task_run_state(task.id, State(type=state.type, message=told), force=True)


def _gone(client: SyncPrefectClient, run: FlowRun, silence: timedelta, now: datetime) -> str | None:
    """Why nobody works on this run; None where somebody does, or may."""
    holder = read_holder({key: str(value) for key, value in run.labels.items()})
    # a run that is tried again has labels of its process before, until the next one signs
    if holder is not None and holder.near and holder.seen >= _began(run) - timedelta(seconds=5):
        return holder.death(now, silence)
    last = max(filter(None, [run.state.timestamp, run.start_time, _heartbeat(client, run, now)]))
    if now - last <= silence:
        return None
    who = holder.words if holder else "its process"
    minutes = silence.total_seconds() / 60
    return f"nothing was heard of {who} since {last:%Y-%m-%d %H:%M:%S} UTC, more than {minutes:.0f} minutes"


def _began(run: FlowRun) -> datetime:
    return run.state.timestamp if run.state.is_running() else run.start_time or run.state.timestamp


def _heartbeat(client: SyncPrefectClient, run: FlowRun, now: datetime) -> datetime | None:
    wanted = EventFilter(
        occurred=EventOccurredFilter(since=now - timedelta(days=7)),
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
    )
    found = client.read_events(wanted, limit=1).events  # the newest comes first
    return found[0].occurred if found else None


def _unanswered(client: SyncPrefectClient, now: datetime) -> list[str]:
    """Approvals past their days; also those that the server has failed by itself, should nobody have reaped in time."""
    sentences = []
    paused = [
        run
        for run in _runs(client, [StateType.PAUSED], APPROVE)
        if (until := run.state.state_details.pause_timeout) is not None and until - GRACE < now
    ]
    failed = [run for run in _runs(client, [StateType.FAILED], APPROVE) if run.state.message == UNANSWERED]
    for run in (*paused, *failed):
        until = run.state.state_details.pause_timeout
        asked = run.start_time or run.expected_start_time
        waited = ((until or run.state.timestamp) - GRACE - asked).total_seconds()
        days = max(1, round(waited / 86400))
        state = expired(f"version {str(run.parameters.get('version', '?'))[:12]}", days)
        client.set_flow_run_state(run.id, state, force=True)
        sentences.append(f"{_name(run)}: {state.name}, {state.message}")
    return sentences


def _piled_up(client: SyncPrefectClient, late: timedelta, now: datetime) -> list[str]:
    """Runs of one deployment with the same parameters that were due long ago: one of them is enough."""
    due: dict[tuple[Any, str], list[FlowRun]] = {}
    for run in _runs(client, [StateType.SCHEDULED], names=["Scheduled", "Late"]):
        at = run.next_scheduled_start_time or run.expected_start_time
        if run.deployment_id and at and at < now - late:
            key = (run.deployment_id, json.dumps(run.parameters, sort_keys=True, default=str))
            due.setdefault(key, []).append(run)
    sentences = []
    for runs in due.values():
        *older, newest = sorted(runs, key=lambda run: (run.expected_start_time, run.id))
        for run in older:
            reason = (
                f"nobody took it up when it was due ({run.expected_start_time:%Y-%m-%d %H:%M} UTC), "
                f"and {newest.name} is due for the same"
            )
            if _set(client, run, Cancelled(message=reason)):
                sentences.append(f"{_name(run)}: Cancelled, {reason}")
    return sentences


def _runs(
    client: SyncPrefectClient, types: list[StateType], flow: str | None = None, names: Iterable[str] | None = None
) -> list[FlowRun]:
    """Our flows' runs in these states, all pages."""
    state = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=types),
        name=FlowRunFilterStateName(any_=list(names)) if names else None,
    )
    flows = FlowFilter(name=FlowFilterName(any_=[flow]) if flow else FlowFilterName(like_=OURS))
    found: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_filter=flows, flow_run_filter=FlowRunFilter(state=state), limit=PAGE, offset=len(found)
        )
        found += page
        if len(page) < PAGE:
            return found


def _set(client: SyncPrefectClient, run: FlowRun, state: State) -> bool:
    """Whether the run took the state; one that ended by itself meanwhile keeps its own."""
    now = client.read_flow_run(run.id)
    if now.state is None or now.state.id != run.state.id:
        return False
    client.set_flow_run_state(run.id, state, force=True)
    return True


def _name(run: FlowRun) -> str:
    return f"flow run {run.name}"
