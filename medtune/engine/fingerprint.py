"""What a base is made of, as one digest: weights, tokenizer, architecture and quantiser settings."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medtune.corpus.cache import cache_dir

WEIGHTS = "*.safetensors"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# Keys of the JSON files that say where a copy came from or which library wrote it, not what it is
VOLATILE = {
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "_commit_hash",
    "transformers_version",
    "is_local",
    "local_files_only",
}


def fingerprint(path: Path, quantization: str, double_quant: bool, quant_storage: str) -> str:
    """64 hex digits over what is in the model directory `path` and how it is quantised.

    Weights and tokenizer files count by name and content, config.json and tokenizer_config.json by their values.
    Another quantisation of the same weights is another base: an adapter trained on one does not fit the other.
    """
    files = sorted([*path.glob(WEIGHTS), *(path / name for name in TOKENIZER if (path / name).exists())])
    # hashlib lets other threads run meanwhile: shards of several GB are hashed as fast as the disk gives them
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        digests = dict(zip((file.name for file in files), pool.map(file_digest, files), strict=True))
    settings = {"quantization": quantization}
    if quantization != "none":
        settings |= {"double_quant": double_quant, "quant_storage": quant_storage}
    parts = {
        "files": digests,
        "config": _lasting(path / "config.json"),
        "tokenizer": _lasting(path / "tokenizer_config.json"),
        "quantiser": settings,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (64 hex digits) of a file, kept in the user's cache by path, size and time of change: every stage asks for
    the base, and must not read 21 GB each time."""
    real = path.resolve()
    stat = real.stat()
    key = [str(real), stat.st_size, stat.st_mtime_ns]
    kept = cache_dir() / "hashes" / f"{hashlib.sha256(str(real).encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(kept.read_text())
        if known["key"] == key:
            return known["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        known = None  # not kept, or cut by a full disk: hashed anew
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"key": key, "sha256": digest}))
    temporary.replace(kept)
    return digest


def _lasting(path: Path) -> dict:
    """The JSON file's values without the volatile keys; {} where there is none."""
    if not path.exists():
        return {}
    return {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key not in VOLATILE}
