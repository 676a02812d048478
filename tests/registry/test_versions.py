"""A version's files: linked where that goes, copied where there is room."""

import json
import os
import shutil
from pathlib import Path

import pytest

from medtune.params.errors import RegistryError
from medtune.registry.versions import keep_version, version_path

DIGEST = "d" * 64


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    folders = {part: tmp_path / "data" / part for part in ("adapter", "merged")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"pad": "x" * 1000}))
    return folders


def test_room_for_a_copy_is_looked_for_where_links_are_refused(
    tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One device, as on exFAT and some network disks."""

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    copied, real = [], shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda *arguments: copied.append(arguments) or real(*arguments))
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(999, 0, 999))
        with pytest.raises(RegistryError, match="cannot be linked into mlruns and must be copied"):
            keep_version(tmp_path, DIGEST, sources, lambda merged: None)
    assert copied == []
    keep_version(tmp_path, DIGEST, sources, lambda merged: None)
    assert len(copied) == 2
    assert (version_path(tmp_path, DIGEST) / "merged/config.json").stat().st_size > 1000
