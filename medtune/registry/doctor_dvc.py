"""DVC's side of the registry: dvc.lock whole, cache objects as their names say, and no version claimed that is lost.

`dvc status` believes a damaged cache object, and a dvc.lock cut off at the end of a line is still YAML: both are looked
at here without DVC.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.doctor_trouble import Examination, Trouble
from medtune.registry.status import read_status

LOCK = Path("dvc.lock")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
LOCK_MEND = (
    "`git checkout dvc.lock` if it was committed, or remove it; then `dvc repro`: stages whose inputs it has seen come "
    "back from its run cache"
)


def check_lock(seen: Examination) -> list[Trouble]:
    """dvc.lock parses, and each stage in it has all that DVC writes."""
    try:
        read_lock(seen.root)
    except RegistryError as error:
        return [Trouble("dvc_lock", str(error), LOCK_MEND)]
    return []


def read_lock(root: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.lock, {} where there is none; RegistryError where it is cut off or no lock file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = root / LOCK
    try:
        text = path.read_text(encoding="utf-8")
        lock = YAML(typ="safe", pure=True).load(text)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f"{path}:{line + 1}" if line is not None else f"{path}"
        raise RegistryError(f"{where} cannot be read: it is cut off or damaged") from None
    if not isinstance(lock, dict) or "schema" not in lock or not isinstance(lock.get("stages"), dict):
        raise RegistryError(f"{path} is cut off or no lock file: it has no stages")
    if not text.endswith("\n"):
        raise RegistryError(f"{path} is cut off: its last line has no end")
    for name, stage in lock["stages"].items():
        if not isinstance(stage, dict) or "cmd" not in stage:
            raise RegistryError(f"{path} is cut off: stage {name} has no cmd")
        for kind in {"deps", "outs"} & set(stage):
            items = stage[kind]
            if not isinstance(items, list) or not items or not all(_is_whole(item) for item in items):
                raise RegistryError(f"{path} is cut off: {kind} of stage {name} lack a path, its digest or its size")
    return lock["stages"]


def _is_whole(item: Any) -> bool:
    """An entry as DVC writes it. What lies behind a URL has an etag or the like instead of an md5."""
    if not isinstance(item, dict) or not item.get("path") or len(item) == 1:
        return False
    if item.get("hash", "md5") != "md5" or "md5" not in item:
        return "hash" not in item or item["hash"] in item
    md5 = str(item["md5"])
    counted = "nfiles" in item or not md5.endswith(".dir")
    return MD5.fullmatch(md5) is not None and isinstance(item.get("size"), int) and counted


def check_cache(seen: Examination) -> list[Trouble]:
    """With deep: every cached object that dvc.lock names, against the md5 in its name."""
    if not seen.deep:
        return []
    try:
        stages = read_lock(seen.root)
    except RegistryError:
        return []  # check_lock tells
    cache = _cache(seen.root)
    wanted = {item["md5"]: item["path"] for stage in stages.values() for item in stage.get("outs", ()) if "md5" in item}
    objects = dict(_objects(cache, wanted))
    if objects:
        seen.tell(f"reading {len(objects)} objects of DVC's cache, {_bytes(objects) / 2**30:.2f} GiB")
    with ThreadPoolExecutor(4) as pool:  # hashing leaves the GIL
        sound = dict(zip(objects, pool.map(_sound, objects), strict=True))
    return [
        Trouble(
            "cache_object",
            f"{path} in DVC's cache is damaged: it holds other bytes than its name says; it is of {objects[path]}, and "
            "`dvc checkout` would hand it out",
            f"`rm -f {path}`, then `dvc commit -f` where {objects[path]} in the workspace is sound, else `dvc repro`",
        )
        for path, good in sound.items()
        if not good
    ]


def _objects(cache: Path, wanted: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """(object, out) of those that are there: `dvc gc` may have removed others, rightly."""
    for md5, out in wanted.items():
        path = _object(cache, md5)
        if not path.is_file():
            continue
        yield path, out
        if md5.endswith(".dir"):
            try:
                for item in json.loads(path.read_text(encoding="utf-8")):
                    if MD5.fullmatch(item["md5"]) and _object(cache, item["md5"]).is_file():
                        yield _object(cache, item["md5"]), f"{out}/{item['relpath']}"
            except (ValueError, KeyError, TypeError):
                continue  # the listing itself is damaged, which its own md5 tells


def _object(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]


def _sound(path: Path) -> bool:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return digest == (path.parent.name + path.name).removesuffix(".dir")


def _bytes(paths: dict[Path, str]) -> int:
    return sum(path.stat().st_size for path in paths)


def _cache(root: Path) -> Path:
    """Where DVC keeps its cache: cache.dir may be set in any of its four configurations, so that DVC is asked."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return root / ".dvc/cache"
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else root / ".dvc/cache"


def check_claim(seen: Examination) -> list[Trouble]:
    """A version that dvc.lock holds for registered and the registry does not have."""
    try:
        read_lock(seen.root)
    except RegistryError:
        return []  # check_lock tells
    lost = read_status(seen.root, seen.recipe)["lost"]
    return [Trouble("lost", lost, "`dvc repro -f -s register`")] if lost else []
