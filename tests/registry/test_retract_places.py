"""Retraction through the whole: the checkout's data, DVC's old versions, the command, a version really registered."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from registry.retraction import MODEL, OTHER, ROW, THIRD, Project, touched
from typer.testing import CliRunner

from medtune.corpus.retracted import RETRACTED
from medtune.params.errors import RegistryError
from medtune.params.recipe import load_recipe
from medtune.registry.ledger import open_ledger
from medtune.registry.retract import retract
from medtune.registry.retracted_rows import list_retracted
from medtune.registry.standing import resolve
from tests.registry_checkout import QUESTIONS
from tests.stages.test_validate import good, lay, lines, run


def test_the_checkouts_own_data_is_looked_into_and_the_next_data_version_is_without(project: Project):
    from datasets import Dataset

    rows = [*good(60), good(1)[0]]
    near = rows[0] | {"output": rows[0]["output"] + " 네."}
    lay(project.root, [*rows, near, {"instruction": "배가 아파요. 왜죠?", "input": "", "output": "네"}])
    assert run(project.root).returncode == 0
    valid = lines(project.root / "data/valid/rows.jsonl")
    row, split = valid[0]["row_id"], valid[0]["split"]
    assert valid[-1]["cluster"] == valid[0]["cluster"]
    Dataset.from_dict({"row_id": [row], "chars": [3]}).save_to_disk(project.root / "data/tokens" / split)
    before = hashlib.sha256((project.root / "data/valid/rows.jsonl").read_bytes()).hexdigest()

    done = project.retract(row[:8])
    assert [(place.key, place.splits, place.note) for place in done.rows[0].places if place.kind == "checkout"] == [
        ("data/raw/rows.jsonl", (), "rows.jsonl:1"),
        ("data/raw/rows.jsonl", (), "rows.jsonl:61"),
        ("data/valid/rows.jsonl", (split,), ""),
        ("data/valid/quarantine.jsonl", (), "rows.jsonl:61"),
        ("data/tokens", (split,), ""),
    ]
    assert done.rows[0].data == [before]
    assert done.rows[0].near == [valid[-1]["row_id"]]
    assert "near-duplicates of it that stay (1): " in done.text()
    assert done.request.body["without"] == [row]
    for said in (done.text(), json.dumps(done.record()), (project.root / RETRACTED).read_text()):
        assert rows[0]["output"] not in said

    assert run(project.root).returncode == 0
    after = lines(project.root / "data/valid/rows.jsonl")
    assert after == valid[1:]  # every other row on the side and in the cluster that it had
    again = project.retract(row)
    assert again.rows[0].new is False
    assert again.rows[0].data == []


def test_old_data_versions_of_git_are_looked_into(project: Project):
    """A real DVC repository with three data versions, of which the cache has lost one."""
    root = project.root
    graph = {
        "validate": {"cmd": "mkdir data/valid && cp source.jsonl data/valid/rows.jsonl", "deps": ["source.jsonl"],
                     "outs": ["data/valid"]},
        "tokenize": {"cmd": "echo done > tokens.txt", "deps": ["data/valid/rows.jsonl"], "outs": ["tokens.txt"]},
    }  # fmt: skip
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))
    (root / "data").mkdir()
    (root / ".gitignore").write_text("*.db*\nmlruns\n")

    def command(*words: str) -> None:
        done = subprocess.run(words, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    command("git", "init", "-q")
    command(sys.executable, "-m", "dvc", "init", "-q")
    digests, md5s = [], []
    for row in (ROW, THIRD, OTHER):
        line = json.dumps({"row_id": row, "cluster": row, "split": "test", "source": "a:1", "messages": []}) + "\n"
        (root / "source.jsonl").write_text(line)
        command(sys.executable, "-m", "dvc", "repro", "-q")
        command("git", "add", "-A")
        command("git", "-c", "user.name=a", "-c", "user.email=a@b.kr", "commit", "-qm", "data")
        digests.append(hashlib.sha256(line.encode()).hexdigest())
        md5s.append(hashlib.md5(line.encode()).hexdigest())
    (root / ".dvc/cache/files/md5" / md5s[1][:2] / md5s[1][2:]).unlink()
    old = project.register(1, rows=False, data=digests[0])
    done = project.retract(ROW)
    assert done.rows[0].data == [digests[0]]
    assert touched(done) == {1: (("test",), False)}  # by its data version alone
    assert done.rows[0].touched[0].standing.version == old
    assert done.unknown_data == [md5s[1]]
    assert f"data versions of dvc.lock's history that are not in DVC's cache (md5 {md5s[1][:12]})" in done.text()
    with pytest.raises(
        RegistryError, match=r"2 of 3 data versions of dvc\.lock's history, .*\(the other data versions"
    ):
        project.retract(THIRD)
    command(sys.executable, "-m", "dvc", "config", "cache.dir", "elsewhere")
    (root / ".dvc/cache").rename(root / "elsewhere")
    assert project.retract(ROW).rows[0].data == [digests[0]]


# --- the list and the command ---


def test_the_list_tells_what_is_blocked_and_where_a_row_is_missing(project: Project):
    assert list_retracted(project.root, None, MODEL) == []
    version = project.register(1, train=[ROW])
    project.retract(ROW)
    there = (project.root / RETRACTED).read_text()
    (project.root / RETRACTED).write_text(there.replace(ROW, OTHER))  # another checkout's file
    found = {row["row_id"]: row for row in list_retracted(project.root, project.ledger, MODEL)}
    assert found[ROW]["versions"] == [{"version": version, "number": 1}]
    assert (found[ROW]["in_ledger"], found[ROW]["in_file"]) == (True, False)
    assert (found[OTHER]["in_ledger"], found[OTHER]["in_file"], found[OTHER]["versions"]) == (False, True, [])


def test_the_command(project: Project, monkeypatch: pytest.MonkeyPatch):
    import typer

    from medtune.commands.retract import retract as command

    app = typer.Typer()
    app.command()(command)
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("MEDTUNE_ACTOR", "park")

    def medtune(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    project.register(1, train=[ROW, OTHER, THIRD])
    assert medtune("--list").strip() == "no row is retracted"
    Path("ids.txt").write_text(f"\ufeff# asked for on Monday\n{ROW[:10]}  # the first\n\n{OTHER}\n", encoding="utf-8")
    said = json.loads(medtune("--file", "ids.txt", THIRD, "--reason", "동의 철회", "--json"))
    assert [row["row_id"] for row in said["rows"]] == [THIRD, ROW, OTHER]
    assert said["by"] == "park"
    listed = medtune("--list")
    assert f"{ROW}  " in listed
    assert "by park: 동의 철회\n  blocks version 1 (" in listed
    assert "nothing was added" in medtune(ROW, "--reason", "again", "--by", "lee")
    for words, says in {
        (): "needs row ids",
        (ROW,): "needs --reason",
        ("--list", ROW): "takes no row ids",
        ("--file", "no.txt", "--reason", "x"): "no.txt is not there",
        ("--file", "two.txt", "--reason", "x"): "two.txt, line 1: one row id a line",
    }.items():
        Path("two.txt").write_text(f"{ROW} {OTHER}\n")
        with pytest.raises(Exception, match=says):
            medtune(*words)


def test_a_row_of_a_version_that_was_really_registered(crowned):
    """The registrar's own rows.json and events; the version was approved and is the champion."""
    (version,) = crowned.versions
    ledger = open_ledger(crowned.root)
    row = lines(crowned.root / "data/valid/rows.jsonl")[3]
    assert row["messages"][0]["content"] == QUESTIONS[3]
    recipe = load_recipe(crowned.root / "params.yaml")
    done = retract(crowned.root, recipe, ledger, [row["row_id"]], "taken back", "kim")
    assert [item.standing.version for item in done.rows[0].touched] == [version]
    assert touched(done) == {1: (("test",), False)}
    assert done.unknown == []
    assert done.champion is not None
    assert resolve(ledger, MODEL, "1").refusal() is not None
    assert QUESTIONS[3] not in json.dumps([event.body for event in ledger.events()], ensure_ascii=False)
