"""A target's settings before Prefect is asked for anything: MEDTUNE_TARGET=prod python -m flows.retrain

    def main():
        with_target("flows.retrain")   # begins anew with targets/prod.env, where its settings are not in place yet

`medtune` and `make` do it by themselves. Prefect reads its server's address when it is imported: setting it here would
come too late for this process.
"""

import os
import sys
from pathlib import Path

from medtune.params.errors import UserError


def with_target(module: str) -> None:
    """Replace this process by the same command in the environment of MEDTUNE_TARGET; nothing where it is in place."""
    from medtune.tracking.targets import APPLIED, CHOSEN, load_target

    name = os.environ.get(CHOSEN)
    if not name or os.environ.get(APPLIED, "").partition(":")[0] == name:
        return
    try:
        load_target(Path())
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])
