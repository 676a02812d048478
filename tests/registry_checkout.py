"""Fixtures: a checkout whose pipeline has run up to register: reports, a tiny merged model, its adapter, rows, scores.

Imported by tests/registry/conftest.py and tests/stages/test_register.py.
"""

import hashlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from medtune.corpus.rows import row_id
from medtune.corpus.tokens import rows_digest
from medtune.tracking.store import open_store

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("머리가", "목이", "배가", "허리가", "무릎이", "어깨가", "손목이", "발목이")
QUESTIONS = tuple(f"{place} {since} 아파요." for place in PLACES for since in ("어제부터", "아침부터", "한 달째"))
ANSWER = "물을 드시고 쉬세요."


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Checkout:
    """A project root. `candidate(...)` puts another candidate's outputs into it, as the stages would."""

    root: Path
    tiny_adapter: Path
    tiny_base: Path
    versions: list[str] = field(default_factory=list)  # for a fixture that registers several

    def candidate(
        self,
        name: str,
        nll: float = 2.0,
        questions: tuple[str, ...] = QUESTIONS,
        gain: float = 0.5,
        spread: float = 0.02,
        **evaluate: Any,
    ) -> str:
        """Write all outs of a candidate called `name`. Its version.

        Test rows score about `nll` nats a character, and about `gain` more with the base; rows differ by `spread`.
        """
        rows = [_row(question) for question in questions]
        version = digest(f"version {name}")
        _write(self.root / "data/valid/rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self._models(name, version)
        self._reports(name, version, nll, [row["row_id"] for row in rows], evaluate)
        self._scores(name, nll, gain, spread, rows)
        return version

    def params(self, old: str, new: str) -> None:
        text = (self.root / "params.yaml").read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        _write(self.root / "params.yaml", text.replace(old, new))

    def _models(self, name: str, version: str) -> None:
        sidecar = json.dumps(
            {
                "candidate": digest(name),
                "version": version,
                "template": "chat",
                "system": None,
                "identity": {"tokens": digest("tokens")},
            }
        )
        for out, source in (("adapter", self.tiny_adapter), ("merged", self.tiny_base)):
            folder = self.root / "data" / out
            shutil.rmtree(folder, ignore_errors=True)  # as DVC does before it runs a stage
            shutil.copytree(source, folder)
            _write(folder / "medtune.json", sidecar)
        history = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3, "grad_norm": 1.0} for step in (1, 2)]
        history.append({"step": 2, "eval_loss": 2.5})
        _write(self.root / "data/adapter/history.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        _write(self.root / "data/merged/certificate.json", json.dumps({"kl_mean": 1e-6}))

    def _reports(self, name: str, version: str, nll: float, ids: list[str], evaluate: dict[str, Any]) -> None:
        scores = {"nll_per_char": nll, "bits_per_char": nll * 1.44, "eos_after_reference": 1.0, "loop_share": 0.0}
        gain = {"mean": -0.5, "low": -0.6, "high": -0.4, "confidence": 0.95, "method": "paired bootstrap over clusters"}
        reports = {
            "validate": {"rows_in": 300, "rows_out": 298, "data_digest": digest("data"), "splits": {"train": 240}},
            "tokenize": {
                "tokens_digest": digest("tokens"),
                "test_digest": rows_digest(ids),
                "max_length": 256,
                "splits": {"train": {"rows": 240}},
            },
            "train": {"candidate": digest(name), "steps": 2, "train_loss": 1.5, "validation_loss": 2.5},
            "merge": {
                "version": version,
                "candidate": digest(name),
                "into": "dequantised",
                "kl_mean": 1e-6,
                "top1_agreement": 1.0,
            },
            "evaluate": {
                "candidate": digest(name),
                "version": version,
                "test_digest": rows_digest(ids),
                "rows": len(ids),
                "base": {**scores, "nll_per_char": nll + 0.5},
                "adapter": scores,
                "merged": scores,
                "adapter_minus_base": gain,
                **evaluate,
            },
        }
        for stage, report in reports.items():
            _write(self.root / f"reports/{stage}.json", json.dumps(report))
        base = {"source": "path", "id": "tiny", "revision": "1", "license": "Apache-2.0", "fingerprint": digest("base")}
        _write(self.root / "data/base.json", json.dumps(base))
        dataset = {"source": "sample", "id": "medtune-sample", "revision": "v1", "license": "CC0-1.0", "files": []}
        _write(self.root / "data/raw/dataset.json", json.dumps(dataset))

    def _scores(self, name: str, nll: float, gain: float, spread: float, rows: list[dict]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = [
            {
                "model": model,
                "row_id": row["row_id"],
                "cluster": row["cluster"],
                "nll": (mean + spread * _noise(f"{who} {row['row_id']}")) * len(ANSWER),
                "tokens": 20,
                "chars": len(ANSWER),
                "eos_after_reference": True,
            }
            for model, mean, who in (("base", nll + gain, "base"), ("adapter", nll, name), ("merged", nll, name))
            for row in rows
        ]
        (self.root / "reports/evaluate").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(table), self.root / "reports/evaluate/rows.parquet")


def _noise(key: str) -> float:
    """Between -1.7 and 1.7, evenly, always the same for a key: a standard deviation of 1."""
    return (int(digest(key)[:8], 16) / 2**32 - 0.5) * 12**0.5


def _row(question: str) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}]
    identity = row_id(messages)
    return {"row_id": identity, "cluster": identity, "split": "test", "source": "a:1", "messages": messages}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # never in place: kept versions share the bytes
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that peft saved for the tiny base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("tiny") / "adapter"
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(path)
    (path / "README.md").unlink(missing_ok=True)
    return path


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One initialised database for all tests to copy: MLflow's migrations take seconds."""
    shared = tmp_path_factory.getbasetemp()
    with FileLock(shared / "store.lock"):
        open_store(shared / "store")
    return shared / "store/mlruns/mlflow.db"


