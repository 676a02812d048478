"""What of data/incoming a run reads: the files that are whole. What cannot be read is set aside, the rest waits.

names = settled(root, recipe.retrain, log)
with frozen(root, names): …      # DVC and download see these files and no other
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.logging.loggers import LoggingAdapter

if TYPE_CHECKING:
    from medtune.params.retrain import Retrain

# Files often come several at a time: a run waits this long for those that are still being copied, and then goes on
# without them. They are the next data version's.
GATHER_SECONDS = 120.0


def settled(root: Path, retrain: "Retrain", log: LoggingAdapter, wait: float = GATHER_SECONDS) -> tuple[str, ...]:
    """Names in data/incoming that may be read now, after waiting up to `wait` seconds for those that may soon."""
    from medtune.corpus.newcomers import look_at_incoming, set_aside

    deadline, told = time.monotonic() + wait, ""
    while True:
        whole, waiting, broken = look_at_incoming(root, retrain)
        for sentence in set_aside(root, broken):
            log.warning("%s", sentence)
        said = "; ".join(item.sentence for item in waiting)
        if not waiting or time.monotonic() >= deadline:
            if waiting:
                log.warning("%s: left for the next run", said)
            return whole
        if said != told:
            log.info("%s", said)
            told = said
        time.sleep(min(5.0, max(0.2, retrain.quiet_seconds / 4)))
