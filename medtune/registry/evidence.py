"""What register reads: the reports of the stages before it, and from them a version's identity."""

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.corpus.tokens import rows_digest
from medtune.evaluation.review.votes import read_review
from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.registry.licences import parts_of

STAGES = ("validate", "tokenize", "train", "merge", "evaluate")
REVIEW = Path("reports/review.json")  # there once `medtune review import` wrote it
ROWS = Path("reports/evaluate/rows.parquet")
VALID = Path("data/valid/rows.jsonl")
SCORED = ("base", "adapter", "merged")


@dataclass(frozen=True)
class Evidence:
    """reports: by stage, and `review` where there is one; base: data/base.json; dataset: data/raw/dataset.json."""

    reports: dict[str, dict[str, Any]]
    base: dict[str, Any]
    dataset: dict[str, Any]

    @property
    def candidate(self) -> str:
        return self.reports["train"]["candidate"]

    @property
    def version(self) -> str:
        return self.reports["merge"]["version"]

    @property
    def holdout(self) -> str:
        """The digest of the whole test split, which looks are counted by: a part of it is no new test set."""
        return self.reports["tokenize"]["test_digest"]


def read_evidence(root: Path) -> Evidence:
    """All reports; RegistryError where one is missing, broken, or of another candidate or version than its fellows."""
    reports = {stage: _read(root / "reports" / f"{stage}.json", stage) for stage in STAGES}
    for stage, key in (
        ("tokenize", "test_digest"),
        ("train", "candidate"),
        ("merge", "version"),
        ("merge", "candidate"),
        ("evaluate", "candidate"),
        ("evaluate", "version"),
        ("evaluate", "test_digest"),
    ):
        if not isinstance(reports[stage].get(key), str):
            raise RegistryError(f"reports/{stage}.json has no {key}; run `dvc repro -f -s {stage}`")
    if reports["merge"]["candidate"] != reports["train"]["candidate"]:
        raise RegistryError(
            "reports/merge.json is of another candidate than reports/train.json; run `dvc repro`, which runs the "
            "stages in order"
        )
    trained = (_read(root / "data/adapter/medtune.json", "train").get("identity") or {}).get("tokens")
    if trained != reports["tokenize"].get("tokens_digest"):
        raise RegistryError(
            f"data/adapter was trained on tokens {str(trained)[:12]}, and reports/tokenize.json is of "
            f"{str(reports['tokenize'].get('tokens_digest'))[:12]}: the test rows are not this candidate's; run "
            "`dvc repro`, which runs the stages in order"
        )
    for key, stage in (("candidate", "train"), ("version", "merge")):
        if reports["evaluate"][key] != reports[stage][key]:
            raise RegistryError(f"reports/evaluate.json is of another {key} than reports/{stage}.json; run `dvc repro`")
    # a review of another candidate or of other answers is none: its figures are then missing, and never pass
    found, why = read_review(root, reports["train"]["candidate"], reports["merge"]["version"])
    if found:
        reports["review"] = found
    elif (root / REVIEW).exists():
        print(f"the review does not count: {why}")
    return Evidence(
        reports, _read(root / "data/base.json", "download"), _read(root / "data/raw/dataset.json", "download")
    )


def scored_rows(root: Path, evidence: Evidence) -> dict[str, list[dict[str, Any]]]:
    """The rows of reports/evaluate/rows.parquet by model (base, adapter, merged), each model's in the same order.

    RegistryError where there are none, where a model lacks rows, or where they are not the rows that the report and the
    test split are of: a decision is made on this candidate's evaluation or not at all.
    """
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    path, mend = root / ROWS, "run `dvc repro -f -s evaluate`"
    try:
        table = pq.read_table(path).to_pylist()
        rows = {model: [row for row in table if row["model"] == model] for model in SCORED}
        ids = {model: [row["row_id"] for row in kept] for model, kept in rows.items()}
    except (OSError, KeyError, ArrowException) as error:
        raise RegistryError(f"{path} cannot be read ({error}); {mend}") from None
    for model in SCORED:
        if not rows[model]:
            raise RegistryError(f"{path} holds no row of the {model} model; {mend}")
        if ids[model] != ids["merged"]:
            raise RegistryError(f"{path} holds other rows of the {model} model than of the merged one; {mend}")
    if rows_digest(ids["merged"]) != evidence.reports["evaluate"]["test_digest"]:
        raise RegistryError(f"{path} holds other rows than reports/evaluate.json is of (test_digest); {mend}")
    if evidence.reports["evaluate"]["test_digest"] != evidence.holdout:
        _part_of_the_split(root, ids["merged"], evidence.holdout, path, mend)
    return rows


