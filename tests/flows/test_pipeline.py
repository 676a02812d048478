"""The flow with a real Prefect server and real `dvc repro`, over a small project with the stages' names."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.states import State

from flows import pipeline as module
from flows.lock import PipelineBusy, pipeline_lock
from flows.pipeline import pipeline
from tests.flows.small_project import STAGES, SmallProject


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> tuple[SmallProject, State]:
    """A project after its first run. Tests copy it."""
    project = SmallProject.create(tmp_path_factory.mktemp("finished") / "project")
    return project, pipeline(root=project.root, return_state=True)


@pytest.fixture
def project(finished: tuple[SmallProject, State], tmp_path: Path) -> SmallProject:
    copy = finished[0].copy(tmp_path / "project")
    copy.ran()
    return copy


def states(state: State) -> dict[str, str]:
    """Task name -> state name, in the order in which they started."""
    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=flow_run)
    return {run.name: run.state_name for run in sorted(runs, key=lambda run: run.expected_start_time)}


def logged(state: State) -> list[str]:
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # the log is sent in batches
        with get_client(sync_client=True) as client:
            lines = [log.message for log in client.read_logs(wanted)]
        if any(line.startswith("Finished in state") for line in lines):
            return lines
        time.sleep(0.5)
    raise AssertionError("the flow's log did not arrive")


def test_first_run_runs_every_stage_in_the_graphs_order(finished):
    project, state = finished
    assert (project.root / "ran.txt").read_text().split() == list(STAGES)
    assert state.is_completed()
    assert state.name == "Completed"
    assert states(state) == dict.fromkeys(STAGES, "Completed")
    assert list(states(state)) == list(STAGES)
    assert set(project.lock()) == set(STAGES)


def test_a_stages_lines_are_in_the_flows_log(finished):
    lines = logged(finished[1])
    assert any(line.startswith("train read ") for line in lines)
    assert not any("git add" in line for line in lines)


def test_an_up_to_date_graph_runs_nothing(project):
    state = pipeline(root=project.root, return_state=True)
    assert project.ran() == []
    assert states(state) == dict.fromkeys(STAGES, "Cached")


def test_a_changed_param_runs_its_stage_and_what_follows_and_going_back_restores(project):
    project.set_param("evaluate", "seed", 7)
    state = pipeline(root=project.root, return_state=True)
    assert project.ran() == ["evaluate", "register"]
    assert list(states(state).values()) == ["Cached"] * 5 + ["Completed"] * 2
    project.set_param("evaluate", "seed", 42)
    state = pipeline(root=project.root, return_state=True)
    assert project.ran() == []  # register neither: DVC keeps its report in the run cache, cache: false or not
    assert states(state) == dict.fromkeys(STAGES, "Cached")


def test_a_stage_that_makes_the_same_bytes_stops_there(project):
    """Code changed, outs did not: what follows is asked and has nothing to do."""
    project.write_stage("evaluate", "from stand_in import run  # a comment\nrun('evaluate')\n")
    state = pipeline(root=project.root, return_state=True)
    assert project.ran() == ["evaluate"]
    assert states(state)["register"] == "Cached"


def test_force_runs_a_stage_that_is_up_to_date(project):
    state = pipeline(root=project.root, force=["evaluate"], return_state=True)
    assert project.ran() == ["evaluate"]
    assert state.is_completed()
    unknown = pipeline(root=project.root, force=["trian"], return_state=True)
    assert unknown.is_failed()
    assert "there is no stage trian; dvc.yaml has download, validate" in unknown.message


def test_a_failed_stage_fails_the_flow_with_its_sentence(project):
    project.write_stage("train", "raise SystemExit('error: data/tokens is empty; add rows\\n  row 1\\n  row 2')\n")
    state = pipeline(root=project.root, return_state=True)
    assert state.is_failed()
    assert state.message == "train: data/tokens is empty; add rows\n  row 1\n  row 2"
    assert states(state) == {"download": "Cached", "validate": "Cached", "tokenize": "Cached", "train": "Failed"}


def test_a_stage_that_dies_without_a_sentence_gives_its_last_line(project):
    project.write_stage("merge", "1 / 0\n")
    state = pipeline(root=project.root, return_state=True)
    assert state.message == "merge: ZeroDivisionError: division by zero (the lines above it are in the log)"


def test_missing_data_gives_dvcs_words(project):
    (project.root / "source.txt").unlink()
    state = pipeline(root=project.root, return_state=True)
    assert state.is_failed()
    assert "source.txt" in state.message


def test_a_wrong_recipe_is_refused_before_any_stage(project):
    project.set_param("train", "learning_rat", 1)
    state = pipeline(root=project.root, return_state=True)
    assert state.is_failed()
    assert "learning_rat" in state.message
    assert states(state) == {}


def test_only_download_is_tried_again(project, monkeypatch):
    monkeypatch.setattr(module, "DOWNLOAD_RETRY_SECONDS", [0.1, 0.1])
    project.set_param("download", "source", "hub")
    project.set_param("download", "id", "mncai/MedGPT-5k-ko")
    project.set_param("download", "revision", "0" * 40)
    project.write_stage(
        "download",
        """
        from pathlib import Path
        from stand_in import run
        run("download")
        if len(Path("ran.txt").read_text().split()) < 3:
            raise SystemExit("error: the hub does not answer")
        """,
    )
    project.write_stage("validate", "import stand_in\nstand_in.run('validate')\nraise SystemExit('error: no')\n")
    state = pipeline(root=project.root, return_state=True)
    assert project.ran() == ["download"] * 3 + ["validate"]
    assert state.message == "validate: no"


def test_a_rejected_candidate_ends_completed_in_a_state_named_so(project):
    project.decide("rejected", "improvement: high is 0.02, must be below 0")
    state = pipeline(root=project.root, return_state=True)
    assert state.is_completed()
    assert state.name == "Rejected"
    assert state.message == "improvement: high is 0.02, must be below 0"
    again = pipeline(root=project.root, return_state=True)
    assert again.name == "Rejected"


def start(project: SmallProject, server: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline"],
        cwd=project.root,
        env=project.environment(PREFECT_API_URL=server),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


SLEEPS = """
    import os, subprocess, sys, time
    from pathlib import Path
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path("pids.tmp").write_text(f"{os.getpid()} {child.pid}")
    Path("pids.tmp").rename("pids.txt")
    time.sleep(600)
