"""The drift report in Prefect's Artifacts: one key a model, so that the page shows how it went from run to run."""

import re
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from medtune.params.recipe import Recipe


def key(model: str, what: str = "drift") -> str:
    """medtune-drift-<model>: Prefect takes lower case letters, digits and dashes."""
    return f"medtune-{what}-{re.sub('[^a-z0-9]+', '-', model.lower()).strip('-')}"


def publish(root: Path, recipe: Recipe, report: dict[str, Any]) -> str:
    """The report of registry.drift_report as Markdown with bars, and its measures as a table; returns the key.

    Belongs to the flow run that it is called in. Artifacts of an earlier run keep their place in the key's history.
    """
    model, measures = recipe.register_.model, report["drift"]["measures"]
    create_markdown_artifact(markdown=report["markdown"], key=key(model), description=report["sentence"])
    if measures:
        columns = ("label", "statistic", "value", "chance", "size", "threshold", "p")
        rows = [{name: _short(one[name]) for name in columns} | {"alarm": one["alarm"] or ""} for one in measures]
        create_table_artifact(table=rows, key=key(model, "drift-figures"), description=report["sentence"])
    return key(model)


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else "" if value is None else value
