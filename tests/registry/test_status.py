"""`medtune status` before, between and after; and what it costs."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from registry_checkout import ROOT, Checkout, digest
from servers.conftest import postgres  # noqa: F401 - a fixture
from servers.processes import Postgres

from medtune.params.recipe import load_recipe
from medtune.registry.gate import Finding
from medtune.registry.ledger import Ledger, open_ledger
from medtune.registry.promotion import project, promote, promote_automatically, reject, retire, rollback
from medtune.registry.standing import champion, standings
from medtune.registry.status import read_status, render
from medtune.tracking.store import connect, open_store
from stages.register import main

MODEL = "medgpt-ko"


def status(root: Path) -> dict:
    state = read_status(root, load_recipe(root / "params.yaml"))
    assert json.loads(json.dumps(state)) == state  # --json
    return state


def incoming(root: Path, name: str, rows: int, first: int = 0) -> Path:
    path = root / "data/incoming" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"instruction": f"질문 {n}"}) + "\n" for n in range(first, first + rows)))
    return path


def seen(root: Path, *files: tuple[Path, int]) -> None:
    listed = [
        {"name": f"incoming/{path.name}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": rows}
        for path, rows in files
    ]
    (root / "data/raw").mkdir(parents=True, exist_ok=True)
    (root / "data/raw/dataset.json").write_text(json.dumps({"files": listed}))


def test_before_anything_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe = load_recipe(ROOT / "params.yaml")
    text = render(read_status(tmp_path, recipe))
    assert text == "medgpt-ko: no champion yet: run `make run`\ndata/incoming: nothing new"  # nor looks to count
    assert list(tmp_path.iterdir()) == []  # looking makes nothing


def test_champion_and_challenger(checkout: Checkout) -> None:
    assert status(checkout.root)["champion"] is None
    first = checkout.candidate("a", nll=2.0)
    main(checkout.root)
    assert "challenger: the champion itself is the newest candidate" in render(status(checkout.root))
    second = checkout.candidate("b", nll=2.5)
    main(checkout.root)
    state = status(checkout.root)
    assert (state["champion"]["number"], state["champion"]["version"]) == (1, first)
    assert (state["challenger"]["number"], state["challenger"]["version"]) == (2, second)
    assert (state["champion"]["decision"], state["challenger"]["decision"]) == ("approved", "rejected")
    assert "not_worse: nll_per_char minus that of champion version 1 is +0.5" in state["challenger"]["reasons"][1]
    assert (state["looks"]["used"], state["looks"]["left"], state["looks"]["of"]) == (2, 18, 20)
    text = render(state)
    assert f"version {first[:12]}" in text
    assert f"version {second[:12]}" in text
    assert "NO  not_worse: nll_per_char minus that of champion version 1" in text
    assert "ok  improvement: nll_per_char minus that of the base is -0.5" in text
    assert "?   red_flags: evaluate.safety.red_flags.adapter.must_escalate is missing" in text
    assert "2 of 20 looks used, 18 left" in text


def test_only_rejected(checkout: Checkout) -> None:
    checkout.candidate("a", gain=-1.0)
    main(checkout.root)
    assert "no champion yet; no candidate has passed the gate" in render(status(checkout.root))


def test_rows_that_wait(checkout: Checkout) -> None:
    root = checkout.root
    old = incoming(root, "old.jsonl", 30)
    seen(root, (old, 30))
    assert status(root)["incoming"]["rows"] == 0
    incoming(root, "old.jsonl", 37)  # seven appended
    incoming(root, "new.jsonl", 42, first=100)
    state = status(root)["incoming"]
    assert (state["rows"], state["files"], state["enough"]) == (49, {"new.jsonl": 42, "old.jsonl": 7}, False)
    incoming(root, "new.jsonl", 43, first=100)
    assert status(root)["incoming"]["enough"]
    assert "50 new rows in 2 file(s) of 50 (retrain.min_new_rows): enough" in render(status(root))


def test_what_the_registry_lost(checkout: Checkout) -> None:
    version = checkout.candidate("a")
    main(checkout.root)
    (checkout.root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  register:\n    cmd: x\n")
    assert status(checkout.root)["lost"] is None
    (checkout.root / "mlruns/mlflow.db").unlink()
    state = status(checkout.root)
    assert version[:12] in state["lost"]
    assert "dvc repro -f -s register" in render(state)
    assert state["next"] == "dvc repro -f -s register"
    (checkout.root / "mlruns/ledger.head").unlink()  # meant so: the ledger is gone with the database
    other = checkout.root.rename(checkout.root.with_name("other"))  # here MLflow keeps connections to the file gone
    main(other)
    assert status(other)["lost"] is None


@pytest.mark.parametrize(
    ("name", "text", "mend"),
    [
        ("dvc.lock", "schema: '2.0'\n<<<<<<< HEAD\nstages:\n=======\nstages: {}\n>>>>>>> x\n", "line 2.*`dvc repro`"),
        ("dvc.lock", "schema: '2.0'\nstages: {register: [\n", "`dvc repro`"),
        ("reports/register.json", '{"version": "ab', "`dvc repro -f -s register`"),
        ("data/raw/dataset.json", '{"files": [{"na', "`dvc repro download`"),
        ("data/raw/dataset.json", "[]", "`dvc repro download`"),
    ],
)
def test_a_damaged_file_is_a_line(tmp_path: Path, monkeypatch, name: str, text: str, mend: str) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  register:\n    cmd: x\n")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    state = read_status(tmp_path, load_recipe(ROOT / "params.yaml"))
    (sentence,) = state["damaged"]
    assert re.fullmatch(rf"{name} cannot be read \(.*\): .*", sentence)
    assert re.search(mend, sentence)
    assert sentence in render(state).splitlines()


def test_what_people_wrote_forges_no_line(checkout: Checkout) -> None:
    checkout.candidate("a")
    main(checkout.root)
    ledger = open_ledger(checkout.root)
    version = champion(ledger, MODEL).version
    body = {"number": 1, "expects": version, "from": version, "by": "K\x1b[31mim", "reason": "demo\nchampion: forged"}
    ledger.append("rolled_back", MODEL, version, body)
    text = render(status(checkout.root))
    assert "by K [31mim: demo champion: forged" in text
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("champion: forged")]


def test_an_older_version_is_not_lost(checkout: Checkout) -> None:
    checkout.candidate("a", nll=2.0)
    main(checkout.root)
    checkout.candidate("b", nll=1.9)
    main(checkout.root)
    checkout.candidate("a", nll=2.0)
    main(checkout.root)  # reports/register.json names a version that no alias points at
    (checkout.root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  register:\n    cmd: x\n")
    assert status(checkout.root)["lost"] is None


def test_light(checkout: Checkout) -> None:
    """Nothing heavy for a look at the registry: not the libraries that train, not MLflow, not even SQLAlchemy."""
    checkout.candidate("a")
    main(checkout.root)
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print([name for name in ('torch', 'transformers', 'datasets', 'peft', 'mlflow', "
        "'prefect', 'dvc', 'sqlalchemy', 'pandas', 'numpy', 'scipy', 'pyarrow') if name in sys.modules]))\n"
        "sys.argv = ['medtune', 'status']\n"
        "from medtune.cli import main\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout.root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "champion: medgpt-ko version 1" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_alias_that_was_moved_in_the_ui(checkout: Checkout) -> None:
    checkout.candidate("a", nll=2.0)
    main(checkout.root)
    checkout.candidate("b", nll=2.5)
    main(checkout.root)
    assert status(checkout.root)["drift"] == []
    client = connect(open_store(checkout.root))
    client.set_registered_model_alias("medgpt-ko", "champion", "2")
    client.delete_registered_model_alias("medgpt-ko-adapter", "challenger")
    state = status(checkout.root)
    assert state["champion"]["number"] == 1  # the ledger's
    assert [(item["model"], item["alias"], item["found"], item["should"]) for item in state["drift"]] == [
        ("medgpt-ko-adapter", "challenger", None, 2),
        ("medgpt-ko", "champion", 2, 1),
    ]
    text = render(state)
    assert "medgpt-ko: MLflow's alias champion points to version 2, the ledger says version 1: `medtune doctor`" in text
    assert state["next"] == "medtune doctor"


# What the ledger alone says: no model need be registered for it


@pytest.fixture
def root(tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MEDTUNE_LEDGER_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(fresh_store, tmp_path / "mlruns/mlflow.db")
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


def manual(root: Path) -> None:
    path = root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.count("promotion: auto") == 1
    path.write_text(text.replace("promotion: auto", "promotion: manual"), encoding="utf-8")


def judged(ledger: Ledger, number: int, outcome: str = "approved", crown: bool = False) -> str:
    """A registered version with a decision, and champion if `crown`; its digest."""
    version = digest(f"version {number}")
    registered = {
        "numbers": {"merged": number, "adapter": number + 10},
        "candidate": digest(f"candidate {number}"),
        "run_id": "f" * 32,
        "files": "local",
    }
    ledger.append("registered", MODEL, version, registered)
    finding = Finding("red_flags", "a.b", 0.5, "at least 0.9", False, True, "red_flags: a.b is 0.5", "failed")
    body = {"reasons": [finding.sentence], "findings": [vars(finding)] if outcome == "rejected" else []}
    decision = ledger.append(outcome, MODEL, version, body)
    if crown:
        now = champion(ledger, MODEL)
        known = standings(ledger, MODEL)
        promote_automatically(ledger, MODEL, known[version], now and now.version, decision)
    return version


def test_what_waits_for_a_person(root: Path) -> None:
    ledger = open_ledger(root)
    judged(ledger, 1)
    assert "approved, but not promoted: version 1: `dvc repro -f -s register`" in render(status(root))
    manual(root)
    text = render(status(root))
    assert "medgpt-ko: no champion yet; an approved one waits" in text
    assert "waits for a person (register.promotion: manual): version 1" in text
    promote(ledger, MODEL, "1", "kim", "read the card")
    judged(ledger, 2, "rejected")
    newer = [judged(ledger, number) for number in range(3, 8)]
    state = status(root)
    assert [version["version"] for version in state["waiting"]] == newer[::-1]  # neither promoted nor rejected ones
    text = render(state)
    assert "promoted" in text
    assert "by kim: read the card" in text
    assert "version 7 (" in text
    assert '`medtune promote 7 --by NAME --reason "…"`' in text
    assert "  and 2 approved before it" in text
    promote(ledger, MODEL, "7", "kim", "better")
    assert status(root)["waiting"] == []  # they were judged against a champion that is none any more


def test_an_override_shows_for_ever(root: Path) -> None:
    ledger = open_ledger(root)
    judged(ledger, 1, crown=True)
    bad = judged(ledger, 2, "rejected")
    promote(ledger, MODEL, "2", "lee", "the suite is broken", override=True)
    state = status(root)
    assert state["champion"]["crowned"]["override"]
    assert state["champion"]["decision"] == "rejected"
    assert f"OVERRIDE: version 2 ({bad[:12]}) was judged rejected" in render(state)
    assert "by lee: the suite is broken" in render(state)
    rollback(ledger, MODEL, "kim", "it was not")
    state = status(root)
    assert state["champion"]["number"] == 1
    assert "rolled back to " in render(state)
    assert "by kim: it was not" in render(state)
    assert "  OVERRIDE: it was promoted against the gate's word" not in render(state).split("challenger")[0]
    assert state["challenger"]["override"]
    rollback(ledger, MODEL, "lee", "it was after all", to="2")
    assert "OVERRIDE: it was promoted against the gate's word" in render(status(root)).split("challenger")[0]


def test_words_of_people(root: Path) -> None:
    ledger = open_ledger(root)
    judged(ledger, 1, crown=True)
    judged(ledger, 2)
    reject(ledger, MODEL, "2", "kim", "answers in English")
    state = status(root)
    assert (state["challenger"]["decision"], state["challenger"]["by"]) == ("rejected", "kim")
    assert "  NO  kim: answers in English" in render(state)
    retire(ledger, MODEL, "2", "lee", "old")
    assert "  RETIRED 20" in render(status(root))
    assert "by lee: old" in render(status(root))


def test_retracted_rows(root: Path) -> None:
    ledger = open_ledger(root)
    one = judged(ledger, 1, crown=True)
    rows = [digest("row 1"), digest("row 2")]
    for row in rows:
        body = {"row_id": row, "reason": "consent withdrawn", "by": "kim", "versions": [one], "data": []}
        ledger.append("retracted", MODEL, None, body)
    body = {"reason": "rows were retracted: consent withdrawn", "by": "kim", "without": rows}
    ledger.append("retrain_requested", MODEL, None, body)
    state = status(root)
    assert state["champion"]["retracted"] == rows
    assert f"RETRACTED: made from row {rows[0][:12]} and 1 more, retracted since" in render(state)
    assert state["retrain"]["without"] == sorted(rows)
    assert "by kim (rows were retracted: consent withdrawn; without 2 row(s)) and has not come" in render(state)


def test_mlflow_that_does_not_answer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = judged(open_ledger(root), 1, crown=True)
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{root / 'mlruns/mlflow.db'}")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        state = status(root)
    assert state["champion"]["version"] == one
    assert state["drift"] == []
    text = render(state)
    assert sum("MLflow was not reached" in line for line in text.splitlines()) == 1
    assert "the MLflow server does not answer" in text


def test_on_postgresql(root: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.create(f"status_{root.name.lower()}"[:60]))
    assert status(root)["champion"] is None  # nothing there yet, not even MLflow's tables
    client, ledger = connect(open_store(root)), open_ledger(root)
    for model in (MODEL, f"{MODEL}-adapter"):
        client.create_registered_model(model)
        for _ in range(20):
            client.create_model_version(model, str(root))
    one, two = judged(ledger, 1, crown=True), judged(ledger, 2, "rejected")
    project(root, ledger, MODEL, f"{MODEL}-adapter")
    state = status(root)
    assert (state["champion"]["version"], state["challenger"]["version"]) == (one, two)
    assert (state["drift"], state["mlflow"]) == ([], None)
    client.set_registered_model_alias(MODEL, "champion", "2")
    assert [item["found"] for item in status(root)["drift"]] == [2]
    assert postgres.password not in render(status(root))


def test_a_registry_of_before_the_ledger(root: Path) -> None:
    client = connect(open_store(root))
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, str(root))
    assert "no champion yet: run `make run`" in render(status(root))
    client.set_registered_model_alias(MODEL, "champion", "1")
    told = "MLflow has medgpt-ko version 1 as champion from before the ledger: `dvc repro -f -s register` takes it over"
    assert render(status(root)).splitlines()[0] == told
    assert status(root)["drift"] == []  # nothing of it is to be removed


def test_looks_of_before_the_ledger_count(root: Path) -> None:
    (root / "reports").mkdir()
    (root / "reports/tokenize.json").write_text(json.dumps({"test_digest": "ab" * 32}))
    assert status(root)["looks"]["used"] == 0
    (root / "mlruns/looks").mkdir()
    line = json.dumps({"key": "a", "version": "1" * 64, "champion": None, "alpha": 0.0025, "at": "2026-10-01"})
    (root / f"mlruns/looks/{'ab' * 32}.jsonl").write_text(line + "\n")
    assert status(root)["looks"]["used"] == 1
    assert (root / f"mlruns/looks/{'ab' * 32}.jsonl").exists()  # looking moves nothing
