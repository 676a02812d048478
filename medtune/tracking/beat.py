"""Signs of life for work that trains nothing: register may compare with a champion for longer than a reaper waits.

with beating(uri, run_id): ...
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from medtune.tracking.holder import SEEN, moment
from medtune.tracking.runs import briefly
from medtune.tracking.store import connect

SECONDS = 60.0
log = logging.getLogger(__name__)


@contextmanager
def beating(uri: str, run_id: str, seconds: float = SECONDS) -> Iterator[None]:
    """While the block runs, its run's tag medtune.seen follows the time. A store that is away is no matter here."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            try:
                with briefly():
                    connect(uri).set_tag(run_id, SEEN, moment(datetime.now(UTC)))
            except Exception as error:  # the next beat may come through; what beats must not end for it
                log.debug("no sign of life for run %s: %s", run_id, type(error).__name__)

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(seconds)
