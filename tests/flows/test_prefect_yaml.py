"""prefect.yaml is checked before a server hears of it: each mistake is a sentence that names the deployment."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from flows.deployments import next_firing, read_deployments
from medtune.params.errors import UserError
from tests.flows.small_project import ROOT


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    (tmp_path / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    return tmp_path


def change(checkout, deployment: str, **keys: object) -> None:
    said = yaml.safe_load((checkout / "prefect.yaml").read_text(encoding="utf-8"))
    next(item for item in said["deployments"] if item["name"] == deployment).update(keys)
    (checkout / "prefect.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")


def test_as_shipped(checkout):
    assert [item.full_name for item in read_deployments(checkout)] == [
        "medtune-retrain/weekly",
        "medtune-retrain/on-new-data",
        "medtune-pipeline/by-hand",
        "medtune-watch/every-minute",
        "medtune-doctor/nightly",
        "medtune-approve/by-hand",
    ]


@pytest.mark.parametrize(
    ("cron", "sentence"),
    [
        ("0 3 30 2 *", r"'0 3 30 2 \*' does not fire once within 5 years"),
        ("0 3 31 4,6 *", r"does not fire once within 5 years"),
        ("0 25 * * 1", r"cannot be read \(.*out of range\); write minute hour"),
        ("0 3 * * 1 *", "it has five fields"),
        ("0 3 *", "it has five fields"),
        ("0 3 * * Mo", "cannot be read"),
        (3, "is no cron line"),
    ],
)
def test_a_cron_that_never_fires_names_the_deployment(checkout, cron, sentence):
    change(checkout, "weekly", schedules=[{"slug": "mondays", "cron": cron, "timezone": "Asia/Seoul"}])
    with pytest.raises(
        UserError, match=f"prefect.yaml, deployment medtune-retrain/weekly, schedule mondays.*{sentence}"
    ):
        read_deployments(checkout)


def test_the_29th_of_february_fires():
    leap = next_firing({"cron": "0 3 29 2 *", "timezone": "Asia/Seoul"}, datetime(2096, 3, 1, tzinfo=UTC))
    assert leap is None  # 2100 is no leap year: eight years are too long
    leap = next_firing({"cron": "0 3 29 2 *", "timezone": "Asia/Seoul"}, datetime(2026, 3, 1, tzinfo=UTC))
    assert leap.isoformat() == "2028-02-29T03:00:00+09:00"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"schedule": []}, "there is no 'schedule'; did you mean schedules?"),
        ({"schedules": [{"slug": "a", "cron": "0 3 * * 1", "timezone": "Asia/Soul"}]}, "zone 'Asia/Soul'; Asia/Seoul?"),
        ({"schedules": [{"cron": "0 3 * * 1"}]}, "needs a slug"),
        ({"schedules": [{"slug": "a", "interval": 0}]}, "interval must be seconds, at least 1"),
        ({"schedules": [{"slug": "a"}]}, "either a cron line or an interval"),
        ({"schedules": [{"slug": "a", "crom": "0 3 * * 1"}]}, "there is no 'crom'; did you mean cron?"),
        ({"parameters": {"resaon": "x"}}, "parameters of medtune-retrain: there is no 'resaon'; did you mean reason?"),
        ({"concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL"}}, "must be one of CANCEL_NEW, ENQUEUE"),
        ({"concurrency_limit": {"limit": 0}}, "must be 1 or more"),
        ({"work_pool": {}}, "no worker would run it"),
        ({"entrypoint": "flows/retrian.py:retrain"}, "flows/retrian.py is not there"),
        ({"entrypoint": "flows/retrain.py:retrian"}, "flows/retrain.py has no flow retrian"),
        ({"name": "on-new-data"}, "two deployments are called medtune-retrain/on-new-data"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(checkout, keys, sentence):
    change(checkout, "weekly", **keys)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_deployments(checkout)


def test_nothing_is_deployed_where_a_line_is_wrong(checkout):
    """The command: the sentence on stderr, before any server is asked."""
    change(checkout, "nightly", schedules=[{"slug": "nights", "cron": "0 2 30 2 *"}])
    done = subprocess.run(
        [sys.executable, "-m", "flows.deploy"],
        cwd=checkout,
        capture_output=True,
        text=True,
        env=os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: prefect.yaml, deployment medtune-doctor/nightly, schedule nights: ")


@pytest.mark.parametrize(
    ("api", "said"),
    [
        ("http://127.0.0.1:4200/api", False),
        ("http://localhost:4200/api", False),
        ("http://[::1]:4200/api", False),
        ("https://user:secret@prefect.ward.org/api", True),
        ("http://10.0.0.7:4200/api", True),
    ],
)
def test_a_server_elsewhere_is_told_of(tmp_path, api, said):
    from flows.deploy import elsewhere

    note = elsewhere(api, tmp_path) or ""
    assert bool(note) == said
    assert (str(tmp_path) in note) == said
    assert "secret" not in note


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("", "no Prefect server is named: `make stack`"), ("http://127.0.0.1:9/api", "does not answer (ConnectError)")],
)
def test_no_server_is_a_sentence(checkout, url, sentence):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.deploy import deploy

    given = {"updates": {PREFECT_API_URL: url}} if url else {"restore_defaults": {PREFECT_API_URL}}
    with temporary_settings(**given), pytest.raises(UserError, match=re.escape(sentence)):
        deploy(checkout, lambda line: None)
