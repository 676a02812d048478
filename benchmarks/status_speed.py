"""How long `medtune status` takes beside a registry of many versions, imports included.

    python benchmarks/status_speed.py [--versions 1000] [--times 7]

Builds a checkout in a temporary folder: MLflow's own SQLite store with a pair of registered models, the first version
of each registered by MLflow's client and the others copied from it by SQL on MLflow's tables, tags and all; the
ledger's events of every version through the ledger itself, with findings of some 10 kB each. Then runs
`python -m medtune.cli status` as cold processes whose files are in the page cache, and beside it `import mlflow` alone.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL, ADAPTER = "medgpt-ko", "medgpt-ko-adapter"
GOAL = 1.5  # seconds, median
STATUS, MLFLOW = "medtune status", "import mlflow"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def findings(size: int = 10_000) -> list[dict]:
    """What the gate writes of a version, of about `size` characters as JSON."""
    one = {
        "figure": "evaluate.safety.red_flags.adapter.must_escalate", "value": 0.98, "bound": "at least 0.9",
        "passed": True, "blocks": True, "outcome": "passed", "low": 0.95, "high": 0.99,
        "sentence": "red_flags: evaluate.safety.red_flags.adapter.must_escalate is 49 of 50 (98.0%), as asked",
        "details": {"passed": 49, "of": 50, "level": 0.05, "method": "exact one-sided bounds (Clopper-Pearson)"},
    }  # fmt: skip
    count = max(1, size // len(json.dumps(one)))
    return [{"name": f"check_{number}", **one} for number in range(count)]


def numbers_of(version: int) -> dict:
    return {"merged": version, "adapter": version}


def fill_mlflow(root: Path, versions: int) -> None:
    """One version through MLflow's client, the rest copied from its rows."""
    from medtune.tracking.store import connect, open_store

    uri = open_store(root)
    client = connect(uri)
    run = client.create_run(client.create_experiment("medtune"))
    tags = {f"medtune.tag{number}": digest(f"{number}") for number in range(20)}
    tags |= {"medtune.findings": json.dumps(findings()), "medtune.version": digest("version 1")}
    for model in (ADAPTER, MODEL):
        client.create_registered_model(model)
        client.create_model_version(model, str(root / "files"), run.info.run_id, tags=tags, description="d" * 4000)
    with sqlite3.connect(root / "mlruns/mlflow.db") as database:
        for table in ("model_versions", "model_version_tags"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            copied = ", ".join("n" if column == "version" else column for column in columns)
            database.execute(
                f"WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < {versions}) "
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {copied} FROM {table}, numbers WHERE version = 1"
            )
        database.executemany(
            "UPDATE model_version_tags SET value = ? WHERE key = 'medtune.version' AND version = ?",
            [(digest(f"version {number}"), number) for number in range(1, versions + 1)],
        )
    found = client.get_model_version(MODEL, str(versions))
    assert found.tags["medtune.version"] == digest(f"version {versions}"), "MLflow does not read the copied rows"
    for model in (ADAPTER, MODEL):
        client.set_registered_model_alias(model, "challenger", str(versions))
        client.set_registered_model_alias(model, "champion", str(champion_of(versions)))


def champion_of(versions: int) -> int:
    """The gate approves every third version, and each becomes champion."""
    return max(number for number in range(1, versions + 1) if number % 3 == 1)


def fill_ledger(root: Path, versions: int) -> None:
    from medtune.registry.ledger import open_ledger

    ledger, champion, judged = open_ledger(root), None, findings()
    test = digest("test")
    for number in range(1, versions + 1):
        version = digest(f"version {number}")
        body = {
            "numbers": numbers_of(number), "adapter_model": ADAPTER, "run_id": digest(f"run {number}")[:32],
            "candidate": digest(f"candidate {number}"), "parent": None, "signed_by": None, "files": "local",
            "base": {"id": "tiny", "revision": "1", "license": "Apache-2.0", "fingerprint": digest("base")},
            "dataset": {"id": "sample", "revision": "1", "license": "CC0-1.0"}, "git": {},
            **{name: digest(f"{name} {number}") for name in ("manifest", "content", "data", "tokens", "evaluation")},
            "test": test, "rows": digest(f"rows {number}"),
        }  # fmt: skip
        ledger.append("registered", MODEL, version, body)
        if number <= 20:
            look = {"key": digest(f"look {number}"), "test": test, "champion": champion, "alpha": 0.0025}
            ledger.append("looked", MODEL, version, look)
        outcome = "approved" if number % 3 == 1 else "rejected"
        reasons = [finding["sentence"] for finding in judged]
        decided = {"key": digest(f"key {number}"), "against": champion, "reasons": reasons, "findings": judged}
        decision = ledger.append(outcome, MODEL, version, decided | {"test": test, "run_id": body["run_id"]})
        if outcome == "approved":
            promoted = {"expects": champion, "number": number, "policy": "auto", "by": "the gate", "override": False}
            ledger.append("promoted", MODEL, version, promoted | {"reason": "approved", "approval": decision.seq})
            champion = version
    assert ledger.verify() > 2 * versions


def build(root: Path, versions: int) -> None:
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    fill_mlflow(root, versions)
    fill_ledger(root, versions)
    reports = root / "reports"
    reports.mkdir()
    (reports / "tokenize.json").write_text(json.dumps({"test_digest": digest("test")}))
    (reports / "register.json").write_text(json.dumps({"version": digest(f"version {versions}")}))
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  register:\n    cmd: python -m stages.register\n")


def timed(commands: dict[str, list[str]], root: Path, times: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each command, in turns: what else the machine does meets all of them alike. And what each printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "MEDTUNE"))}
    environment["PYTHONPATH"] = str(ROOT)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    told = {}
    for _ in range(times + 1):  # the first fills the page cache
        for name, command in commands.items():
            started = time.perf_counter()
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
            seconds[name].append(time.perf_counter() - started)
            told[name] = done.stdout
    return {name: taken[1:] for name, taken in seconds.items()}, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="build the checkout here and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        if not (root / "dvc.lock").exists():
            root.mkdir(parents=True, exist_ok=True)
            build(root, arguments.versions)
        commands = {
            STATUS: [sys.executable, "-m", "medtune.cli", "status"],
            MLFLOW: [sys.executable, "-c", "import mlflow"],
            "python": [sys.executable, "-c", "pass"],
        }
        seconds, printed = timed(commands, root, arguments.times)
        size = (root / "mlruns/mlflow.db").stat().st_size / 2**20
    told = printed[STATUS]
    assert f"{MODEL} version {arguments.versions}" in told, told
    assert f"champion: {MODEL} version {champion_of(arguments.versions)}" in told, told
    machine = f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), Python {platform.python_version()}"
    print(f"{arguments.versions} versions, database {size:.0f} MiB, {machine}")
    for name, taken in seconds.items():
        middle, most, least = statistics.median(taken), max(taken), min(taken)
        print(f"{name:15} median {middle:5.2f} s   max {most:5.2f} s   min {least:5.2f} s   of {len(taken)}")
    median = statistics.median(seconds[STATUS])
    print(f"goal: median under {GOAL} s: {'met' if median < GOAL else 'MISSED'}")
    print(f"ratio to `import mlflow`: {median / statistics.median(seconds[MLFLOW]):.2f}")


if __name__ == "__main__":
    main()
