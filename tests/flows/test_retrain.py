"""The retrain and watch flows with a real Prefect server, real `dvc repro` and a real ledger, over a small project."""

import json
import logging
import os
import shutil
import time
from pathlib import Path
from threading import Timer

import pytest
from prefect.client.orchestration import get_client
from prefect.states import State
from registry_checkout import fresh_store

from flows import pipeline as pipeline_module
from flows import retrain as module
from flows import watch as watching
from flows.data_version import read_versions
from flows.intake import settled
from flows.pipeline import pipeline
from flows.retrain import retrain
from flows.watch import watch
from medtune.corpus.newcomers import look
from medtune.params.recipe import load_recipe
from medtune.registry.data_claims import claim, claims, holder
from medtune.registry.ledger import open_ledger
from tests.flows.retrain_project import RetrainProject

__all__ = ["fresh_store"]
MODEL = "medgpt-ko"


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, fresh_store: Path, prefect_server: str
) -> tuple[RetrainProject, State]:
    """A project after a retrain on 60 rows. Tests copy it."""
    project = RetrainProject.make(tmp_path_factory.mktemp("retrain") / "project", fresh_store)
    project.rows("march", 60)
    return project, run(project, reason="60 new rows")


@pytest.fixture
def project(finished: tuple[RetrainProject, State], tmp_path: Path) -> RetrainProject:
    shutil.copytree(finished[0].root, tmp_path / "project")
    copy = RetrainProject(tmp_path / "project")
    copy.ran()
    return copy


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What would go to Slack and by mail."""
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(module, "tell", lambda subject, body, log: sent.append((subject, body)))
    return sent


def run(project: RetrainProject, **arguments: object) -> State:
    return retrain(root=project.root, return_state=True, **arguments)


def standing(project: RetrainProject) -> list[tuple[str, str | None]]:
    return [(item.state, item.outcome) for item in claims(open_ledger(project.root), MODEL).values()]


def test_new_rows_are_trained_on_and_the_end_is_written_down(finished):
    project, state = finished
    assert (state.type.value, state.name) == ("COMPLETED", "Rejected"), state.message
    assert (project.root / "ran.txt").read_text().split() == ["download", "train", "register"]
    assert standing(project) == [("done", "rejected")]
    (version,) = read_versions(project.root)
    (data,) = claims(open_ledger(project.root), MODEL)
    assert version.data == data
    assert version.rows == 420
    assert (project.root / "data/incoming.dvc").exists()


def test_the_same_event_again_does_nothing(project, messages):
    (data,) = claims(open_ledger(project.root), MODEL)
    state = run(project, data=data)
    assert state.name == "Skipped"
    assert "was worked on already: rejected, version dddddddddddd" in state.message
    assert run(project).name == "Unchanged"  # by hand, or by the weekly schedule
    assert project.ran() == []
    assert messages == []
    project.set_param("train", "learning_rate", 5e-4)  # a new recipe on old rows is no matter of the data
    assert run(project).name == "Rejected"
    assert project.ran() == ["train", "register"]
    assert len(messages) == 1


def test_one_message_with_the_deciding_figures(project, messages, monkeypatch):
    monkeypatch.setenv("MEDTUNE_MLFLOW_URL", "http://127.0.0.1:5000")
    project.rows("april", 50)
    project.report("approved")
    run(project, reason="50 new rows in 1 file (retrain.min_new_rows 50)")
    ((subject, body),) = messages
    assert subject == "medgpt-ko version 4: promoted to champion"
    assert "Retrained because of: 50 new rows in 1 file" in body
    assert "ok  improvement: nats per character 0.02, below 0 is asked" in body
    assert body.endswith("Release card: http://127.0.0.1:5000/#/runs/r1 (artifacts, card)")


def test_a_stage_that_fails_is_told_once_and_not_tried_for_ever(project, messages):
    project.rows("april", 50)
    project.write_stage("train", "raise SystemExit('error: out of memory; halve train.batch_size')\n")
    data = watching_data(project)
    state = run(project, data=data, reason="50 new rows")
    assert state.is_failed()
    assert standing(project)[-1] == ("done", "failed")
    ((subject, body),) = messages
    assert subject == "medgpt-ko: the retrain failed"
    assert "train: out of memory; halve train.batch_size" in body
    assert run(project, data=data).name == "Skipped"  # the event again
    assert watch(root=project.root, return_state=True).name == "Nothing"
    project.write_stage("train")
    assert run(project).name == "Rejected"  # a person, or the schedule, after the mend
    assert standing(project)[-1] == ("done", "rejected")


def watching_data(project: RetrainProject) -> str:
    recipe = load_recipe(project.root / "params.yaml")
    return look(project.root, recipe.download, recipe.retrain).data


def test_a_failure_after_the_promotion_does_not_deny_it(project, messages, monkeypatch):
    project.rows("april", 50)
    ledger = open_ledger(project.root)

    def dies(*arguments: object, **more: object) -> None:
        ledger.append("registered", MODEL, "e" * 64, {"numbers": {"merged": 5, "adapter": 5}})
        ledger.append("promoted", MODEL, "e" * 64, {"number": 5, "expects": None})
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "run_stages", dies)
    assert run(project, reason="50 new rows").is_failed()
    ((subject, body),) = messages
    assert subject == "medgpt-ko: the retrain failed"
    assert "No space left on device" in body
    assert "Version 5 had been promoted before that, and is the champion." in body
    assert standing(project)[-1] == ("done", "failed")


def test_a_kill_before_the_end_is_written_tells_again_and_loses_nothing(project, messages, monkeypatch):
    """Everybody is told before the claim is done: the other way round a kill in between would mean silence."""
    project.rows("april", 50)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "finish", killed)
        patch.setattr(module, "_stopped", lambda work: None)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - Prefect wraps it
            run(project)
    assert len(messages) == 1
    assert standing(project)[-1] == ("claimed", None)
    project.ran()
    assert run(project).name == "Rejected"  # the same checkout: nobody else can be at work in it
    assert project.ran() == []
    assert len(messages) == 2
    assert standing(project)[-1] == ("done", "rejected")


def test_cancelled_by_a_person_it_is_not_begun_again_by_events(project, messages, monkeypatch):
    project.rows("april", 50)

    def cancelled(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    data = watching_data(project)
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_stages", cancelled)
        patch.setattr(module, "_cancelled", lambda: True)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - Prefect wraps it
            run(project, data=data)
    assert standing(project)[-1] == ("done", "cancelled")
    assert run(project, data=data).name == "Skipped"
    assert watch(root=project.root, return_state=True).name == "Nothing"  # that a person may: test_data_claims.py


def test_rows_that_differ_are_held_until_a_person_says_so(project, messages, monkeypatch):
    project.rows("april", 50)
    project.set_param("retrain", "drift", {"action": "hold"})
    alarms = {"alarms": ["question length: D 0.61 (above 0.2)"]}
    monkeypatch.setattr(module, "_drift", lambda *a: alarms)
    monkeypatch.setattr(module, "AFTER", "download")  # this small graph has no validate
    state = run(project, data=watching_data(project))
    assert (state.name, state.message) == ("Held", "question length: D 0.61 (above 0.2)")
    assert project.ran() == ["download"]
    assert "python -m flows.retrain --force-drift" in messages[0][1]
    assert run(project, force_drift=True).name == "Rejected"
    assert "question length: D 0.61" in messages[1][1]


def test_a_file_that_is_being_copied_is_waited_for_and_then_left(project, monkeypatch):
    log = logging.getLogger("copied")
    project.set_param("retrain", "quiet_seconds", 1)
    retrain = load_recipe(project.root / "params.yaml").retrain
    path = project.rows("april", 50)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-20], encoding="utf-8")
    Timer(1.5, lambda: path.write_text(whole, encoding="utf-8")).start()
    assert settled(project.root, retrain, log, wait=30) == ("april.jsonl", "march.jsonl")
    with (project.root / "data/incoming/may.jsonl").open("w") as half:
        half.write('{"input": "가", ')
    assert settled(project.root, retrain, log, wait=0.5) == ("april.jsonl", "march.jsonl")
    monkeypatch.setattr(pipeline_module, "settled", lambda *a: settled(*a, wait=0.5))
    state = pipeline(root=project.root, return_state=True)
    assert state.name == "Rejected"
    names = [file["name"] for file in json.loads((project.root / "data/raw/dataset.json").read_text())["files"]]
    assert names[-2:] == ["incoming/april.jsonl", "incoming/march.jsonl"]
    assert "may.jsonl" not in (project.root / "data/incoming.dvc").read_text()
    assert (project.root / "data/incoming/may.jsonl").read_text() == '{"input": "가", '


def test_a_file_that_cannot_be_read_holds_no_retrain_up(project, messages):
    project.rows("april", 50)
    bad = project.root / "data/incoming/bad.jsonl"
    bad.write_bytes(b"\xff\xfe\x00nonsense\n{{{\n")
    os.utime(bad, (time.time() - 7200,) * 2)
    assert run(project).name == "Rejected"
    assert not bad.exists()
    assert (project.root / "data/set_aside/bad.jsonl").read_bytes() == b"\xff\xfe\x00nonsense\n{{{\n"
    assert "bad.jsonl" in (project.root / "data/set_aside/bad.jsonl.txt").read_text(encoding="utf-8")


def test_the_watcher_tells_prefect_and_the_claim_ends_it(project, prefect_server):
    assert watch(root=project.root, return_state=True).name == "Nothing"
    project.rows("april", 20)
    state = watch(root=project.root, return_state=True)
    assert (state.name, "20 new rows" in state.message) == ("Nothing", True), state.message
    project.rows("may", 40)
    state = watch(root=project.root, return_state=True)
    assert (state.name, state.message) == ("Told", "60 new rows in 2 files (retrain.min_new_rows 50)")
    data = watching_data(project)
    deadline = time.monotonic() + 30
    while not (found := events(data)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert found[0]["payload"] == {"data": data, "new_rows": 60, "reason": state.message}
    state = watch(root=project.root, return_state=True)
    assert state.message.endswith("told already, no run has claimed it yet")
    who = holder(project.root.parent / "another checkout")
    claim(open_ledger(project.root), MODEL, data, who, "event")
    assert watch(root=project.root, return_state=True).name == "Claimed"
    assert json.loads((project.root / watching.TOLD).read_text())["data"] == data
    assert run(project, data=data).name == "Skipped"
    assert run(project, take_over=True).name == "Rejected"  # a person who knows that the other is dead


def events(data: str) -> list[dict]:
    with get_client(sync_client=True) as client:
        answer = client._client.post("/events/filter", json={"filter": {"event": {"name": [watching.EVENT]}}})
    return [event for event in answer.json()["events"] if event["resource"].get("medtune.data") == data]
