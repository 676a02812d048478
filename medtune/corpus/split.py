"""Which side of train, validation and test a cluster of near-duplicates is on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medtune.params.validate import Split

SIDES = ("train", "validation", "test")


def side(cluster: str, split: Split) -> str:
    """`train`, `validation` or `test`, by sha256 of salt and cluster alone: other rows have no say in it.

    Test lies at the low end of [0, 1) and validation above it, so that another share for validation moves no row into
    or out of test, and figures on the test split stay comparable.
    """
    digest = hashlib.sha256(f"{split.salt}\n{cluster}".encode()).digest()
    # 53 bits: the most that a float in [0, 1) holds, so that the quotient never rounds up to 1
    place = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    if place < split.test:
        return "test"
    return "validation" if place < split.test + split.validation else "train"
