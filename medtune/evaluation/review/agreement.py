"""How far reviewers agree with each other beyond chance."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> float | None:
    """Krippendorff's alpha for nominal values: 1 where all agree, 0 at chance, below 0 where they disagree on purpose.

    units: per item the values its reviewers gave; any number of reviewers, missing values are simply not there, items
    with one value count for nothing. alpha = 1 - (n - 1) * sum over units of disagreeing ordered pairs / (m_u - 1),
    over the disagreeing ordered pairs of all n values. K. Krippendorff, Computing Krippendorff's Alpha-Reliability
    (University of Pennsylvania, 2011), section C.
    None where no item has two values, or where all values are the same (0 / 0: nothing varied that could be agreed on).
    """
    paired = [list(values) for values in units if len(values) > 1]
    totals = Counter(value for values in paired for value in values)
    n = sum(totals.values())
    expected = n * n - sum(count * count for count in totals.values())
    if not expected:
        return None
    observed = sum(
        (len(values) ** 2 - sum(count * count for count in Counter(values).values())) / (len(values) - 1)
        for values in paired
    )
    return 1 - (n - 1) * observed / expected


def raw_agreement(units: Iterable[Sequence[str]]) -> tuple[int, int]:
    """(pairs of reviewers that gave an item the same value, all such pairs)."""
    pairs = [one == other for values in units for one, other in combinations(values, 2)]
    return sum(pairs), len(pairs)
