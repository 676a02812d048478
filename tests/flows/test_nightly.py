"""The nightly round on real registries: sound, in trouble, and beside a pipeline in work."""

import os
import shutil
import subprocess
import sys

import pytest

from flows import nightly
from tests.flows.small_project import ROOT

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def told(monkeypatch):
    """What would be sent to people; the channels have tests of their own."""
    messages = []
    monkeypatch.setattr(nightly, "_tell", lambda subject, body, log: messages.append((subject, body)))
    return messages


def artifact() -> str:
    from prefect.artifacts import Artifact

    return Artifact.get("medtune-doctor").data


def run(root, **options):
    return nightly.doctor(root=root, return_state=True, **options)


def test_a_sound_registry_says_so_and_sends_nothing(checkout, told):
    state = run(checkout)
    assert (state.type.value, state.name, told) == ("COMPLETED", "Sound", [])
    assert artifact().startswith("# Sound")
    assert not (checkout / "mlruns/mlflow.db").exists()  # looking makes no registry


def test_what_is_left_for_a_person_fails_the_run_and_is_told(checkout, told):
    (checkout / "dvc.lock").write_text("schema: '2.0'\nstages:\n  train:\n    cmd: x\n    de", encoding="utf-8")
    state = run(checkout)
    assert (state.type.value, state.name) == ("FAILED", "Troubled")
    assert "dvc.lock" in state.message
    assert "git checkout dvc.lock" in state.message
    ((subject, body),) = told
    assert subject == "medgpt-ko: 1 left for a person"
    assert "dvc.lock" in body
    assert "## Left for a person" in artifact()


def test_dvc_lock_is_not_judged_while_a_pipeline_writes_it(checkout, told):
    (checkout / "dvc.lock").write_text("schema: '2.0'\nstages:\n  tra", encoding="utf-8")
    code = "from pathlib import Path; from flows.lock import pipeline_lock; import sys\n"
    code += "with pipeline_lock(Path()): print('held', flush=True); sys.stdin.read()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(  # a pipeline is never the doctor's own process
        [sys.executable, "-c", code], cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        before = (checkout / "mlruns/pipeline.lock").read_text()
        state = run(checkout)
        assert (checkout / "mlruns/pipeline.lock").read_text() == before
    finally:
        other.communicate()
    assert (state.name, told) == ("Sound", [])
    assert "seen while a pipeline was in work" in artifact()


def test_a_leftover_is_removed_and_told(checkout, told, monkeypatch):
    import os
    import time

    from medtune.tracking.store import open_store

    open_store(checkout)
    left = checkout / "mlruns/artifacts/versions" / f".{'a' * 64}.tmp"
    left.mkdir(parents=True)
    old = time.time() - 7200
    (left / "model.safetensors").write_bytes(b"x")
    for path in (left / "model.safetensors", left):
        os.utime(path, (old, old))
    assert run(checkout, repair=False).name == "Troubled"
    assert left.exists()
    state = run(checkout)
    assert (state.name, left.exists()) == ("Repaired", False)
    assert told[-1][0] == "medgpt-ko: repaired"


def test_a_recipe_that_cannot_be_read_is_a_sentence(checkout, told):
    (checkout / "params.yaml").write_text("bas: 1\n", encoding="utf-8")
    state = run(checkout)
    assert (state.type.value, state.name) == ("FAILED", "Troubled")
    assert "params.yaml" in state.message
    assert told[0][0] == "the nightly doctor could not look"


def test_people_are_told_although_the_report_cannot_be_kept(checkout, told, monkeypatch):
    def away(*_: object) -> None:
        raise ConnectionError("All connection attempts failed")

    monkeypatch.setattr(nightly, "_publish", away)
    (checkout / "dvc.lock").write_text("schema: '2.0'\nstages:\n  train:\n    cmd: x\n    de", encoding="utf-8")
    state = run(checkout)
    assert (state.type.value, state.name) == ("FAILED", "Troubled")
    assert "git checkout dvc.lock" in state.message
    assert [subject for subject, _ in told] == ["medgpt-ko: 1 left for a person"]


def test_old_looks_of_the_watcher_are_deleted(prefect_server):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.states import Cancelled, Completed, Failed, Running

    from flows.missed import forget_old

    @flow(name="medtune-watch")
    def watch() -> None: ...

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(watch), "test-old-looks")
        states = {"looked": Completed(), "cancelled": Cancelled(), "failed": Failed(), "works": Running()}
        runs = {}
        try:
            for name, state in states.items():
                run = client.create_flow_run_from_deployment(deployment)
                client.set_flow_run_state(run.id, state, force=True)
                runs[run.id] = name
            ours = FlowRunFilter(id=FlowRunFilterId(any_=[*runs]))
            assert forget_old(client) == 0  # they ended just now
            assert len(client.read_flow_runs(flow_run_filter=ours)) == len(runs)
            assert forget_old(client, days=-1) == 2  # as of tomorrow: a server gives no run an earlier end
            # why one failed, somebody may want to know
            assert {runs[item.id] for item in client.read_flow_runs(flow_run_filter=ours)} == {"failed", "works"}
        finally:
            everything = {"id": {"any_": [str(item) for item in runs]}}
            client.request("POST", "/flow_runs/bulk_delete", json={"flow_runs": everything})
            client.delete_deployment(deployment)
