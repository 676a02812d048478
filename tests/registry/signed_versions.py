"""A version's folder as keep_version leaves it, small: real safetensors, configs, rows.json, manifest.json."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from medtune.registry.manifest import write_manifest

DIGEST = hashlib.sha256(b"a version").hexdigest()


def make_version(parent: Path, digest: str = DIGEST) -> Path:
    folder = parent / digest
    (folder / "merged/components/tokenizer").mkdir(parents=True)
    (folder / "adapter").mkdir()
    weight = np.frombuffer(hashlib.sha256(digest.encode()).digest() * 64, dtype=np.uint8)
    save_file({"model.weight": weight}, folder / "merged/model.safetensors")
    save_file({"lora_A": weight[:64], "lora_B": weight[64:128]}, folder / "adapter/adapter_model.safetensors")
    auto = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama"}
    write_json(folder / "merged/config.json", {"architectures": ["LlamaForCausalLM"], "rope": {"theta": 1e4}})
    write_json(folder / "merged/generation_config.json", {"eos_token_id": 2})
    write_json(folder / "merged/tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    # a vocabulary may have any word for a key
    write_json(folder / "merged/tokenizer.json", {"model": {"vocab": {"auto_map": 1, "trust_remote_code": 2}}})
    write_json(folder / "merged/components/tokenizer/tokenizer_config.json", {"trust_remote_code": False})
    write_json(folder / "adapter/adapter_config.json", {"peft_type": "LORA", "auto_mapping": auto})
    write_json(folder / "rows.json", {"data": "d", "tokens": "t", "splits": {"train": ["r1"]}})
    write_manifest(folder, digest, "0" * 64)
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def reseal(folder: Path) -> None:
    """Someone who can count: lines of the manifest made to fit the files, past every check that registration makes."""
    record = json.loads((folder / "manifest.json").read_text())
    record["files"] = [
        {
            "path": path.relative_to(folder).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "manifest.json.sig")
    ]
    (folder / "manifest.json").write_text(json.dumps(record))


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def edit(folder: Path, change) -> None:
    path = folder / "manifest.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
