"""A base that is a registered version is the one that was registered, wherever MLflow says that it lies."""

import shutil
from pathlib import Path

import pytest
from registry_checkout import Checkout

from medtune.params.base import Base
from medtune.params.errors import RegistryError
from medtune.registry.ledger import open_ledger
from medtune.registry.registered_base import check_registered_base
from medtune.registry.standing import champion
from medtune.registry.versions import MERGED, version_path

SECTION = Base(source="mlflow", id="medgpt-ko", revision="1")


@pytest.fixture
def merged(crowned: Checkout) -> Path:
    return version_path(crowned.root, champion(open_ledger(crowned.root), "medgpt-ko").version) / MERGED


def test_the_version_itself_and_a_faithful_copy_pass(crowned: Checkout, merged: Path, tmp_path: Path) -> None:
    assert check_registered_base(crowned.root, SECTION, merged) is None
    shutil.copytree(merged, tmp_path / "copy")
    assert check_registered_base(crowned.root, SECTION, tmp_path / "copy") is None


def test_other_bytes_are_refused_in_place_and_elsewhere(crowned: Checkout, merged: Path, tmp_path: Path) -> None:
    shutil.copytree(merged, tmp_path / "copy")
    for folder, told in ((tmp_path / "copy", "is not a file of that version"), (merged, "config.json")):
        config = folder / "config.json"
        text = config.read_text()
        config.unlink()  # never in place: the workspace shares the bytes
        config.write_text(text.replace("llama", "lLama", 1))
        with pytest.raises(RegistryError, match=told):
            check_registered_base(crowned.root, SECTION, folder)


def test_a_version_that_the_ledger_lacks_is_refused(crowned: Checkout, merged: Path) -> None:
    section = Base(source="mlflow", id="medgpt-ko", revision="7")
    with pytest.raises(RegistryError, match="no version 7 of medgpt-ko; it has 1"):
        check_registered_base(crowned.root, section, merged)


def test_another_model_is_taken_with_a_note(crowned: Checkout, merged: Path) -> None:
    section = Base(source="mlflow", id="from-elsewhere", revision="1")
    assert "was not registered by medtune" in check_registered_base(crowned.root, section, merged)
