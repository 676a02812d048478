"""train.init: a number of the registered adapter, on a real registry: verified, trained on, part of the identity."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from engine.tiny import job, write_tokens
from registry_checkout import Checkout, checkout, fresh_store, make_checkout, tiny_adapter

from medtune.engine.base import resolve
from medtune.engine.lora import write_json
from medtune.engine.train import run
from medtune.params.base import Base
from medtune.params.errors import EngineError, RegistryError
from medtune.params.recipes import compose
from stages.register import main as register
from stages.train import main as train

__all__ = ["checkout", "fresh_store", "make_checkout", "tiny_adapter"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tokens(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tiny_base, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """An adapter of the tiny base under its true fingerprint, and the figures of its training."""
    folder = tmp_path_factory.mktemp("trained")
    made = job(
        tiny_base,
        tokens,
        folder,
        lora={"dropout": 0.0},
        max_steps=10,
        save_steps=10,
        engine="reference",
        learning_rate=0.05,
    )
    record = resolve(Base(source="path", id=str(tiny_base))).record()
    figures = run(dataclasses.replace(made, sidecar=made.sidecar | {"base": record}))
    return folder / "adapter", figures


@pytest.fixture
def version(checkout: Checkout, tiny_base: Path, tokens: Path, trained: tuple, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkout with that adapter registered as number 1, ready to train; the version's digest."""
    digest = checkout.candidate("a")
    folder = checkout.root / "data/adapter"
    wanted = json.loads((folder / "medtune.json").read_text())
    shutil.rmtree(folder)
    shutil.copytree(trained[0], folder)
    sidecar = json.loads((folder / "medtune.json").read_text())
    write_json(folder / "medtune.json", sidecar | wanted)
    register(checkout.root)
    shutil.copytree(tokens, checkout.root / "data/tokens")
    record = resolve(Base(source="path", id=str(tiny_base))).record()
    write_json(checkout.root / "data/base.json", record)
    for package in ("medtune", "stages"):  # the candidate's identity reads the code that lies in the project
        (checkout.root / package).symlink_to(ROOT / package)
    monkeypatch.chdir(checkout.root)
    use(tiny_base, "train.init=1")
    return digest


def use(base: Path, *overrides: str) -> None:
    settings = [
        "base.source=path", f"base.id={base}", "base.revision=null", "base.sha256=null",
        "lora.r=4", "lora.alpha=8", "lora.targets=all-linear",
        "train.engine=reference", "train.max_steps=2", "train.warmup_steps=0", "train.batch_size=2", "train.device=cpu",
        "train.eval_steps=null", "train.learning_rate=1e-4",
    ]  # fmt: skip
    text = (ROOT / "recipes/sample.yaml").read_text()
    made, _ = compose(text, [*settings, *overrides], lambda *_: "", "sample")
    Path("params.yaml").write_text(made)


def test_goes_on_from_the_version_and_carries_its_digest(version: str, tiny_base: Path) -> None:
    train()
    report = json.loads(Path("reports/train.json").read_text())
    sidecar = json.loads(Path("data/adapter/medtune.json").read_text())
    assert sidecar["identity"]["init"] == version
    use(tiny_base)
    train()
    fresh = json.loads(Path("reports/train.json").read_text())
    assert fresh["first_loss"] > report["first_loss"] + 0.1  # the same batch, before any step
    assert fresh["candidate"] != report["candidate"]
    assert "init" not in json.loads(Path("data/adapter/medtune.json").read_text())["identity"]


def test_a_version_that_is_not_there_is_named_with_those_that_are(version: str, tiny_base: Path) -> None:
    use(tiny_base, "train.init=7")
    with pytest.raises(RegistryError, match=r"train.init: 7, and medgpt-ko-adapter has no version 7; it has 1"):
        train()
    use(tiny_base, "train.init=1", "register.model=other")
    with pytest.raises(RegistryError, match=r"other-adapter has no version 1; it has none yet"):
        train()


def test_files_that_changed_are_not_trained_on(version: str) -> None:
    weights = Path("mlruns/artifacts/versions", version, "adapter/adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(RegistryError, match=r"adapter_model.safetensors is not the file that was registered"):
        train()
    assert not Path("data/checkpoints").exists()


def test_another_rank_is_refused_before_training(version: str, tiny_base: Path) -> None:
    use(tiny_base, "train.init=1", "lora.r=8", "lora.alpha=16")
    with pytest.raises(EngineError, match=r"has rank 4 and lora.r is 8; set lora.r: 4 and lora.alpha: 8"):
        train()
