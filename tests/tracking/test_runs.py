"""One run per candidate; a record that is complete, and not written twice."""

import hashlib
from pathlib import Path

import pytest

from medtune.params.errors import RegistryError
from medtune.tracking.runs import candidate_run, figures, finish, flatten, log_curve, log_record
from medtune.tracking.store import connect, open_store


@pytest.fixture
def uri(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_store(fresh)


@pytest.fixture
def candidate(request: pytest.FixtureRequest) -> str:
    return hashlib.sha256(request.node.name.encode()).hexdigest()


def test_one_run_per_candidate(uri: str, candidate: str) -> None:
    run = candidate_run(uri, "medtune", candidate, "a", {"git.commit": "1"})
    assert candidate_run(uri, "medtune", candidate, "again", {"git.commit": "2", "more": "3"}) == run
    found = connect(uri).get_run(run)
    assert (found.info.run_name, found.info.status) == ("a", "RUNNING")
    assert (found.data.tags["git.commit"], found.data.tags["more"]) == ("1", "3")
    assert found.info.artifact_uri.endswith(f"/mlruns/artifacts/runs/medtune/{run}/artifacts")
    assert candidate_run(uri, "medtune", candidate[::-1], "other") != run


@pytest.mark.parametrize(("left", "taken_up"), [("RUNNING", "RUNNING"), ("FAILED", "RUNNING"), ("KILLED", "RUNNING")])
def test_a_run_that_a_kill_left_is_taken_up(uri: str, candidate: str, left: str, taken_up: str) -> None:
    run = candidate_run(uri, "medtune", candidate, "a")
    connect(uri).update_run(run, status=left)
    assert candidate_run(uri, "medtune", candidate, "a") == run
    assert connect(uri).get_run(run).info.status == taken_up
    finish(uri, run)
    ended = connect(uri).get_run(run).info
    assert ended.status == "FINISHED"
    assert candidate_run(uri, "medtune", candidate, "a") == run
    finish(uri, run)
    assert connect(uri).get_run(run).info.end_time == ended.end_time


def test_a_record_is_written_once(uri: str, candidate: str, tmp_path: Path) -> None:
    run = candidate_run(uri, "medtune", candidate, "a")
    report = tmp_path / "train.json"
    report.write_text("{}")
    nan = float("nan")

    def log(loss: float) -> None:
        metrics = {"train.loss": loss, "odd (%) [name]": 1, "nan": nan}
        log_record(uri, run, {"lora.r": 8}, metrics, {report: "reports"}, {"medtune.version": "v"})

    log(1.5)
    log(1.5)
    client = connect(uri)
    assert {k: len(client.get_metric_history(run, k)) for k in client.get_run(run).data.metrics} == {
        "train.loss": 1,
        "odd ___ _name_": 1,
        "nan": 1,
    }
    assert [item.path for item in client.list_artifacts(run, "reports")] == ["reports/train.json"]
    log(1.25)
    assert client.get_run(run).data.metrics["train.loss"] == 1.25
    log_record(
        uri, run, {"lora.r": 16, "new": 1}, {}, {}, {}
    )  # params are for ever in MLflow: no error, the first stays
    assert client.get_run(run).data.params == {"lora.r": "8", "new": "1"}


def test_changed_artifacts_are_sent_anew(uri: str, candidate: str, tmp_path: Path) -> None:
    run = candidate_run(uri, "medtune", candidate, "a")
    report = tmp_path / "train.json"
    for text in ("1", "2"):
        report.write_text(text)
        log_record(uri, run, {}, {}, {report: "reports"}, {})
        assert Path(connect(uri).download_artifacts(run, "reports/train.json")).read_text() == text


def test_curve_fills_what_is_missing(uri: str, candidate: str) -> None:
    run = candidate_run(uri, "medtune", candidate, "a")
    connect(uri).log_metric(run, "loss", 3.0, step=1)  # sent live before the kill
    history = [{"step": n, "loss": 3.0 / n, "learning_rate": 0.1} for n in (1, 2, 3)] + [{"step": 3, "eval_loss": 2.0}]
    assert log_curve(uri, run, history) == 2 + 3 + 1
    assert log_curve(uri, run, history) == 0
    points = connect(uri).get_metric_history(run, "loss")
    assert sorted((p.step, p.value) for p in points) == [(1, 3.0), (2, 1.5), (3, 1.0)]


def test_a_long_curve(uri: str, candidate: str) -> None:
    """MLflow takes at most 1,000 metrics at a time."""
    run = candidate_run(uri, "medtune", candidate, "a")
    assert log_curve(uri, run, [{"step": n, "loss": 1.0} for n in range(2500)]) == 2500


def test_a_deleted_experiment_is_restored(uri: str, candidate: str) -> None:
    run = candidate_run(uri, "cleared", candidate, "a")
    client = connect(uri)
    client.delete_experiment(client.get_run(run).info.experiment_id)
    candidate_run(uri, "cleared", candidate, "a")
    assert client.get_experiment_by_name("cleared").lifecycle_stage == "active"


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "' OR 1=1 --".ljust(64)])
def test_what_is_no_digest(uri: str, digest: str) -> None:
    with pytest.raises(RegistryError, match="64 hexadecimal digits"):
        candidate_run(uri, "medtune", digest, "a")


def test_plain_data() -> None:
    tree = {"a": {"b": 1, "c": [1, 2]}, "d": True, "e": None, "f": "x", "g": 0.5}
    assert flatten(tree) == {"a.b": 1, "a.c": [1, 2], "d": True, "e": None, "f": "x", "g": 0.5}
    assert figures(tree, "s.") == {"s.a.b": 1.0, "s.g": 0.5}
