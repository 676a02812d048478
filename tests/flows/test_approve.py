"""A person's word in Prefect's page: the run is suspended, resumed with a form, and does what was said. Real server."""

import shutil
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Suspended
from registry_checkout import Checkout, checkout, fresh_store, make_checkout, tiny_adapter

from flows.approve import GRACE
from flows.reap import reap_flow_runs
from medtune.params.recipe import load_recipe
from medtune.registry.ledger import open_ledger
from medtune.registry.promotion import promote
from medtune.registry.standing import champion
from stages.register import main
from tests.flows.live_server import LiveServer
from tests.flows.small_project import ROOT

__all__ = ["checkout", "fresh_store", "make_checkout", "tiny_adapter"]
pytestmark = pytest.mark.slow
MODEL = "medgpt-ko"


@pytest.fixture
def asked(checkout: Checkout, live_server: LiveServer):
    """A checkout with an approved version that nobody promoted, and a worker in it. Yields (root, version)."""
    checkout.params("promotion: auto", "promotion: manual")
    version = checkout.candidate("a")
    main(checkout.root)
    (checkout.root / "flows").symlink_to(ROOT / "flows")
    for name in ("prefect.yaml", "prefect.toml"):
        shutil.copy(ROOT / name, checkout.root)
    live_server.run(checkout.root, "flows.deploy")
    worker = live_server.start(
        checkout.root, "prefect", "worker", "start", "--pool", "medtune", "--work-queue", "asking"
    )
    yield checkout.root, version
    live_server.stop(worker)


def start(server: LiveServer, version: str) -> str:
    deployment = server.deployment("medtune-approve/by-hand")["id"]
    body = {"parameters": {"version": version, "figures": "## version 1\nimprovement: ok"}}
    run = server.post(f"/deployments/{deployment}/create_flow_run", body)["id"]
    server.wait(lambda: server.state(run)["type"] in ("PAUSED", "FAILED", "COMPLETED", "CRASHED"), 120)
    return run


def answer(server: LiveServer, run: str, **word: str) -> dict:
    server.post(f"/flow_runs/{run}/resume", {"run_input": word})
    return server.finished(run)


def now(root: Path) -> str | None:
    event = champion(open_ledger(root), MODEL)
    return event and event.version


def test_promoted_by_a_person(asked, live_server):
    root, version = asked
    assert now(root) is None
    run = start(live_server, version)
    state = live_server.state(run)
    assert state["name"] == "Suspended", state
    seen = live_server.get(f"/flow_runs/{run}/input/{state['state_details']['run_input_keyset']['description']}")
    assert seen == "## version 1\nimprovement: ok"
    ended = answer(live_server, run, decision="promote", by="김 선생", reason="답변을 읽어 보았습니다")
    assert (ended["type"], ended["name"]) == ("COMPLETED", "Promoted"), ended
    assert now(root) == version
    event = champion(open_ledger(root), MODEL)
    assert (event.body["by"], event.body["policy"]) == ("김 선생", "manual")
    again = start(live_server, version)
    assert live_server.finished(again)["message"].endswith("is the champion already")


def test_rejected_by_a_person_and_never_promoted_after(asked, live_server):
    root, version = asked
    ended = answer(live_server, start(live_server, version), decision="reject", by="kim", reason="용량을 지어냅니다")
    assert (ended["type"], ended["name"]) == ("COMPLETED", "Rejected"), ended
    assert now(root) is None
    ended = live_server.finished(start(live_server, version))
    assert (ended["type"], ended["name"]) == ("COMPLETED", "Overtaken")


def test_a_champion_that_came_meanwhile_is_told(asked, live_server, checkout):
    root, version = asked
    run = start(live_server, version)
    other = checkout.candidate("b", nll=1.5)
    main(root)
    promote(open_ledger(root), MODEL, other, "lee", "better")
    ended = answer(live_server, run, decision="promote", by="kim", reason="good")
    assert ended["type"] == "FAILED"
    assert "was judged against no champion, and version 2 became champion since" in ended["message"]
    assert now(root) == other


def test_nobody_answers(asked, live_server):
    root, version = asked
    run = start(live_server, version)
    days = load_recipe(root / "params.yaml").retrain.approval_days
    with temporary_settings({PREFECT_API_URL: live_server.api}), get_client(sync_client=True) as client:
        assert reap_flow_runs(root) == []
        state = client.read_flow_run(run).state
        assert abs((state.state_details.pause_timeout - state.timestamp).days - days - GRACE.days) <= 1
        # a week later: only the day of grace is left of the pause
        short = Suspended(timeout_seconds=int(GRACE.total_seconds()) - 60, pause_key=state.state_details.pause_key)
        short.state_details.run_input_keyset = state.state_details.run_input_keyset
        client.set_flow_run_state(run, short, force=True)
        (said,) = reap_flow_runs(root)
        ended = client.read_flow_run(run).state
    assert (ended.type, ended.name) == (StateType.CANCELLED, "Expired")
    assert "nobody answered within" in ended.message
    assert "Expired" in said
    assert now(root) is None
