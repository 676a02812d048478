"""One real Prefect server for all tests of the flows that need one."""

import pytest

from tests.flows.live_server import LiveServer


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory):
    server = LiveServer(tmp_path_factory.mktemp("prefect"))
    try:
        yield server
    finally:
        server.close()
