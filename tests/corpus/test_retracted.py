"""Rows that were taken back: the file that names them, and what sifting does with them and with all others."""

import json
import random
from pathlib import Path

import pytest

from medtune.corpus.data_docs import page
from medtune.corpus.expectations import judge, table
from medtune.corpus.retracted import RetractedRow, add_retracted, read_retracted
from medtune.corpus.sift import RETRACTED, Row, sift
from medtune.params.errors import CorpusError
from tests.corpus.test_sift import LIMITS, WAYS, bridge, distinct_rows, near, records, to_messages
from tests.stages.test_validate import good, lay, lines, run

ID, OTHER = "a" * 64, "b" * 64
WHEN = "2026-11-23T01:00:00+00:00"


def line(row_id: str = ID, **changed: object) -> str:
    return json.dumps({"row_id": row_id, "reason": "consent withdrawn", "by": "kim", "at": WHEN} | changed) + "\n"


# --- the file ---


def test_no_file_and_an_empty_one_retract_nothing(tmp_path: Path) -> None:
    assert read_retracted(tmp_path / "retracted.jsonl") == {}
    (tmp_path / "retracted.jsonl").touch()
    assert read_retracted(tmp_path / "retracted.jsonl") == {}


def test_what_is_added_is_read_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "retracted.jsonl"
    one, other = (RetractedRow(row_id, "동의 철회", "kim", WHEN) for row_id in (ID, OTHER))
    assert add_retracted(path, [other]) == [OTHER]
    assert add_retracted(path, [one, other, one]) == [ID]
    before = path.stat().st_mtime_ns
    assert add_retracted(path, [one, other]) == []
    assert path.stat().st_mtime_ns == before  # not written: DVC and git see no change
    assert list(read_retracted(path).values()) == [other, one]
    assert [path.name for path in tmp_path.iterdir()] == ["retracted.jsonl"]


def test_of_two_lines_for_one_row_the_first_stands(tmp_path: Path) -> None:
    path = tmp_path / "retracted.jsonl"
    path.write_text(line() + "\n" + line(reason="another branch"))
    assert read_retracted(path)[ID].reason == "consent withdrawn"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("<<<<<<< HEAD\n", "'<<<<<<< HEAD' is not JSON (a merge conflict?)"),
        (line()[:30], "is not JSON"),
        ("[]\n", "row_id, reason, by and at, and nothing else"),
        (line(text="머리가 아파요"), "row_id, reason, by and at, and nothing else"),
        (line(by=None), "row_id, reason, by and at"),
        (line(ID[:63]), "is not 64 hex digits"),
        (line(ID.upper()), "is not 64 hex digits"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, broken: str, says: str) -> None:
    path = tmp_path / "retracted.jsonl"
    path.write_text(line() + broken)
    with pytest.raises(CorpusError) as raised:
        read_retracted(path)
    assert f"{path}, line 2: " in str(raised.value)
    assert says in str(raised.value)
    with pytest.raises(CorpusError):
        add_retracted(path, [])  # nor is it written over


# --- sifting ---


def place(row: Row) -> tuple:
    return row.cluster, row.split, tuple(row.reasons.items())


@pytest.mark.parametrize("seed", range(5))
def test_whoever_is_retracted_all_others_stay_where_they_are(seed: int) -> None:
    """Repeats, bad rows, near-duplicates and bridges among them; first rows of clusters among the retracted."""
    chance = random.Random(seed)
    rows = distinct_rows(80, seed)
    rows += [near(chance.choice(rows), chance.choice(WAYS)) for _ in range(60)] + bridge()
    rows += [chance.choice(rows) for _ in range(10)] + [{"instruction": "짧다", "output": "네"}] * 3
    chance.shuffle(rows)
    before = {row.source: row for row in sift(records(rows), LIMITS, to_messages).rows}
    heads = {row.id for row in before.values() if row.good and row.id == row.cluster}
    assert any(row.near_duplicate and row.cluster in heads for row in before.values())
    for chosen in ({row_id} for row_id in chance.sample(sorted(heads), 5)):
        after = sift(records(rows), LIMITS, to_messages, dict.fromkeys(chosen, "consent withdrawn"))
        gone = {row.source for row in before.values() if row.id in chosen}
        assert gone
        assert {row.source for row in after.rows if row.retracted} == gone
        assert {r.source: place(r) for r in after.rows if r.source not in gone} == {
            source: place(row) for source, row in before.items() if source not in gone
        }


