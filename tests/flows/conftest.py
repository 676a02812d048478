"""Real Prefect servers for the tests of the flows, which end with them: an idle one takes a tenth of a core."""

import pytest

from tests.flows.live_server import LiveServer


@pytest.fixture(scope="package")
def live_server(tmp_path_factory: pytest.TempPathFactory):
    """With all its services: it schedules, marks late and fires automations."""
    server = LiveServer(tmp_path_factory.mktemp("prefect"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="package")
def prefect_server():
    """For flows run in this process, on a database of its own; yields its API's address."""
    from prefect.settings import get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield get_current_settings().api.url
