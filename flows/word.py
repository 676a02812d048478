"""What a flow run says of itself where Prefect cannot know it: which process it is, and how it ended.

    return recorded(root, lambda: ...)        # a flow's body: its process noted first, its last word kept at the end
    state, heard = to_its_end(flow, ...)      # a main(): the flow's own word where the server was not there to take it

A server that is away while a stage works stops nothing; one that is away at the very end would leave the run Running
for ever, or Crashed by a worker that saw the process fail to reach it. The reaper (flows/reap.py) puts the word right.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from httpx import TransportError
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.states import State

from medtune.tracking.holder import this_process

ENDS = Path("mlruns/flow_ends")
_spoken: list[State] = []  # by this process
KEPT = timedelta(days=30)  # a word that no server of ours ever asked for


def recorded(root: Path, body: Callable[[], State]) -> State:
    """Run a flow's body: who works on the run is noted in Prefect before, how it ended in mlruns/flow_ends/ after."""
    sign()
    return last_word(root, body())


def sign() -> None:
    """Put this process into the labels of the flow run, for the reaper. Never raises: a run goes on without it."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    labels = {name: value for name, value in this_process().tags().items() if value}
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(context.flow_run.id, labels)
    except Exception as error:  # whatever the server does, the stages go on
        from prefect import get_run_logger

        get_run_logger().warning("this run's process could not be noted in Prefect (%s)", type(error).__name__)


def last_word(root: Path, state: State) -> State:
    """Write down how the flow run that we are in ends; returns the state as it is."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return state
    folder = root / ENDS
    folder.mkdir(parents=True, exist_ok=True)
    word = {
        "type": state.type.value,
        "name": state.name,
        "message": state.message,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = folder / f"{context.flow_run.id}.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(word, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    _spoken.append(state)
    return state


def to_its_end(flow: Callable[..., State], *arguments: Any, **keywords: Any) -> tuple[State, bool]:
    """Call a flow for its state; whether the server heard of it too. An error before its last word passes."""
    _spoken.clear()
    try:
        return flow(*arguments, **keywords, return_state=True), True
    except TransportError:
        if not _spoken:
            raise
        return _spoken[-1], False


def leave(heard: bool, status: int) -> NoReturn:
    """End a main(). Where the server was away, say so and go at once: Prefect would try it for minutes more, at exit,
    with every event that it has not taken."""
    if heard:
        sys.exit(status)
    print(
        "note: Prefect's server did not answer when the run ended; what it did is done, and its record follows once "
        "the server is back, with `python -m flows.nightly`",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@dataclass(frozen=True)
class Word:
    run: UUID
    type: StateType
    name: str
    message: str | None
    at: datetime
    path: Path

    def state(self) -> State:
        """The state to send now; Prefect stamps it with the time of sending, so that its message tells the true one."""
        told = f"ended {self.at:%Y-%m-%d %H:%M:%S} UTC, while Prefect's server did not answer; told later"
        return State(type=self.type, name=self.name, message=f"{self.message} ({told})" if self.message else told)

    @property
    def old(self) -> bool:
        return datetime.now(UTC) - self.at > KEPT


def words(root: Path) -> Iterator[Word]:
    """The last words that are kept; a file that is none is left where it is."""
    for path in sorted((root / ENDS).glob("*.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            yield Word(
                UUID(path.stem),
                StateType(said["type"]),
                said["name"],
                said["message"],
                datetime.fromisoformat(said["at"]),
                path,
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
