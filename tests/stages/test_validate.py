"""The validate stage on a directory as download leaves it: params.yaml and data/raw in, every out and sentence seen."""

import contextlib
import hashlib
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from ruamel.yaml import YAML

from medtune.params.errors import UserError
from stages.validate import main

ROOT = Path(__file__).resolve().parents[2]
_WORDS = """
두통 복통 기침 발열 설사 변비 구토 요통 치통 불면 갑자기 천천히 밤마다 아침에 식후에
누우면 자주 가끔
"""
WORDS = _WORDS.split()
LEAKED = {"instruction": "배가 아파요. 왜죠?", "input": "", "output": "언제부터 아프셨나요? 환자분: 어제부터요."}
PRIVATE = {"instruction": "배가 아파요. 010-1234-5678", "input": "", "output": "따뜻한 물을 드시고 푹 쉬세요."}
EMPTY = {"instruction": "배가 아파요. 왜죠?", "input": "", "output": ""}


def good(count: int) -> list[dict]:
    chance = random.Random(0)
    return [
        {
            "instruction": f"{n}번 {' '.join(chance.choices(WORDS, k=8))}",
            "input": "",
            "output": " ".join(chance.choices(WORDS, k=12)),
        }
        for n in range(count)
    ]


def lay(
    root: Path, rows: list[dict], download: dict | None = None, claimed: int | None = None, **limits: object
) -> None:
    """What the download stage would have left, and the recipe."""
    yaml = YAML()
    recipe = yaml.load(ROOT / "params.yaml")
    recipe["validate"] |= {"min_rows": 20, "max_rows": 1000} | limits
    recipe["download"] |= download or {}
    if recipe["download"]["format"] == "text":
        recipe["tokenize"]["template"] = "text"
    yaml.dump(recipe, root / "params.yaml")
    raw = root / "data/raw"
    raw.mkdir(parents=True, exist_ok=True)
    with (raw / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows, 1):
            file.write(json.dumps({"source": f"rows.jsonl:{number}", "row": row}) + "\n")
    files = [{"name": "rows.jsonl", "notes": ["rows.jsonl begins with a byte order mark; it was left out"]}]
    (raw / "dataset.json").write_text(json.dumps({"rows": len(rows) if claimed is None else claimed, "files": files}))


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(root: Path) -> Done:
    """The stage in this process: main() with the directory that DVC would start it in."""
    said = io.StringIO()
    with contextlib.chdir(root), contextlib.redirect_stdout(said):
        try:
            main()
        except UserError as error:
            return Done(1, said.getvalue(), str(error))
    return Done(0, said.getvalue(), "")


def run_as_dvc_does(root: Path) -> Done:
    """The stage in a process of its own; some seconds of imports more."""
    command, path = [sys.executable, "-m", "stages.validate"], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=root, env=path, capture_output=True, text=True, timeout=300)
    return Done(done.returncode, done.stdout, done.stderr)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_in_are_rows_out_and_quarantined(tmp_path: Path) -> None:
    rows = [*good(60), LEAKED, PRIVATE, EMPTY, good(1)[0]]
    lay(tmp_path, rows, max_quarantine_share=0.1)
    done = run_as_dvc_does(tmp_path)
    assert done.returncode == 0, done.stderr
    kept, aside = (lines(tmp_path / "data/valid" / name) for name in ("rows.jsonl", "quarantine.jsonl"))
    assert len(kept) == 60
    assert [line["source"] for line in kept] == [f"rows.jsonl:{n}" for n in range(1, 61)]
    assert set(kept[0]) == {"row_id", "cluster", "split", "source", "messages"}
    assert [(line["source"], line["row"], len(line["reasons"])) for line in aside] == [
        (f"rows.jsonl:{n}", row, 1) for n, row in enumerate(rows[60:], 61)
    ]
    report = json.loads((tmp_path / "reports/validate.json").read_text())
    assert (report["rows_in"], report["rows_out"], report["quarantined"]) == (64, 60, 4)
    assert report["reasons"] == {"leaked_turn": 1, "personal_data": 1, "unreadable": 1, "duplicate": 1}
    assert sum(report["splits"].values()) == report["clusters"] == 60
    assert report["data_digest"] == hashlib.sha256((tmp_path / "data/valid/rows.jsonl").read_bytes()).hexdigest()
    assert report["notes"] == ["rows.jsonl begins with a byte order mark; it was left out"]
    assert len(report["checks"]) >= 11
    assert "64 rows in = 60 good + 4 set aside" in done.stdout
    assert "byte order mark" in done.stdout
    assert (tmp_path / "reports/data_docs/index.html").read_text().startswith("<!doctype html>")
    assert not list(tmp_path.rglob(".*.part"))
    assert "1234" not in done.stdout + (tmp_path / "reports/validate.json").read_text()


