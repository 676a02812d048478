"""What a version may hold: no pickle under any name, no code, no request for code, and no path that leads elsewhere.

    check_path(name)                       # of a manifest's line
    check_contents(directory, names)       # reads headers and configs only, some milliseconds per gigabyte

A checksum says that a file is the one that was registered; this says that it could be registered at all. Both are
asked whenever a version is loaded, and this one also before it is registered.
"""

import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from medtune.params.errors import RegistryError

# suffixes under which torch and friends pickle; a version never holds one, since opening a pickle runs its code
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".dill", ".cloudpickle"}
CODE = {".py", ".pyc", ".pyo", ".pyd", ".pyw", ".so", ".dll", ".dylib"}
# pickle since protocol 2, and the zip that torch.save makes of one; protocols 0 and 1 are text, known by suffix only
PICKLE_STARTS = (*(bytes([0x80, protocol]) for protocol in range(2, 8)), b"PK\x03\x04")

# keys that have a loader import what lies in, or is named by, the folder
CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "custom_pipeline", "custom_generate"})
CONFIG_BYTES = 16 * 2**20  # of a *.json that a loader takes settings from; the largest known are some 100 KB
# token -> number, and row ids: data whose keys are anything, "auto_map" too, and that no loader takes settings from
DATA_FILES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json", "rows.json"})

HEADER_BYTES = 100_000_000  # safetensors' own limit
# what would mean something else in a URL (also escaped), on Windows or in a shell than it does in a path
FORBIDDEN = frozenset('\\#?%:*"<>|')
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's control, format, surrogate and line characters


def check_path(name: Any) -> str:
    """A relative path as a manifest may list it; ValueError says what is wrong with it."""
    if not isinstance(name, str) or not name or len(name.encode("utf-8", "surrogatepass")) > 1024:
        raise ValueError("which is no path")
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or pure.as_posix() != name or name == ".":
        raise ValueError("which is no plain path below the version's folder")
    if bad := sorted(
        c for c in set(name) if c in FORBIDDEN or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ):
        raise ValueError(f"whose {bad[0]!r} no file of a version may have in its name")
    return name


def folded(name: str) -> str:
    """The same for two paths that some file system takes for one: compared by NFC and without case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_contents(directory: Path, names: Iterable[str]) -> None:
    """Refuse files that could run code when loaded. `names`: relative paths of plain files below `directory`.

    RegistryError names the file: code or a pickle by its suffix, a pickle by its first bytes, a *.safetensors without
    a header of one (https://github.com/huggingface/safetensors#format), a *.json with a key that has code loaded.
    """
    for name in names:
        path = directory / name
        try:
            check_path(name)
        except ValueError as error:
            raise RegistryError(f"{directory} holds {name!r}, {error}; rename or remove it") from None
        suffix = path.suffix.lower()
        if suffix in CODE:
            raise RegistryError(f"{path} is code; a version holds weights, tokenizer and settings only, remove it")
        if suffix in PICKLES:
            raise RegistryError(f"{path} may be a pickle, which runs code when opened; a version takes none")
        if suffix == ".safetensors":
            _check_safetensors(path)
            continue
        with path.open("rb") as file:
            if file.read(4).startswith(PICKLE_STARTS):
                raise RegistryError(
                    f"{path} begins as a pickle does, which runs code when opened; a version takes none"
                )
        if suffix == ".json" and path.name not in DATA_FILES:
            _check_config(path)


def _check_safetensors(path: Path) -> None:
    problem = _safetensors_problem(path)
    if problem:
        raise RegistryError(
            f"{path} is no safetensors file ({problem}): it may be a pickle, which runs code when opened; "
            "a version takes none"
        )


def _safetensors_problem(path: Path) -> str | None:
    """None for: u64 little-endian length, a JSON object of that length, then exactly the bytes that it speaks of."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return "its header would be longer than the file"
        if length > HEADER_BYTES:
            return f"its header is larger than {HEADER_BYTES // 10**6} MB"
        header = file.read(length)
    if not header.startswith(b"{"):
        return "its header is no JSON object"
    try:
        tensors = json.loads(header)
        ends = [tensor["data_offsets"][1] for key, tensor in tensors.items() if key != "__metadata__"]
        end = max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "its header is no JSON object of tensors"
    return None if end == size - 8 - length else "it holds other bytes than its header speaks of"


def _check_config(path: Path) -> None:
    size = path.stat().st_size
    if size > CONFIG_BYTES:
        raise RegistryError(
            f"{path} is oversized: {size / 2**20:.0f} MiB, and a config has at most {CONFIG_BYTES // 2**20}; "
            "make it anew or remove it"
        )
    try:
        # through the hook, so that of a key that is there twice both are seen: parsers differ in which one they take
        json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=lambda pairs: _check_pairs(path, pairs))
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{path} is not JSON ({error}); make it anew or remove it") from None


def _check_pairs(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, value in pairs:
        if key in CODE_KEYS and value:
            raise RegistryError(
                f"{path} has the key {key}, which has code loaded; a version needs none: remove the key, or choose a "
                "base that transformers knows by itself"
            )
        if key == "parent_library" and not str(value).startswith("transformers."):  # peft imports what it names
            raise RegistryError(
                f"{path} names the library {str(value)[:80]!r}, which peft would import; remove the key"
            )
    return dict(pairs)
