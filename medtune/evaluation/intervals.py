"""Exact intervals of a share: how much a count of passes out of a few dozen prompts can say.

Source: C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
binomial", Biometrika 26 (1934) 404-413. The interval is exact: it holds the true share at least as often as it says,
for every share and every count, and is wider than others for it.
"""


def share(passed: int, of: int, confidence: float = 0.95) -> dict:
    """Two-sided Clopper-Pearson interval of `passed` out of `of`:
    {"passed", "of", "share", "low", "high", "confidence"}; shares are in 0..1, and None where nothing was counted.

    ValueError: counts that are no counts (negative, more passed than there were) or a confidence outside 0..1.
    """
    _check(passed, of, confidence)
    interval = {"passed": int(passed), "of": int(of), "share": None, "low": None, "high": None}
    if of:
        tail = (1 - confidence) / 2
        interval |= {"share": passed / of, "low": _lower(passed, of, tail), "high": _upper(passed, of, tail)}
    return {**interval, "confidence": confidence}


def lower_bound(passed: int, of: int, confidence: float = 0.95) -> float | None:
    """One-sided: the share is at least this with `confidence`. Of 0 passes it is 0; None where nothing was counted.
    With every one of n passed it is (1 - confidence) ** (1 / n): the "rule of three" is its approximation."""
    _check(passed, of, confidence)
    return _lower(passed, of, 1 - confidence) if of else None


def upper_bound(passed: int, of: int, confidence: float = 0.95) -> float | None:
    """One-sided: the share is at most this with `confidence`. None where nothing was counted."""
    _check(passed, of, confidence)
    return _upper(passed, of, 1 - confidence) if of else None


def _lower(passed: int, of: int, tail: float) -> float:
    """The share under which `passed` or more have probability `tail`."""
    from scipy.stats import beta

    return float(beta.ppf(tail, passed, of - passed + 1)) if passed else 0.0


def _upper(passed: int, of: int, tail: float) -> float:
    """The share under which `passed` or fewer have probability `tail`."""
    from scipy.stats import beta

    return float(beta.ppf(1 - tail, passed + 1, of - passed)) if passed < of else 1.0


def _check(passed: int, of: int, confidence: float) -> None:
    if not 0 <= passed <= of:
        raise ValueError(f"{passed} of {of} is no share: count passes from 0 to {of}")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence} is none: give a number between 0 and 1, such as 0.95")
