"""What register reads: the reports of the stages before it, and from them a version's identity."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.registry.gate import ROOTS


@dataclass(frozen=True)
class Evidence:
    """reports: by stage; base: data/base.json; dataset: data/raw/dataset.json ({} where it is not there)."""

    reports: dict[str, dict[str, Any]]
    base: dict[str, Any]
    dataset: dict[str, Any]

    @property
    def candidate(self) -> str:
        return self.reports["train"]["candidate"]

    @property
    def version(self) -> str:
        return self.reports["merge"]["version"]


def read_evidence(root: Path) -> Evidence:
    """All reports; RegistryError where one is missing, broken, or of another candidate than train's."""
    reports = {stage: _read(root / "reports" / f"{stage}.json", stage) for stage in ROOTS}
    for stage, key in (
        ("train", "candidate"),
        ("merge", "version"),
        ("merge", "candidate"),
        ("evaluate", "test_digest"),
    ):
        if not isinstance(reports[stage].get(key), str):
            raise RegistryError(f"reports/{stage}.json has no {key}; run `dvc repro -f -s {stage}`")
    if reports["merge"]["candidate"] != reports["train"]["candidate"]:
        raise RegistryError(
            "reports/merge.json is of another candidate than reports/train.json; run `dvc repro`, which runs the "
            "stages in order"
        )
    if reports["evaluate"].get("version", reports["merge"]["version"]) != reports["merge"]["version"]:
        raise RegistryError("reports/evaluate.json is of another version than reports/merge.json; run `dvc repro`")
    return Evidence(
        reports, _read(root / "data/base.json", "download"), _read(root / "data/raw/dataset.json", "download")
    )


def decision_key(recipe: Recipe, evidence: Evidence) -> str:
    """What makes a decision a new one: the version, the figures it was judged by, the gate. A champion that changed
    since does not: returning to a known version must not move an alias."""
    policy = {
        "gate": recipe.gate.model_dump(),
        "evaluation": _digest(evidence.reports["evaluate"]),
        "version": evidence.version,
    }
    return hashlib.sha256(json.dumps(policy, sort_keys=True).encode()).hexdigest()


def identity_tags(evidence: Evidence) -> dict[str, str]:
    """Tags that say what a version is made of: digests, revisions, licences."""
    reports, base, dataset = evidence.reports, evidence.base, evidence.dataset
    tags = {
        "medtune.base": base.get("fingerprint"),
        "medtune.data": reports["validate"].get("data_digest"),
        "medtune.tokens": reports["tokenize"].get("tokens_digest"),
        "medtune.test": reports["evaluate"]["test_digest"],
        "medtune.evaluation": _digest(reports["evaluate"]),
        "dataset.id": dataset.get("id"),
        "dataset.revision": dataset.get("revision"),
        "dataset.license": dataset.get("license"),
        "base.id": base.get("id"),
        "base.revision": base.get("revision"),
        "base.license": base.get("license"),
        "base.quantization": base.get("quantization"),
        "merge.into": reports["merge"].get("into"),
    }
    return {key: str(value) for key, value in tags.items() if value not in (None, "")}


def git_tags(root: Path) -> dict[str, str]:
    """Commit and whether files differ from it; {} outside a git repository or before the first commit.

    What the pipeline itself writes while it runs (dvc.lock, reports, data) makes no checkout dirty.
    """
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {}
    outs = (":!dvc.lock", ":!reports", ":!data", ":!mlruns")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *outs)
    return {"git.commit": commit, "git.dirty": "true" if changed else "false"}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):  # no git here: a version without a commit is still a version
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _digest(report: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()


def _read(path: Path, stage: str) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistryError(f"{path} is missing; run `dvc repro`") from None
    except ValueError as error:
        raise RegistryError(f"{path} is no JSON ({error}); run `dvc repro -f -s {stage}`") from None
    if not isinstance(report, dict):
        raise RegistryError(f"{path} is no report; run `dvc repro -f -s {stage}`")
    return report
