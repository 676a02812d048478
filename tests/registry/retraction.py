"""A project with rows and versions made of them, on a real ledger, for tests of retraction."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from medtune.params.recipe import load_recipe
from medtune.registry.ledger import Ledger, open_ledger
from medtune.registry.retract import Retraction, pending_retrain, retract
from medtune.registry.row_places import rows_of_version
from medtune.registry.versions import version_path
from tests.registry_checkout import digest
from tests.stages.test_validate import lay

MODEL = "medgpt-ko"
ROW, OTHER, THIRD = (digest(f"row {name}") for name in "abc")


class Project:
    """A checkout with a ledger of its own. `register` says of a version what the registrar would, with rows.json."""

    def __init__(self, root: Path):
        self.root = root
        self.ledger: Ledger = open_ledger(root)

    def register(
        self, number: int, train=(), validation=(), test=(), rows: bool = True, data: str = "", **body: object
    ) -> str:
        version = digest(f"version {number}")
        data = data or digest(f"data {number}")
        splits = {"train": [*train], "validation": [*validation], "test": [*test]}
        content = json.dumps({"data": data, "tokens": digest("t"), "splits": splits})
        if rows:
            folder = version_path(self.root, version)
            folder.mkdir(parents=True)
            (folder / "rows.json").write_text(content)
        said = {
            "numbers": {"merged": number, "adapter": number + 100},
            "data": data,
            "rows": hashlib.sha256(content.encode()).hexdigest() if rows else None,
            "base": {"id": "tiny", "revision": "1"},
            "parent": None,
        }
        self.ledger.append("registered", MODEL, version, said | body)
        self.ledger.append("approved", MODEL, version, {"key": f"{number}"})
        return version

    def promote(self, version: str) -> None:
        self.ledger.append("promoted", MODEL, version, {"number": 0, "expects": None})

    def retract(self, *ids: str, reason: str = "consent withdrawn", by: str = "kim", **more: object) -> Retraction:
        return retract(self.root, load_recipe(self.root / "params.yaml"), self.ledger, ids, reason, by, **more)

    def pending(self) -> dict | None:
        return pending_retrain(self.ledger, MODEL, rows_of_version(self.root))

    def kinds(self) -> list[str]:
        return [event.event for event in self.ledger.events() if event.event.startswith("ret")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{tmp_path}/ledger.db")
    lay(tmp_path, [])
    shutil.rmtree(tmp_path / "data")
    return Project(tmp_path)


def touched(done: Retraction, row: int = 0) -> dict[int, tuple]:
    return {item.standing.number: (item.splits, item.learned) for item in done.rows[row].touched}


# --- what is touched ---
