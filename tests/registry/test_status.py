"""`medtune status` before, between and after; and what it costs."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from registry_checkout import ROOT, Checkout

from medtune.params.recipe import load_recipe
from medtune.registry.status import read_status, render
from stages.register import main


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
    main(checkout.root)
    assert status(checkout.root)["lost"] is None


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
    """Neither torch nor transformers for a look at the registry."""
    checkout.candidate("a")
    main(checkout.root)
    code = (
        "import sys; from pathlib import Path; from medtune.params.recipe import load_recipe\n"
        "from medtune.registry.status import read_status, render\n"
        "assert 'champion: medgpt-ko version 1' in render(read_status(Path('.'), load_recipe()))\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout.root, env=environment, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
