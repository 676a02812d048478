"""The download stage as it runs: its outs, the order of rows, what it prints, and what a rerun does."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medtune.params.errors import UserError
from stages.download import main
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a recipe, two files of rows and a base in a directory."""
    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path / "cache"))
    recipe = (ROOT / "params.yaml").read_text(encoding="utf-8")
    rest = recipe[recipe.index("\nvalidate:") :]
    (tmp_path / "params.yaml").write_text(
        f"base: {{source: path, id: '{tiny_base}', license: MIT}}\n"
        f"download: {{source: file, path: mine, pattern: '*.jsonl', license: CC0-1.0}}\n{rest}",
        encoding="utf-8",
    )
    put(tmp_path / "mine" / "a.jsonl", "가", "나")
    put(tmp_path / "mine" / "b.jsonl", "다")
    return tmp_path


def put(path: Path, *questions: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"instruction": question, "input": "", "output": "답"} for question in questions]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run(project: Path) -> str:
    """The stage in this process, in the directory that DVC would start it in; what it printed."""
    said = io.StringIO()
    with contextlib.chdir(project), contextlib.redirect_stdout(said):
        main()
    return said.getvalue()


def run_as_dvc_does(project: Path) -> subprocess.CompletedProcess[str]:
    """The stage in a process of its own; some seconds of imports more."""
    command, env = [sys.executable, "-m", "stages.download"], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300, check=False)


def raw(project: Path) -> list[tuple[str, str]]:
    lines = (project / "data/raw/rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [(record["source"], record["row"]["instruction"]) for record in map(json.loads, lines)]


def test_outs_order_and_record(project: Path, tiny_base: Path) -> None:
    put(project / "data/incoming/new.jsonl", "라")
    put(project / "data/incoming/.half.jsonl", "숨음")
    put(project / "data/incoming/half.jsonl.part", "반쪽")
    said = run(project)
    assert raw(project) == [
        ("a.jsonl:1", "가"),
        ("a.jsonl:2", "나"),
        ("b.jsonl:1", "다"),
        ("incoming/new.jsonl:1", "라"),
    ]
    dataset = json.loads((project / "data/raw/dataset.json").read_text(encoding="utf-8"))
    assert (dataset["rows"], dataset["license"], dataset["source"]) == (4, "CC0-1.0", "file")
    assert [file["rows"] for file in dataset["files"]] == [2, 1, 1]
    base = json.loads((project / "data/base.json").read_text(encoding="utf-8"))
    assert len(base["fingerprint"]) == 64
    assert "path" not in base
    assert "4 rows in data/raw/rows.jsonl" in said
    assert "licence MIT" in said

    put(project / "mine" / "a.jsonl", "새", "나", "가")
    before = (project / "data/first_seen.txt").read_text()
    run(project)
    assert [name for _, name in raw(project)] == ["가", "나", "다", "라", "새"]
    assert (project / "data/first_seen.txt").read_text().startswith(before)


def test_limit_takes_the_first_rows_of_the_main_source(project: Path) -> None:
    put(project / "data/incoming/new.jsonl", "라")
    recipe = project / "params.yaml"
    recipe.write_text(recipe.read_text().replace("license: CC0-1.0}", "license: CC0-1.0, limit: 1}"))
    run(project)
    assert [name for _, name in raw(project)] == ["가", "라"]


def test_notes_are_printed_and_recorded(project: Path) -> None:
    path = project / "mine" / "b.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "note: b.jsonl, line 1: a byte order mark" in run(project)
    dataset = json.loads((project / "data/raw/dataset.json").read_text(encoding="utf-8"))
    assert len(dataset["files"][1]["notes"]) == 1


def test_a_broken_file_stops_the_stage_and_leaves_the_old_outs(project: Path) -> None:
    run(project)
    put(project / "data/incoming/new.jsonl", "라")
    with (project / "data/incoming/new.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"instruction": "마')
    ended = threading.Event()

    def go_on_copying() -> None:
        while not ended.wait(0.2):
            os.utime(project / "data/incoming/new.jsonl")

    copier = threading.Thread(target=go_on_copying)
    copier.start()
    try:
        done = run_as_dvc_does(project)
    finally:
        ended.set()
        copier.join()
    assert done.returncode == 1
    assert "new.jsonl, line 2: the file ends in the middle of this line" in done.stderr
    assert "may still be being copied" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(raw(project)) == 3


def test_columns_that_nobody_has_stop_the_stage(project: Path) -> None:
    recipe = project / "params.yaml"
    recipe.write_text(recipe.read_text().replace("license: CC0-1.0}", "columns: {output: 대답}}"))
    sentence = "download.columns.output is '대답', which no row has; columns found: instruction, input"
    with pytest.raises(UserError, match=sentence):
        run(project)
