"""MEDTUNE_TARGET reaches `python -m flows.*` and stages: its settings are there, or the work is refused."""

import os
import re
import subprocess
import sys

import pytest

from tests.flows.small_project import ROOT

NAMES = ("MEDTUNE_TARGET", "MEDTUNE_TARGET_APPLIED", "PREFECT_API_URL", "MEDTUNE_LEDGER_URI", "MEDTUNE_NOTIFY")
FLOW = """
import os, sys

from flows.target import with_target

if __name__ == "__main__":
    with_target("shown")
    from prefect.settings import get_current_settings

    print(get_current_settings().api.url, os.environ.get("MEDTUNE_TARGET_APPLIED"), sys.argv[1:])
"""
STAGE = """
import os
from stages.stage import run_stage

run_stage(lambda: print("worked with", os.environ.get("MEDTUNE_TARGET")))
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/prod.env").write_text("PREFECT_API_URL=http://127.0.0.1:9/api\n")
    (tmp_path / "shown.py").write_text(FLOW)
    (tmp_path / "stage.py").write_text(STAGE)
    return tmp_path


def run(checkout, *command: str, **more: str) -> subprocess.CompletedProcess:
    known = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = known | {"PYTHONPATH": f"{checkout}:{ROOT}"} | more
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=checkout, env=environment, capture_output=True, text=True, timeout=120
    )


def test_prefect_is_imported_with_the_targets_address_and_the_arguments_stay(checkout):
    done = run(checkout, "shown", "--reason", "행을 고침", MEDTUNE_TARGET="prod")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["http://127.0.0.1:9/api", "prod:PREFECT_API_URL", "['--reason',", "'행을", "고침']"]


def test_without_a_target_nothing_changes(checkout):
    assert run(checkout, "shown").stdout.split()[:2] == ["None", "None"]


def test_a_flow_of_ours_asks_the_targets_server(checkout):
    (checkout / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    (checkout / "flows").symlink_to(ROOT / "flows")
    done = run(checkout, "flows.deploy", MEDTUNE_TARGET="prod")
    assert done.returncode == 1
    assert "error: the Prefect server http://127.0.0.1:9/api does not answer" in done.stderr


def test_a_target_that_is_not_there_is_a_sentence(checkout):
    done = run(checkout, "flows.nightly", MEDTUNE_TARGET="prdo")
    assert done.returncode == 1
    assert re.match(r"error: .*prdo", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["deploy", "nightly", "pipeline", "retrain", "serve", "watch"])
def test_every_flow_begins_with_its_target(name):
    """Under its own name: it would begin anew as another command else."""
    said = (ROOT / f"flows/{name}.py").read_text(encoding="utf-8")
    assert re.search(rf'def main\(\) -> None:\n    with_target\("flows\.{name}"\)\n', said)


@pytest.mark.parametrize(
    ("environment", "works"),
    [
        ({}, True),
        ({"MEDTUNE_TARGET": "dev"}, True),
        ({"MEDTUNE_TARGET": "prod", "MEDTUNE_TARGET_APPLIED": "prod:PREFECT_API_URL"}, True),
        ({"MEDTUNE_TARGET": "prod"}, False),
        ({"MEDTUNE_TARGET": "prod", "MEDTUNE_TARGET_APPLIED": "staging:PREFECT_API_URL"}, False),
    ],
)
def test_a_stage_without_its_targets_settings_is_refused(checkout, environment, works):
    done = run(checkout, "stage", **environment)
    assert ("worked with" in done.stdout) == works
    assert done.returncode == (0 if works else 1)
    if not works:
        assert done.stderr.startswith("error: MEDTUNE_TARGET")
        assert "python -m medtune.tracking.targets dvc repro" in done.stderr
