"""What is known of a registered version besides its events: the small files of its folder, and its MLflow run.

Nothing is taken on trust: manifest.json is held to the digest in the ledger, every file that is read to the manifest.
Nothing is required either: what is away or was changed is None or {}, and a sentence in `unknown` says so.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.manifest import MANIFEST
from medtune.registry.run_record import Run, read_run
from medtune.registry.standing import Standing
from medtune.registry.versions import ADAPTER, MERGED, ROWS, version_path

SIDECAR = "medtune.json"
SPLITS = ("train", "validation", "test")
FOLDER = "versions"  # of registry/remote.py, in a run's artifacts
Read = Callable[[str], bytes | None]


@dataclass
class Record:
    """adapter, merged: their medtune.json; rows: rows.json, None where the version has none; files: the manifest's."""

    standing: Standing
    folder: Path
    files: list[dict[str, Any]] | None = None
    adapter: dict[str, Any] = field(default_factory=dict)
    merged: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] | None = None
    run: Run | None = None
    unknown: list[str] = field(default_factory=list)

    @property
    def body(self) -> dict[str, Any]:
        """What was written down when it was registered."""
        return self.standing.registered.body

    def counts(self) -> dict[str, int]:
        """Rows by split, as rows.json has them; {} where there is none."""
        splits = (self.rows or {}).get("splits") or {}
        return {name: len(splits[name]) for name in (*SPLITS, *sorted(set(splits) - set(SPLITS))) if name in splits}

    def row_ids(self) -> dict[str, list[str]]:
        """Row ids by split. RegistryError where the version keeps none."""
        if self.rows is None:
            why = f" ({self.unknown[0]})" if self.unknown else ""
            raise RegistryError(
                f"{self.standing.name} has no {ROWS} that can be read, so that its rows cannot be named{why}; its data "
                f"version is {str(self.body.get('data'))[:12]}: check out the dvc.lock of its commit and see "
                "data/valid/rows.jsonl"
            )
        return {name: list(ids) for name, ids in self.rows["splits"].items()}


def read_record(root: Path, standing: Standing, with_run: bool = True) -> Record:
    """Whatever can be told of a version. Files that are not here are read from its run's artifacts, where they were
    sent to (registry/remote.py): the small ones, and nothing of the weights."""
    record = Record(standing, version_path(root, standing.version))
    here, run_id = record.folder.is_dir(), record.body.get("run_id")
    why = ""
    if run_id and (with_run or not here):
        try:
            record.run = read_run(root, str(run_id))
        except RegistryError as error:
            why = f"the MLflow run {run_id} (its times, and params beyond the sidecars): {error}"
    _read_files(record, here)
    if why:
        record.unknown.append(why)
    return record


def _read_files(record: Record, here: bool) -> None:
    read = _reader(record.folder) if here else _sent(record)
    try:
        content = read(MANIFEST)
        if content is None:
            raise ValueError(f"{record.folder} is missing" if not here else f"{record.folder / MANIFEST} is missing")
        if hashlib.sha256(content).hexdigest() != record.body.get("manifest"):
            raise ValueError(f"{record.folder / MANIFEST} is not the one that was registered")
        record.files = json.loads(content)["files"]
    except (ValueError, KeyError, TypeError) as error:
        record.unknown.append(f"the files of {record.standing.name}, its recipe and its rows: {error}")
        return
    record.adapter = _small(record, read, f"{ADAPTER}/{SIDECAR}") or {}
    record.merged = _small(record, read, f"{MERGED}/{SIDECAR}") or {}
    if any(item["path"] == ROWS for item in record.files):
        rows = _small(record, read, ROWS)
        record.rows = rows if isinstance((rows or {}).get("splits"), dict) else None
    else:
        record.unknown.append(f"the rows of {record.standing.name}: it was registered before {ROWS} was kept")


def _sent(record: Record) -> Read:
    """Files in the artifacts of the run, by the name that registry/remote.py gives a version there."""
    folder = f"{FOLDER}/{record.standing.version}/{str(record.body.get('manifest'))[:16]}"
    return lambda name: record.run.artifact(f"{folder}/{name}") if record.run else None


def _small(record: Record, read: Read, name: str) -> dict[str, Any] | None:
    """A JSON file of the version, if its bytes are those that the manifest lists."""
    listed = {item["path"]: item["sha256"] for item in record.files or []}
    try:
        content = read(name)
        if content is None:
            raise ValueError("it is missing")
        if hashlib.sha256(content).hexdigest() != listed.get(name):
            raise ValueError("it is not the file that was registered")
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        record.unknown.append(f"{record.folder / name}: {error}")
        return None
    return found


def evaluation(root: Path, record: Record) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """(evaluate.json, lines of answers.jsonl) of this very version: from its run, else from the checkout's reports."""
    run, digest = record.run, record.standing.version
    sources = [] if run is None else [(run.artifact, "reports/evaluate.json", "evaluate/answers.jsonl")]
    sources.append((_reader(root), "reports/evaluate.json", "reports/evaluate/answers.jsonl"))
    for read, report, answers in sources:
        try:
            evaluate = json.loads(read(report) or b"null")
            if not isinstance(evaluate, dict) or evaluate.get("version") != digest:
                continue
            lines = [json.loads(line) for line in (read(answers) or b"").splitlines() if line.strip()]
        except ValueError as error:
            record.unknown.append(
                f"the evaluation of {record.standing.name}: {report} or {answers} is broken ({error})"
            )
            continue
        return evaluate, [line for line in lines if isinstance(line, dict)]
    record.unknown.append(f"figures and answers of {record.standing.name}: its run keeps no report of this version")
    return None, []


def _reader(root: Path) -> Read:
    def read(path: str) -> bytes | None:
        try:
            return (root / path).read_bytes()
        except OSError:
            return None

    return read
