"""Runs left RUNNING and figures never sent, as the doctor finds and mends them."""

import json
import os
import time
from pathlib import Path

import pytest
from registry.doctored import client_of
from registry_checkout import Checkout

from medtune.params.recipe import load_recipe
from medtune.registry.doctor import look
from medtune.registry.doctor_runs import check_runs, check_unsent
from medtune.registry.doctor_trouble import Examination
from medtune.tracking.holder import PID, STARTED
from medtune.tracking.runs import candidate_run, unsent_file
from medtune.tracking.store import open_store

DIGEST = "a" * 64


@pytest.fixture
def seen(checkout: Checkout) -> Examination:
    return look(checkout.root, load_recipe(checkout.root / "params.yaml"), False, lambda line: None)


def run_of(seen: Examination, digest: str = DIGEST) -> str:
    return candidate_run(open_store(seen.root), seen.recipe.register_.experiment, digest, f"candidate {digest[:12]}")


def test_a_run_that_a_kill_left_is_ended(seen: Examination) -> None:
    run, client = run_of(seen), client_of(seen.root)
    assert check_runs(seen) == []  # this process works on it
    client.set_tag(run, STARTED, "1000.0")
    (trouble,) = check_runs(seen)
    assert (trouble.code, trouble.warning) == ("run_left_running", False)
    assert trouble.sentence.startswith("run candidate aaaaaaaaaaaa says RUNNING, but ")
    assert client.get_run(run).info.status == "RUNNING"
    assert "KILLED, since" in trouble.repair()
    assert client.get_run(run).info.status == "KILLED"
    assert check_runs(seen) == []


def test_a_repair_leaves_alone_what_was_taken_up(seen: Examination) -> None:
    run = run_of(seen)
    client_of(seen.root).set_tag(run, STARTED, "1000.0")
    (trouble,) = check_runs(seen)
    run_of(seen)
    assert "taken up again" in trouble.repair()
    assert client_of(seen.root).get_run(run).info.status == "RUNNING"


def test_a_run_that_names_nobody_is_a_note(seen: Examination) -> None:
    client_of(seen.root).delete_tag(run_of(seen), PID)
    (trouble,) = check_runs(seen)
    assert (trouble.code, trouble.warning, trouble.repair) == ("run_nameless", True, None)


def test_figures_that_were_never_sent(seen: Examination) -> None:
    file = kept(seen.root, DIGEST)
    (trouble,) = check_unsent(seen)
    assert (trouble.warning, trouble.repair) == (True, None)  # no run to send them to
    assert "dvc repro -f -s register" in trouble.mend
    run = run_of(seen)
    (trouble,) = check_unsent(seen)
    assert trouble.repair() == "2 points were sent, with the times of then"
    points = client_of(seen.root).get_metric_history(run, "tflops")
    assert [(point.step, point.value, point.timestamp) for point in points] == [(1, 4.0, 1_000), (2, 5.0, 2_000)]
    assert not file.exists()
    assert check_unsent(seen) == []


def test_figures_of_a_training_that_may_run_are_left(seen: Examination) -> None:
    kept(seen.root, DIGEST, hours=0)
    assert check_unsent(seen) == []


def test_before_anything_exists(tmp_path: Path, checkout: Checkout) -> None:
    recipe = load_recipe(checkout.root / "params.yaml")
    nothing = Examination(tmp_path, recipe, "sqlite:///nowhere", None, None)
    assert check_runs(nothing) == check_unsent(nothing) == []


def kept(root: Path, digest: str, hours: float = 2) -> Path:
    file = unsent_file(root, digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [["tflops", 4.0, 1_000, 1], ["tflops", 5.0, 2_000, 2]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    at = time.time() - 3600 * hours
    os.utime(file, (at, at))
    return file