def test_the_near_duplicate_of_a_retracted_row_keeps_its_side_where_it_alone_would_change_it() -> None:
    """Without the first row the cluster would be called by the second: among so many some go to the other side."""
    firsts = distinct_rows(60)
    rows = [*firsts, *(near(row, "네.") for row in firsts)]
    before = sift(records(rows), LIMITS, to_messages)
    ids = dict.fromkeys((row.id for row in before.rows[:60]), "taken back")
    after = sift(records(rows), LIMITS, to_messages, ids)
    without = sift(records(rows)[60:], LIMITS, to_messages)
    assert [row.split for row in after.good] == [row.split for row in before.rows[60:]]
    assert [row.split for row in without.good] != [row.split for row in after.good]
    assert after.clusters == before.clusters == 60


def test_every_copy_of_a_retracted_row_goes_and_none_is_copied_to_the_quarantine() -> None:
    one, other = distinct_rows(2)
    spaced = {"instruction": f"  {one['instruction']} ", "output": one["output"].replace(" ", "  ")}
    row_id = sift(records([one]), LIMITS, to_messages).good[0].id
    sifted = sift(records([one, other, spaced]), LIMITS, to_messages, {row_id: "asked for by 010-1234-5678"})
    assert [row.source for row in sifted.good] == ["rows.jsonl:2"]
    assert sifted.reasons() == {RETRACTED: 2}
    assert sifted.worst() == []  # there is nothing to mend
    assert sifted.clusters == 1
    assert [row.quarantined() for row in sifted.bad] == [
        {
            "source": source,
            "row_id": row_id,
            "reasons": ["retracted: asked for by ***-****-****"],
            "row": None,
        }
        for source in ("rows.jsonl:1", "rows.jsonl:3")
    ]


def test_retracted_rows_do_not_count_to_the_share_that_may_be_set_aside() -> None:
    strict = LIMITS.model_copy(update={"max_quarantine_share": 0.0, "min_rows": 20})
    rows = distinct_rows(60)
    ids = [row.id for row in sift(records(rows), strict, to_messages).good[:30]]
    sifted = sift(records(rows), strict, to_messages, dict.fromkeys(ids, "taken back"))
    verdict = judge(table(sifted), strict)
    assert verdict.passed, verdict.failures
    text = page(sifted, verdict, strict, "d" * 64)
    assert "to which the 30 that were retracted do not count" in text
    assert rows[0]["instruction"] not in text
    # but too few rows to learn from are too few
    assert not judge(table(sifted), strict.model_copy(update={"min_rows": 31})).passed


# --- the stage ---


def test_the_stage_leaves_the_row_out_and_says_so(tmp_path: Path) -> None:
    lay(tmp_path, [*good(60), good(1)[0]])
    assert run(tmp_path).returncode == 0
    before = lines(tmp_path / "data/valid/rows.jsonl")
    digest = json.loads((tmp_path / "reports/validate.json").read_text())["data_digest"]
    (tmp_path / "data/retracted.jsonl").write_text(line(before[0]["row_id"]) + line(OTHER))
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "data/valid/rows.jsonl") == before[1:]
    report = json.loads((tmp_path / "reports/validate.json").read_text())
    assert (report["rows_out"], report["quarantined"], report["retracted"]) == (59, 2, 2)
    assert report["reasons"] == {"retracted": 2}
    assert report["data_digest"] != digest
    assert f"1 of the ids in data/retracted.jsonl are of no row that came in, such as {OTHER[:12]}" in done.stdout
    aside = lines(tmp_path / "data/valid/quarantine.jsonl")
    assert [(item["row_id"], item["row"]) for item in aside] == [(before[0]["row_id"], None)] * 2
    assert aside[0]["reasons"] == ["retracted: consent withdrawn (by kim, 2026-11-23)"]
    told = done.stdout + (tmp_path / "reports/data_docs/index.html").read_text()
    assert good(1)[0]["instruction"] not in told


def test_the_stage_stops_at_a_broken_line(tmp_path: Path) -> None:
    lay(tmp_path, good(60))
    (tmp_path / "data/retracted.jsonl").write_text("=======\n")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "data/retracted.jsonl, line 1: '=======' is not JSON" in done.stderr
