"""The nearest known name, for errors about unknown ones. Needs nothing but the standard library."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name most like `word`, as `did you mean 'x'?`, or the list of them if none comes near."""
    known = sorted(known)
    if close := difflib.get_close_matches(word, known, n=1, cutoff=0.5):
        return f"did you mean '{close[0]}'?"
    return f"known here: {', '.join(known)}"
