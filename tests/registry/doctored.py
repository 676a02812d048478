"""A checkout with two registered versions for the doctor, and what tests look at afterwards."""

import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from registry_checkout import Checkout, copied

from medtune.params.recipe import load_recipe
from medtune.registry.doctor import Report, doctor
from medtune.registry.ledger import open_ledger
from medtune.tracking.store import connect, open_store
from stages.register import main

MODEL, ADAPTER = "medgpt-ko", "medgpt-ko-adapter"
LATER = 7200  # seconds: older than what may be a registration that runs


def run(root: Path, repair: bool = True, deep: bool = False) -> Report:
    report = doctor(root, load_recipe(root / "params.yaml"), repair, deep, lambda line: None)
    json.dumps(report.record())
    return report


def codes(report: Report) -> tuple[list[str], list[str], list[str]]:
    """(repaired, left, warnings)"""
    return (
        [item.code for item, _ in report.repaired],
        [item.code for item in report.left],
        [item.code for item in report.warnings],
    )


def client_of(root: Path) -> Any:
    return connect(open_store(root))


def aliases(root: Path) -> dict[str, dict[str, int]]:
    client = client_of(root)
    return {
        name: {key: int(number) for key, number in client.get_registered_model(name).aliases.items()}
        for name in (MODEL, ADAPTER)
    }


def kinds(root: Path) -> list[str]:
    return [event.event for event in open_ledger(root).events()]


def database(root: Path) -> closing:
    return closing(sqlite3.connect(root / "mlruns/mlflow.db", isolation_level=None))


def age(path: Path) -> None:
    """As if nothing below had changed for two hours."""
    then = time.time() - LATER
    for name in (*path.rglob("*"), path):
        os.utime(name, (then, then))


class Killed(BaseException):
    pass


class Dying:
    """A real client that dies before its `at`-th creation of a model version (from 0)."""

    def __init__(self, client: Any, at: int) -> None:
        self.client, self.at = client, at

    def __getattr__(self, name: str) -> Any:
        if name == "create_model_version":
            self.at -= 1
            if self.at < 0:
                raise Killed
        return getattr(self.client, name)


@pytest.fixture(scope="session")
def two_template(champion_template: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        checkout = copied(champion_template, tmp_path_factory.mktemp("two") / "checkout")
        checkout.versions.append(checkout.candidate("b", nll=1.7))
        main(checkout.root)
        repaired, left, _ = codes(run(checkout.root))
    assert left == []
    assert set(repaired) <= {"moved_checkout"}  # the test's database was made in another folder
    for copy in (checkout.root / "mlruns").glob("mlflow.db.before-rebase-*"):
        copy.unlink()
    return checkout


@pytest.fixture
def two(two_template: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """Version 1 was champion, version 2 is; and doctor has been here."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copied(two_template, tmp_path / "checkout")