@pytest.fixture
def make_checkout(
    tmp_path: Path, tiny_base: Path, tiny_adapter: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Checkout]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(name: str = "checkout") -> Checkout:
        return made(tmp_path / name, tiny_base, tiny_adapter, fresh_store)

    return make


def made(root: Path, tiny_base: Path, tiny_adapter: Path, fresh_store: Path) -> Checkout:
    (root / "mlruns").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    shutil.copy(fresh_store, root / "mlruns/mlflow.db")
    return Checkout(root, tiny_adapter, tiny_base)


@pytest.fixture
def checkout(make_checkout: Callable[[str], Checkout]) -> Checkout:
    return make_checkout("checkout")


# where MLflow keeps addresses of files: table, column
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def copied(checkout: Checkout, root: Path) -> Checkout:
    """A checkout that nobody can tell from one made at `root`: for tests to write to, in a tenth of the time.

    Files that share their bytes within it (a version and data/) do so in the copy, and with nobody else.
    """
    subprocess.run(["cp", "-a", checkout.root, root], check=True)
    with closing(sqlite3.connect(root / "mlruns/mlflow.db")) as database, database:
        for table, column in ADDRESSES:
            old, new = (f"{place.resolve()}/" for place in (checkout.root, root))
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))
    return replace(checkout, root=root, versions=[*checkout.versions])


@pytest.fixture(scope="session")
def champion_template(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_adapter: Path, fresh_store: Path
) -> Checkout:
    """Registered once for all tests: candidate `a`, which is the champion. Nobody writes to it."""
    from stages.register import main

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        checkout = made(tmp_path_factory.mktemp("champion") / "checkout", tiny_base, tiny_adapter, fresh_store)
        checkout.versions.append(checkout.candidate("a"))
        main(checkout.root)
    return checkout


@pytest.fixture
def make_crowned(
    champion_template: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Checkout]:
    """As make_checkout, and candidate `a` is registered and the champion."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda name="checkout": copied(champion_template, tmp_path / name)


@pytest.fixture
def crowned(make_crowned: Callable[[str], Checkout]) -> Checkout:
    return make_crowned("checkout")
