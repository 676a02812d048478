"""All facts of a candidate in one plain JSON document, from which page, JSON and model card are made.

    data = gather(root, recipe, reports, base, dataset, decision, extra)

What is missing stays None or empty: a card is also written for a candidate whose evaluation is damaged, and says so.
"""

import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from medtune.evaluation.release_card.answers import collect
from medtune.evaluation.release_card.comparisons import comparisons
from medtune.evaluation.release_card.safety import memorisation, suites
from medtune.evaluation.release_card.summary import summary
from medtune.params.errors import EvaluationError

SCHEMA = 1
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "sacrebleu", "kiwipiepy")
# control characters and lone surrogates: neither HTML nor UTF-8 holds them, and a model can write the former
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def gather(
    root: Path,
    recipe_dump: Mapping[str, Any],
    reports: Mapping[str, Mapping[str, Any]],
    base: Mapping[str, Any],
    dataset: Mapping[str, Any],
    decision: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document.

    recipe_dump: the recipe by section (`model_dump(mode="json", by_alias=True)`); reports: by stage (validate,
    tokenize, train, merge, evaluate, and review where there is one); base: data/base.json; dataset:
    data/raw/dataset.json; decision: {"outcome", "reasons", "findings": [{"name", "figure", "passed", "blocks",
    "sentence", "outcome", "value", "low", "high", "details"}]}.

    extra, all of it optional: run_id; decided_at (ISO 8601); versions {"merged": {"model", "number"}, "adapter": …};
    champion {"number", "version", "evaluate": its evaluate.json, "answers": its answers.jsonl (path or list)};
    licences {"outcome", "reasons", "inherited", "conditions", "waived"} of the licence check; looks {"used", "of",
    "left"} at the test rows; drift, registry.drift_report's or {"why": a sentence}; review; git {"git.commit",
    "git.dirty"}.

    EvaluationError where answers or history are there and cannot be read.
    """
    extra = extra or {}
    evaluate = reports.get("evaluate", {})
    champion = extra.get("champion") or None
    theirs = _answers(champion.get("answers")) if champion else []
    document = {
        "schema": SCHEMA,
        "version": reports.get("merge", {}).get("version"),
        "candidate": reports.get("train", {}).get("candidate"),
        "run_id": extra.get("run_id"),
        "decided_at": extra.get("decided_at"),
        "versions": extra.get("versions") or {},
        "note": (recipe_dump.get("gate") or {}).get("note") or "",
        "decision": dict(decision),
        "policy": recipe_dump.get("gate") or {},
        "looks": extra.get("looks"),
        "champion": _champion(champion, evaluate),
        "evaluation": evaluate,
        "comparisons": comparisons(evaluate, decision.get("findings") or [], recipe_dump.get("gate") or {}),
        "safety": suites(evaluate, champion),
        "memorisation": memorisation(evaluate),
        "answers": collect(_answers(root / "reports/evaluate/answers.jsonl"), theirs),
        "training": {
            **{key: value for key, value in reports.get("train", {}).items() if key != "base"},
            "settings": {section: recipe_dump.get(section) for section in ("lora", "train")},
            "history": _lines(root / "data/adapter/history.jsonl"),
        },
        "merge": _optional(root / "data/merged/certificate.json") | dict(reports.get("merge", {})),
        "merge_settings": recipe_dump.get("merge") or {},
        "data": _data(reports, dataset, recipe_dump),
        "base": _base(base),
        "drift": {key: value for key, value in (extra.get("drift") or {}).items() if key != "markdown"},
        "licences": licences(base, dataset, recipe_dump, extra.get("licences")),
        "review": extra.get("review") or reports.get("review"),
        "environment": _environment(reports, extra),
    }
    document = plain(document)
    document["summary"] = summary(document)
    return document


def licences(base: Mapping, dataset: Mapping, recipe: Mapping, verdict: Mapping | None) -> dict[str, Any]:
    """Licence by what it is of, in the order of descent; and what the check made of them."""
    register = recipe.get("register") or {}
    rows = [{"what": "rows", "id": _dataset_id(dataset), "licence": dataset.get("license")}]
    rows += [
        {"what": "parent of the base", "id": parent.get("id"), "licence": parent.get("license")}
        for parent in base.get("parents") or (recipe.get("base") or {}).get("parents") or []
    ]
    rows.append({"what": "base", "id": _base(base)["id"], "licence": base.get("license")})
    return {
        "lineage": rows,
        "intended_use": register.get("intended_use"),
        "waivers": register.get("waivers") or [],
        "verdict": verdict,
    }


def plain(value: Any) -> Any:
    """JSON that every reader takes: no NaN (None), no control characters, keys as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)


def _champion(champion: Mapping | None, evaluate: Mapping) -> dict[str, Any] | None:
    if not champion:
        return None
    report = champion.get("evaluate") or {}
    return {
        **{key: champion.get(key) for key in ("number", "version")},
        "same_test": bool(report) and report.get("test_digest") == evaluate.get("test_digest"),
        "figures": report.get("adapter"),
        "general": (report.get("general") or {}).get("adapter"),
    }


def _data(reports: Mapping, dataset: Mapping, recipe: Mapping) -> dict[str, Any]:
    validate, tokenize = reports.get("validate", {}), reports.get("tokenize", {})
    counts = ("rows_in", "rows_out", "quarantined", "reasons", "splits", "clusters", "near_duplicates", "data_digest")
    kept = ("tokens_digest", "test_digest", "template", "max_length", "truncated_rows", "dropped_rows", "splits")
    return {
        "dataset": {**dataset, "id": _dataset_id(dataset)},
        "validate": {key: validate.get(key) for key in counts},
        "tokenize": {
            **{key: tokenize.get(key) for key in kept},
            **{key: value for key, value in tokenize.items() if key.startswith("canar")},
        },
        "canaries_asked": (recipe.get("tokenize") or {}).get("canaries"),
    }


def _base(base: Mapping) -> dict[str, Any]:
    """A base from a folder is named by the folder: where it lay on one machine says nothing to a reader."""
    name = str(base.get("id") or "an unnamed base")
    return {**base, "id": Path(name).name if base.get("source") == "path" else name}


def _dataset_id(dataset: Mapping) -> str:
    name = str(dataset.get("id") or dataset.get("source") or "an unnamed dataset")
    return Path(name).name if Path(name).is_absolute() else name


def _environment(reports: Mapping, extra: Mapping) -> dict[str, Any]:
    train, git = reports.get("train", {}), extra.get("git") or {}
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": train.get("device"),
        "dtype": train.get("dtype"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "git_commit": git.get("git.commit"),
        "git_dirty": git.get("git.dirty"),
        "packages": versions,
        **{key: value for key, value in (train.get("environment") or {}).items() if value is not None},
    }


def _answers(source: Any) -> list[dict[str, Any]]:
    if source is None:
        return []
    return _lines(Path(source)) if isinstance(source, str | Path) else list(source)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines: Iterable[str] = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number} is no JSON ({error}); run `dvc repro -f`") from None
        if not isinstance(found[-1], dict):
            raise EvaluationError(f"{path}, line {number} is no JSON object; run `dvc repro -f`")
    return found


def _optional(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EvaluationError(f"{path} is no JSON ({error}); run `dvc repro -f -s merge`") from None