def test_past_the_share_it_stops_shows_the_worst_and_leaves_the_quarantine(tmp_path: Path) -> None:
    bad = [LEAKED | {"instruction": f"{n}번째로 배가 아파요."} for n in range(12)]
    bad[7] |= {"output": f"{LEAKED['output']} <s> 010-1234-5678"}
    lay(tmp_path, [*good(60), *bad])
    done = run_as_dvc_does(tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "5.0% may be set aside: no, 12 of 72 rows break it" in done.stderr
    assert "raise validate.max_quarantine_share" in done.stderr
    assert "data/valid/quarantine.jsonl" in done.stderr
    shown = [line for line in done.stderr.splitlines() if line.startswith("  rows.jsonl:")]
    assert len(shown) == 10
    assert shown[0].startswith("  rows.jsonl:68: ")  # three reasons: the worst
    assert "1234" not in done.stderr + done.stdout
    assert len(lines(tmp_path / "data/valid/quarantine.jsonl")) == 12
    assert "stopped" in (tmp_path / "reports/data_docs/index.html").read_text()


def test_no_rows_stop_it_with_a_sentence(tmp_path: Path) -> None:
    lay(tmp_path, [])
    done = run(tmp_path)
    assert done.returncode == 1
    assert "there is not one row to validate" in done.stderr


@pytest.mark.parametrize(
    ("limits", "says"), [({"min_rows": 61}, "At least 61 rows"), ({"max_rows": 59}, "20 and 59 rows")]
)
def test_floor_and_ceiling_of_rows(tmp_path: Path, limits: dict, says: str) -> None:
    lay(tmp_path, good(60), **limits)
    done = run(tmp_path)
    assert done.returncode == 1
    assert says in done.stderr


def test_rows_that_got_lost_on_the_way_are_missed(tmp_path: Path) -> None:
    lay(tmp_path, good(60), claimed=61)
    done = run(tmp_path)
    assert done.returncode == 1
    assert "data/raw/dataset.json says 61 rows, data/raw/rows.jsonl holds 60" in done.stderr


def test_a_broken_raw_file_is_named_with_its_line(tmp_path: Path) -> None:
    lay(tmp_path, good(30))
    with (tmp_path / "data/raw/rows.jsonl").open("a") as file:
        file.write('{"source": "rows.jsonl:31", "ro')
    done = run(tmp_path)
    assert done.returncode == 1
    assert "data/raw/rows.jsonl, line 31: not JSON" in done.stderr


def test_without_the_download_it_says_what_to_run(tmp_path: Path) -> None:
    lay(tmp_path, good(30))
    (tmp_path / "data/raw/rows.jsonl").unlink()
    done = run(tmp_path)
    assert done.returncode == 1
    assert "run `dvc repro`" in done.stderr


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    lay(tmp_path, [*good(60), LEAKED])
    outs = []
    for _ in range(2):
        assert run(tmp_path).returncode == 0
        files = sorted(path for part in ("data/valid", "reports") for path in (tmp_path / part).rglob("*.*"))
        outs.append({path: path.read_bytes() for path in files})
    assert outs[0] == outs[1]


def test_half_a_surrogate_pair_is_set_aside_and_written(tmp_path: Path) -> None:
    """Legal in JSON as an escape, impossible in UTF-8: it must reach the quarantine, not end the stage."""
    broken = {"instruction": "배가 아파요 \ud83d", "input": "", "output": "따뜻한 물을 드시고 푹 쉬세요."}
    lay(tmp_path, [*good(60), broken])
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    (aside,) = lines(tmp_path / "data/valid/quarantine.jsonl")
    assert aside["row"] == broken
    assert "U+D83D" in aside["reasons"][0]


def test_plain_text_rows(tmp_path: Path) -> None:
    rows = [{"본문": row["output"]} for row in good(60)]
    lay(tmp_path, rows, download={"format": "text", "columns": {"text": "본문"}})
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert {len(line["messages"]) for line in lines(tmp_path / "data/valid/rows.jsonl")} == {1}


def test_the_sample_passes_as_it_ships(tmp_path: Path) -> None:
    """On the committed corpus and the committed recipe: nothing may be set aside."""
    rows = lines(ROOT / "data/sample/dialogues.jsonl")
    lay(tmp_path, rows, min_rows=300)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "reports/validate.json").read_text())
    assert (report["quarantined"], report["near_duplicates"]) == (0, 0), (report["reasons"], done.stdout)
    assert min(report["splits"].values()) >= 15
