"""A candidate's whole record in its MLflow run, from the reports: it does not matter which stages really ran."""

import json
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.registry.evidence import STAGES, Evidence, git_tags, identity_tags
from medtune.tracking.runs import candidate_run, figures, flatten, log_curve, log_record, send_unsent, unsent_file

# sections that make a candidate: MLflow's params can never change, so that later stages' settings cannot be among them
PARAMS = ("base", "tokenize", "lora", "train")
# file or folder -> folder in the run
ARTIFACTS = {
    "params.yaml": "",
    "reports": "reports",
    "reports/evaluate": "evaluate",
    "data/adapter/history.jsonl": "train",
    "data/merged/certificate.json": "merge",
}


def record_run(uri: str, root: Path, recipe: Recipe, evidence: Evidence) -> str:
    """Open the candidate's run and bring it up to the reports; returns its id. The caller finishes it."""
    run_id = candidate_run(
        uri,
        recipe.register_.experiment,
        evidence.candidate,
        name=f"candidate {evidence.candidate[:12]}",
        tags=git_tags(root),
    )
    send_unsent(uri, run_id, unsent_file(root, evidence.candidate))  # with the times of then, so before the curve
    log_curve(uri, run_id, _history(root / "data/adapter/history.jsonl"))
    metrics: dict[str, float] = {}
    for stage in STAGES:
        metrics |= figures(evidence.reports[stage], f"{stage}.")
    log_record(uri, run_id, _params(recipe), metrics, _artifacts(root), _tags(evidence))
    return run_id


def _params(recipe: Recipe) -> dict[str, Any]:
    sections = {name: getattr(recipe, name).model_dump(mode="json") for name in PARAMS}
    return {key: value for key, value in flatten(sections).items() if value is not None}


def _tags(evidence: Evidence) -> dict[str, str]:
    return identity_tags(evidence) | {"medtune.version": evidence.version}


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path} cannot be read ({error}); run `dvc repro -f -s train`") from None


def _artifacts(root: Path) -> dict[Path, str]:
    """Files to upload. Not register's own report, which is written afterwards, nor Data Docs' hundreds of files."""
    files = {}
    for name, folder in ARTIFACTS.items():
        path = root / name
        if path.is_file():
            files[path] = folder
        elif path.is_dir():
            for file in path.iterdir():
                if file.is_file() and file.name != "register.json" and not file.name.startswith("."):
                    files[file] = folder
    return files