"""


def pids(project: SmallProject, process: subprocess.Popen) -> list[int]:
    file = project.root / "pids.txt"
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [int(pid) for pid in file.read_text().split()]


def gone(pid: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:  # asked in one step: it may end between two
            return True
        time.sleep(0.1)
    return False


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_stage(project, prefect_server):
    project.write_stage("register", SLEEPS)
    process = start(project, prefect_server)
    try:
        stage = pids(project, process)
        with pytest.raises(PipelineBusy, match=f"process {process.pid} on .* holds mlruns/pipeline.lock since 20"):
            pipeline_lock(project.root).__enter__()
        second = start(project, prefect_server)
        said, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"error: the pipeline is running already: process {process.pid} on" in said
        assert pipeline(root=project.root, return_state=True).is_failed()

        os.kill(process.pid, signal.SIGKILL)
        assert all(gone(pid) for pid in stage)
        deadline = time.monotonic() + 20
        while not lock_is_free(project.root):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        project.write_stage("register")
        assert pipeline(root=project.root, return_state=True).is_completed()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def lock_is_free(root: Path) -> bool:
    try:
        with pipeline_lock(root):
            return True
    except PipelineBusy:
        return False


def test_an_interrupted_flow_ends_its_stage(project, prefect_server):
    project.write_stage("train", SLEEPS)
    process = start(project, prefect_server)
    stage = pids(project, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert all(gone(pid) for pid in stage)
