"""A person's word in Prefect's page: the run is suspended, resumed with a form, and does what was said. Real server."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Suspended
from registry_checkout import Checkout, fresh_store, made, tiny_adapter

from flows.approve import GRACE
from flows.reap import reap_flow_runs
from medtune.params.recipe import load_recipe
from medtune.registry.ledger import open_ledger
from medtune.registry.promotion import promote
from medtune.registry.standing import champion, standings
from stages.register import main
from tests.flows.live_server import LiveServer
from tests.flows.small_project import ROOT

__all__ = ["fresh_store", "tiny_adapter"]
pytestmark = pytest.mark.slow
MODEL = "medgpt-ko"


@pytest.fixture(scope="module")
def desk(live_server: LiveServer, tiny_base, tiny_adapter, fresh_store, tmp_path_factory: pytest.TempPathFactory):
    """A checkout that asks a person before anything becomes champion, and a worker in it."""
    checkout = made(tmp_path_factory.mktemp("approve") / "checkout", tiny_base, tiny_adapter, fresh_store)
    checkout.params("promotion: auto", "promotion: manual")
    (checkout.root / "flows").symlink_to(ROOT / "flows")
    for name in ("prefect.yaml", "prefect.toml"):
        shutil.copy(ROOT / name, checkout.root)
    live_server.deploy(checkout.root)
    queue = ("--pool", "medtune", "--work-queue", "asking")
    worker = live_server.start(checkout.root, "prefect", "worker", "start", *queue)
    yield checkout
    live_server.stop(worker)


@pytest.fixture
def approved(desk: Checkout, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Registers a version that the gate approves, better than those before, and that nobody has promoted."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def register() -> str:
        number = len(standings(open_ledger(desk.root), MODEL))
        version = desk.candidate(f"candidate {number}", nll=2.0 - 0.1 * number)
        main(desk.root)
        assert json.loads((desk.root / "reports/register.json").read_text())["decision"] == "approved"
        return version

    return register


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


def test_promoted_by_a_person(desk, approved, live_server):
    version = approved()
    assert now(desk.root) is None
    run = start(live_server, version)
    state = live_server.state(run)
    assert state["name"] == "Suspended", state
    seen = live_server.get(f"/flow_runs/{run}/input/{state['state_details']['run_input_keyset']['description']}")
    assert seen == "## version 1\nimprovement: ok"
    ended = answer(live_server, run, decision="promote", by="김 선생", reason="답변을 읽어 보았습니다")
    assert (ended["type"], ended["name"]) == ("COMPLETED", "Promoted"), ended
    assert now(desk.root) == version
    event = champion(open_ledger(desk.root), MODEL)
    assert (event.body["by"], event.body["policy"]) == ("김 선생", "manual")
    again = start(live_server, version)
    assert live_server.finished(again)["message"].endswith("is the champion already")


def test_rejected_by_a_person_and_never_promoted_after(desk, approved, live_server):
    version, before = approved(), now(desk.root)
    ended = answer(live_server, start(live_server, version), decision="reject", by="kim", reason="용량을 지어냅니다")
    assert (ended["type"], ended["name"]) == ("COMPLETED", "Rejected"), ended
    assert now(desk.root) == before
    ended = live_server.finished(start(live_server, version))
    assert (ended["type"], ended["name"]) == ("COMPLETED", "Overtaken")


def test_a_champion_that_came_meanwhile_is_told(desk, approved, live_server):
    version, before = approved(), now(desk.root)
    run = start(live_server, version)
    other = approved()
    promote(open_ledger(desk.root), MODEL, other, "lee", "better")
    ended = answer(live_server, run, decision="promote", by="kim", reason="good")
    assert ended["type"] == "FAILED"
    against = before[:12] if before else "no champion"
    assert re.search(rf"was judged against {against}, and version \d+ became champion since", ended["message"])
    assert now(desk.root) == other


def test_nobody_answers(desk, approved, live_server):
    version, before = approved(), now(desk.root)
    run = start(live_server, version)
    days = load_recipe(desk.root / "params.yaml").retrain.approval_days
    with temporary_settings({PREFECT_API_URL: live_server.api}), get_client(sync_client=True) as client:
        assert reap_flow_runs(desk.root) == []
        state = client.read_flow_run(run).state
        assert abs((state.state_details.pause_timeout - state.timestamp).days - days - GRACE.days) <= 1
        # a week later: only the day of grace is left of the pause
        short = Suspended(timeout_seconds=int(GRACE.total_seconds()) - 60, pause_key=state.state_details.pause_key)
        short.state_details.run_input_keyset = state.state_details.run_input_keyset
        client.set_flow_run_state(run, short, force=True)
        (said,) = reap_flow_runs(desk.root)
        ended = client.read_flow_run(run).state
    assert (ended.type, ended.name) == (StateType.CANCELLED, "Expired")
    assert "nobody answered within" in ended.message
    assert "Expired" in said
    assert now(desk.root) == before
