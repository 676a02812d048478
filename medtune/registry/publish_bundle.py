"""The folder that a version travels in: DIR/version, its files as they were registered, and DIR/evidence, all else.

    evidence/publish.json     who sends which version from where and why; its ledger rows; tags and pages of both halves
    evidence/run.json         its MLflow run: candidate, params, tags, times, experiment
    evidence/metrics.jsonl    every point of every metric: [name, value, step, milliseconds]
    evidence/artifacts/       its run's files: params.yaml, reports, rows and answers, curve, release card
    evidence/manifest.json    sha256 of all these; signed, like a version, where there is a key
    version/                  manifest.json, its signature, rows.json, adapter/, merged/

publish.json names the sha256 of version/manifest.json, so that one signature stands for everything. Nothing of it is
believed before it is held to these.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.keys import sign, verify_signature
from medtune.registry.ledger import Event
from medtune.registry.manifest import MANIFEST, manifest_digest, verify_manifest, walk, write_manifest
from medtune.registry.verify import verify_version
from medtune.registry.versions import ROWS

SCHEMA = 1
EVIDENCE, VERSION, ARTIFACTS = "evidence", "version", "artifacts"
PUBLISH, RUN, METRICS = "publish.json", "run.json", "metrics.jsonl"
MEND = "export it anew where it came from (`medtune publish VERSION --bundle DIR`), and copy the whole folder"
_TEXTS = ("model", "adapter_model", "version", "manifest", "from", "by", "reason")


@dataclass(frozen=True)
class Bundle:
    """A bundle that holds: publish and run as their files have them; points: (metric, value, step, milliseconds);
    signer: who signed it, None where nobody is trusted."""

    folder: Path
    publish: dict[str, Any]
    run: dict[str, Any]
    points: list[tuple[str, float, int, int]]
    signer: str | None

    @property
    def version(self) -> str:
        return self.publish["version"]

    @property
    def files(self) -> Path:
        return self.folder / VERSION

    def events(self, *kinds: str) -> list[Event]:
        """The version's rows of the source's ledger, in their order."""
        return [event for event in (Event(**item) for item in self.publish["events"]) if event.event in kinds]

    def artifacts(self) -> dict[Path, str]:
        """Files for the run, each with its folder there: those of its run, and under publish/ whence it comes."""
        home = self.folder / EVIDENCE / ARTIFACTS
        files = {home / name: name.rpartition("/")[0] for name in (walk(home) if home.is_dir() else [])}
        return files | {self.folder / EVIDENCE / name: "publish" for name in (PUBLISH, RUN)}

    def rows(self) -> dict[str, Any] | None:
        """rows.json; None for a version from before there was one."""
        path = self.files / ROWS
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def seal(
    making: Path, target: Path, publish: dict[str, Any], run: dict[str, Any], points: Iterable[Sequence[Any]]
) -> None:
    """Write the evidence's files and its manifest, sign it, and put the whole folder in its place."""
    evidence = making / EVIDENCE
    for name, content in ((PUBLISH, publish), (RUN, run)):
        (evidence / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (evidence / METRICS).write_text("".join(json.dumps(point) + "\n" for point in points), encoding="utf-8")
    write_manifest(evidence, publish["version"], "publication")
    sign(evidence)
    os.replace(making, target)


def read_bundle(folder: Path) -> Bundle:
    """Hold a bundle to its manifests and signatures, every byte of it. RegistryError says what is wrong."""
    evidence = folder / EVIDENCE
    if not (evidence / MANIFEST).is_file():
        raise RegistryError(f"{folder} is no bundle of `medtune publish` (no {EVIDENCE}/{MANIFEST}); {MEND}")
    try:
        signer = verify_signature(evidence)
        sealed = verify_manifest(evidence)
    except RegistryError as error:
        raise RegistryError(f"the bundle {folder} is not as it was sent: {_first(error)}; {MEND}") from None
    try:
        publish, run = (json.loads((evidence / name).read_text(encoding="utf-8")) for name in (PUBLISH, RUN))
        _check(publish, run)
        lines = (evidence / METRICS).read_text(encoding="utf-8").splitlines()
        points = [(str(name), float(value), int(step), int(at)) for name, value, step, at in map(json.loads, lines)]
        if sealed["version"] != publish["version"]:
            raise ValueError("its manifest is of another version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(f"{evidence} holds no publication ({error}); {MEND}") from None
    try:
        found = verify_version(folder / VERSION, publish["manifest"])
        if found["version"] != publish["version"]:
            raise RegistryError(f"{folder / VERSION} is of version {found['version'][:12]}")
    except RegistryError as error:
        raise RegistryError(f"the bundle {folder} is not as it was sent: {_first(error)}; {MEND}") from None
    return Bundle(folder, publish, run, points, signer)


def _first(error: RegistryError) -> str:
    """Without the mend, which is of a version in its registry."""
    return str(error).partition("; ")[0]


def _check(publish: dict[str, Any], run: dict[str, Any]) -> None:
    if publish["schema"] != SCHEMA:
        raise ValueError(f"its schema is {publish['schema']}, and this medtune knows {SCHEMA}")
    for name in _TEXTS:
        if not isinstance(publish[name], str) or not publish[name].strip():
            raise ValueError(f"it has no {name}")
    for name in ("version", "manifest"):
        if not re.fullmatch(r"[0-9a-f]{64}", publish[name]):
            raise ValueError(f"its {name} is no digest")
    if not all(isinstance(publish[name], int) for name in ("number", "adapter_number")):
        raise ValueError("it has no numbers")
    for half in ("adapter", "merged"):
        if not isinstance(publish["pages"][half]["description"], str) or not _texts(publish["pages"][half]["tags"]):
            raise ValueError(f"it has no page of the {half}")
    events = [Event(**item) for item in publish["events"]]
    for event in events:
        if event.digest != row_digest(event):
            raise ValueError(f"ledger row {event.seq} ({event.event}) was edited on the way")
        if event.version != publish["version"] or event.model != publish["model"]:
            raise ValueError(f"ledger row {event.seq} ({event.event}) is of another version")
    if not any(e.event == "registered" and e.body.get("manifest") == publish["manifest"] for e in events):
        raise ValueError("none of its ledger rows registers this version with these files")
    if not _texts(run["params"]) or not _texts(run["tags"]) or not re.fullmatch(r"[0-9a-f]{64}", run["candidate"]):
        raise ValueError("its run has no params, tags or candidate")


def _texts(tags: Any) -> bool:
    return isinstance(tags, dict) and all(isinstance(v, str) and isinstance(k, str) for k, v in tags.items())


def row_digest(event: Event) -> str:
    """The digest that the ledger gives a row, over all else in it and over the row before by that one's digest."""
    content = [value for name, value in vars(event).items() if name != "digest"]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def link_tree(source: Path, target: Path) -> None:
    """The files of a version in another place: hard links on the same disk, else copies. Nobody writes into either."""
    needed, names = 0, walk(source)
    target.mkdir(parents=True)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:  # another disk, such as one that travels, or a file system without links
            if not needed:
                needed = sum((source / one).stat().st_size for one in names if not (target / one).exists())
                free = shutil.disk_usage(target).free
                if needed > free:
                    raise RegistryError(
                        f"{target} has too little room: {needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB "
                        "are free; make room, or take a larger disk"
                    ) from None
            shutil.copyfile(source / name, target / name)


def same_version(folder: Path, version: str, manifest: str) -> bool:
    """Whether a folder is a whole version with this manifest; a signature may be added or not."""
    try:
        return verify_manifest(folder, manifest)["version"] == version and manifest_digest(folder) == manifest
    except (RegistryError, OSError):
        return False
