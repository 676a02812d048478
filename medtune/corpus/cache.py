"""The user's cache: downloaded files and converted bases, shared by every checkout on this machine."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """$MEDTUNE_CACHE, or ~/.cache/medtune. Read at each call, made by whoever writes into it."""
    return Path(os.environ.get("MEDTUNE_CACHE") or Path.home() / ".cache" / "medtune").expanduser()
