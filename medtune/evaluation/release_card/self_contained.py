"""What a page needs that opens offline and asks nothing of anybody: its own policy, and a size that a phone opens."""

import base64
import hashlib
from collections.abc import Callable, Sequence

LIMIT = 4_500_000  # bytes: what a phone still opens; longer answers are cut until the page fits


def fitting(render: Callable[[int], str], cuts: Sequence[int]) -> str:
    """The page of the first of `cuts` (characters of an answer that are shown) that fits, else of the last."""
    for cut in cuts:
        text = render(cut)
        if len(text.encode()) <= LIMIT:
            break
    return text


def policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: this style and this script run, and nothing is fetched from anywhere."""
    return (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
