"""An empty database of Prefect's for every server of the tests to copy into its home: its migrations take six seconds.

from tests.flows.prefect_database import prefect_database      # a fixture
shutil.copy(prefect_database, home / "prefect.db")             # before a server starts with PREFECT_HOME=home
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):  # one for all workers
        shared = shared.parent
    made, making = shared / "prefect-migrated.db", shared / "prefect-migrating"
    with FileLock(shared / "prefect-migrated.lock"):
        if not made.exists():
            known = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env=known | {"PREFECT_HOME": str(making), "DO_NOT_TRACK": "1"},
                check=True,
                capture_output=True,
            )
            (making / "prefect.db").rename(made)
    return made