def _part_of_the_split(root: Path, ids: Sequence[str], holdout: str, path: Path, mend: str) -> None:
    """evaluate.max_rows may take a part of the test split, and never a row from elsewhere."""
    try:
        with (root / VALID).open(encoding="utf-8") as file:
            valid = [json.loads(line) for line in file]
        test = {row["row_id"] for row in valid if row["split"] == "test"}
    except (OSError, ValueError, KeyError) as error:
        raise RegistryError(f"{root / VALID} cannot be read ({error}); run `dvc repro -f -s validate`") from None
    if foreign := sorted(set(ids) - test):
        raise RegistryError(
            f"{path} holds {len(foreign)} rows that are not in the test split (test_digest {holdout[:12]}), such as "
            f"{foreign[0][:12]}; {mend}"
        )


def look_key(recipe: Recipe, evidence: Evidence, champion: str | None) -> str:
    """What makes a look at the test rows a new one: who is compared with whom by which figures and tests. A sentence in
    the policy, a waiver or a review changes a decision, and not what was seen of the rows."""
    gate = recipe.gate
    seen = {
        "version": evidence.version,
        "evaluation": _digest(evidence.reports["evaluate"]),
        "champion": champion,
        "checks": {name: check.model_dump(exclude={"why", "blocks"}) for name, check in gate.comparisons.items()},
        "alpha": gate.alpha,
        "looks": gate.looks,
        "power": gate.power,
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def decision_key(
    recipe: Recipe, evidence: Evidence, parts: Sequence[Mapping[str, Any]] | None = None, problem: str = ""
) -> str:
    """What makes a decision a new one: the version, the figures it was judged by, the gate, the licences of `parts`. A
    champion that changed since does not: returning to a known version must not move an alias. One that could not be
    compared with does (`problem` says why), so that a mended champion is asked again."""
    policy = {
        "gate": recipe.gate.model_dump(),
        "evaluation": _digest(evidence.reports["evaluate"]),
        "version": evidence.version,
        "licences": {
            "use": recipe.register_.intended_use,
            "waivers": [waiver.model_dump() for waiver in recipe.register_.waivers],
            "parts": parts_of(evidence.base, evidence.dataset) if parts is None else list(parts),
        },
    }
    if problem:
        policy["problem"] = problem
    if "review" in evidence.reports:
        policy["review"] = _digest(evidence.reports["review"])
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


def ledger_record(root: Path, evidence: Evidence) -> dict[str, Any]:
    """What the ledger's `registered` says of what a version is made of."""
    reports, base, dataset = evidence.reports, evidence.base, evidence.dataset
    git = git_tags(root)
    return {
        "candidate": evidence.candidate,
        "data": reports["validate"].get("data_digest"),
        "tokens": reports["tokenize"].get("tokens_digest"),
        "base": {name: base.get(name) for name in ("id", "revision", "license", "fingerprint")},
        "dataset": {name: dataset.get(name) for name in ("id", "revision", "license")},
        "git": {name.partition(".")[2]: value for name, value in git.items()},
        **ledger_evaluation(evidence),
    }


def ledger_evaluation(evidence: Evidence) -> dict[str, Any]:
    """What the ledger's `evaluated` says: by which figures on which test rows."""
    return {"evaluation": _digest(evidence.reports["evaluate"]), "test": evidence.reports["evaluate"]["test_digest"]}


def split_rows(root: Path, evidence: Evidence) -> dict[str, Any]:
    """{"data", "tokens", "splits": {split: [row ids]}}: the rows that this version was trained, watched and judged on.

    Those of data/valid, less the rows that were too long for tokenize.max_length.
    """
    dropped = set(evidence.reports["tokenize"].get("dropped", ()))
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    try:
        with (root / VALID).open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row["row_id"] not in dropped:
                    splits[row["split"]].append(row["row_id"])
    except (OSError, ValueError, KeyError) as error:
        raise RegistryError(f"{root / VALID} cannot be read ({error}); run `dvc repro -f -s validate`") from None
    reports = evidence.reports
    return {
        "data": reports["validate"].get("data_digest"),
        "tokens": reports["tokenize"].get("tokens_digest"),
        "splits": splits,
    }


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
