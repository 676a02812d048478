"""Verification of a version beside a plain read of the same files, in one run.

    python -m benchmarks.verify_speed --gib 21 --files 6 --work /disk/under/test --out results

Writes files of random bytes (safetensors, as a merged model has them), then measures in turn, `--repeats` times each:
a read that throws the bytes away, by as many threads and with the same calls, and `verify_version`. Before each one the
files are dropped from the page cache (posix_fadvise DONTNEED after fsync, which needs no root) unless --warm; what
part of them the cache held all the same is measured by mincore and told. Needs neither MLflow nor torch. Prints and
writes verify_speed.json: GB/s and seconds of both, their ratio, what one core hashes, threads, cores.
"""

import argparse
import ctypes
import hashlib
import json
import mmap
import os
import platform
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medtune.registry.manifest import default_threads, read_pieces, write_manifest
from medtune.registry.verify import verify_version

CHUNK = 2**26


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0, help="of all files together")
    parser.add_argument("--files", type=int, default=6, help="shards; a 21 GB model in shards of 4 GB has six")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="leave the files in the page cache")
    parser.add_argument("--work", type=Path, default=Path("verify_speed"), help="the disk to measure; removed after")
    parser.add_argument("--out", type=Path, default=Path("verify_speed_results"))
    arguments = parser.parse_args()
    if not 1 <= arguments.files <= arguments.gib * 1024:
        parser.error("--files: at least one, and at most one for each MiB")
    # keys of this machine are no part of the measurement
    os.environ.pop("MEDTUNE_KEYS", None)
    os.environ["XDG_CONFIG_HOME"] = str((arguments.work / "no-keys").resolve())
    version = arguments.work / "version"
    shutil.rmtree(version, ignore_errors=True)
    try:
        result = measure(version, arguments)
    finally:
        shutil.rmtree(version, ignore_errors=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "verify_speed.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(version: Path, arguments: argparse.Namespace) -> dict:
    paths = write_files(version / "merged", arguments.files, int(arguments.gib * 2**30))
    write_manifest(version, "benchmark", "")
    total = sum(path.stat().st_size for path in paths)
    found: dict[str, list[float]] = {"read": [], "verify": []}
    cached: dict[str, list[float]] = {"read": [], "verify": []}
    for _ in range(arguments.repeats):
        for name in found:  # in turn, so that a slow minute of the disk falls on both
            if arguments.warm:
                read_all(paths, arguments.threads)
            else:
                drop(paths)
            cached[name].append(resident_share(paths))
            began = time.perf_counter()
            if name == "read":
                read_all(paths, arguments.threads)
            else:
                verify_version(version, threads=arguments.threads)
            found[name].append(time.perf_counter() - began)
            print(f"{name}: {total / found[name][-1] / 1e9:.2f} GB/s", flush=True)
    seconds = {name: statistics.median(times) for name, times in found.items()}
    return {
        "bytes": total,
        "files": len(paths),
        "threads": arguments.threads,
        "cores": len(os.sched_getaffinity(0)),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "page_cache": "warm" if arguments.warm else "dropped (posix_fadvise DONTNEED)",
        "cached_share_before": {name: [round(share, 3) for share in shares] for name, shares in cached.items()},
        "read_gb_per_s": total / seconds["read"] / 1e9,
        "verify_gb_per_s": total / seconds["verify"] / 1e9,
        "verify_to_read_speed": seconds["read"] / seconds["verify"],
        "sha256_one_core_gb_per_s": one_core(),
        "sha256_all_cores_gb_per_s": one_core(len(os.sched_getaffinity(0))),
        "seconds": found,
    }


def write_files(folder: Path, count: int, total: int) -> list[Path]:
    """safetensors of one tensor each, of bytes that no disk can compress."""
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        size = total // count
        header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        path = folder / f"model-{number + 1:05}-of-{count:05}.safetensors"
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            while size:
                size -= file.write(os.urandom(min(size, CHUNK)))
            file.flush()
            os.fsync(file.fileno())
        paths.append(path)
    return paths


def read_all(paths: list[Path], threads: int) -> None:
    def one(path: Path) -> int:
        return sum(len(piece) for piece in read_pieces(path))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, paths))


def drop(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_share(paths: list[Path]) -> float:
    """What share of the files' pages the page cache holds, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    held = pages = 0
    for path in paths:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            count = -(-len(mapped) // mmap.PAGESIZE)
            marks = (ctypes.c_ubyte * count)()
            start = ctypes.c_char.from_buffer(mapped)
            failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), marks)
            del start  # or the map cannot be closed
            if failed:
                raise OSError(ctypes.get_errno(), "mincore")
            held += sum(mark & 1 for mark in bytes(marks))
            pages += count
    return held / pages


def one_core(threads: int = 1) -> float:
    """GB/s of sha256 over bytes that are in memory, by so many threads at once: the ceiling of verification."""
    piece = os.urandom(2**19)

    def hash_some(_: int) -> None:
        digest = hashlib.sha256()
        for _ in range(1024):
            digest.update(piece)

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hash_some, range(threads)))
    return threads * 1024 * len(piece) / (time.perf_counter() - began) / 1e9


if __name__ == "__main__":
    main()
