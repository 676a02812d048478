"""How much of an exhaustive sweep `make test` runs. `make soak` (MEDTUNE_SOAK=1) runs all of every one.

The share is the same on every run and every machine, so that a failure is found again by running the test again.
"""

import os
from collections.abc import Iterable

SOAK = os.environ.get("MEDTUNE_SOAK") == "1"


def limit(whole: int, few: int) -> int:
    """How many seeded cases of `whole` to run."""
    return whole if SOAK else few


def every(nth: int, points: int, *always: int) -> Iterable[int]:
    """Every nth of the points 0 … points - 1, and in any case those in `always` and the last."""
    kept = range(points) if SOAK else sorted({*range(0, points, nth), *always, points - 1} & {*range(points)})
    print(f"{len(kept)} of {points} points" + ("" if len(kept) == points else "; MEDTUNE_SOAK=1 runs all"))
    return kept
