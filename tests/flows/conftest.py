"""Real Prefect servers for the tests of the flows, which end with them: an idle one takes a tenth of a core."""

import shutil
from pathlib import Path

import pytest

from tests.flows.live_server import LiveServer
from tests.flows.prefect_database import prefect_database

__all__ = ["prefect_database"]


@pytest.fixture(scope="package")
def live_server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path):
    """With all its services: it schedules, marks late and fires automations."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, home / "prefect.db")
    server = LiveServer(home)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="package")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path):
    """For flows run in this process, on a database of its own; yields its API's address."""
    from prefect.settings import get_current_settings
    from prefect.testing import utilities

    home = tmp_path_factory.mktemp("harness")
    shutil.copy(prefect_database, home / "prefect-test.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "mkdtemp", lambda: str(home))  # where the harness keeps its database
        with utilities.prefect_test_harness(server_startup_timeout=180):
            yield get_current_settings().api.url
