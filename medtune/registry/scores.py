"""Per-row scores of registered models on sets of test rows, kept by medtune/evaluation/kept.py.

evaluate scores base and candidate only, so that DVC can cache it. The champion may have been judged on other rows than
the candidate's test split, or in other lengths: then it is scored here, once, with its own tokenizer and template.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.evaluation import kept
from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe, load_recipe
from medtune.registry.versions import MERGED

KEPT = ("row_id", "cluster", "nll", "tokens", "chars", "eos_after_reference")
VALID = Path("data/valid/rows.jsonl")


def keep_scores(root: Path, version: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a version's scores under the digest of their rows; what is there already stands."""
    return kept.write(root, version, _asked(root, [row["row_id"] for row in rows]), rows)


def kept_scores(root: Path, version: str, row_ids: Sequence[str]) -> list[dict[str, Any]] | None:
    """A version's scores on these test rows, or None where it has none yet. EvaluationError where they are damaged."""
    return kept.read(root, version, _asked(root, row_ids))


def champion_scores(
    root: Path, recipe: Recipe, version: str, directory: Path, row_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """The champion's scores on these test rows: kept ones, or computed now from `directory`, which was verified."""
    if (found := kept_scores(root, version, row_ids)) is not None:
        return found
    rows = _score(root, recipe, directory / MERGED, set(row_ids))
    # filed under the rows that were asked for: one that does not fit the champion's template is asked for once, not
    # on every run
    kept.write(root, version, _asked(root, row_ids), rows)
    return rows


def compare(candidate: Sequence[Mapping[str, Any]], champion: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean negative log-likelihood in nats per character of both, on the rows that both scored in the same length.

    A row that one of them had to cut (a shorter max_length, another tokenizer) is another text and left out.
    """
    theirs = {row["row_id"]: row for row in champion}
    pairs = [(row, theirs[row["row_id"]]) for row in candidate if row["row_id"] in theirs]
    pairs = [(ours, other) for ours, other in pairs if ours["chars"] == other["chars"] and ours["chars"] > 0]
    chars = sum(ours["chars"] for ours, _ in pairs)
    return {
        "rows": len(pairs),
        "total": len(candidate),
        "candidate": sum(ours["nll"] for ours, _ in pairs) / chars if chars else None,
        "champion": sum(other["nll"] for _, other in pairs) / chars if chars else None,
    }


def _score(root: Path, recipe: Recipe, merged: Path, row_ids: set[str]) -> list[dict[str, Any]]:
    import torch

    from medtune.corpus.tokens import encode_split
    from medtune.engine.device import pick_device, pick_dtype
    from medtune.engine.load import load_model, load_tokenizer
    from medtune.evaluation.scores import score_rows

    path = root / VALID
    try:
        rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    except OSError:
        raise RegistryError(f"{path} is missing; run `dvc repro`") from None
    wanted = [row for row in rows if row["row_id"] in row_ids]
    if len(wanted) != len(row_ids):
        lacking = len(row_ids) - len(wanted)
        raise RegistryError(f"{path} lacks {lacking} of {len(row_ids)} test rows that evaluate scored; run `dvc repro`")
    # the merged model's tokenizer wears the template that it was trained with
    tokenizer = load_tokenizer(merged)
    # the candidate's bound, so that both see the same texts; what the champion was trained with binds nothing here
    settings = recipe.tokenize
    dataset = encode_split(wanted, tokenizer, settings.max_length, settings.overflow, "champion").dataset
    device = pick_device(recipe.train.device)
    # the candidate's precision, whichever machine it was evaluated on: rows are kept and compared under its name
    precision = _precision(root)
    model = load_model(
        merged, device=device, dtype=getattr(torch, precision) if precision else pick_dtype("auto", device)
    )
    print(f"scoring the champion on {len(dataset)} test rows that it has no scores for")
    scored = score_rows(model, dataset, recipe.evaluate.batch_size, tokenizer.pad_token_id, None)
    return [{key: row[key] for key in KEPT} for row in scored]


def _asked(root: Path, row_ids: Sequence[str]) -> str:
    """The set that these rows are, as evaluate asks for them: in the recipe's lengths and evaluate's precision."""
    recipe = root / "params.yaml"
    settings = load_recipe(recipe).tokenize if recipe.exists() else None
    return kept.rows_set(
        row_ids,
        max_length=settings and settings.max_length,
        overflow=settings and settings.overflow,
        precision=_precision(root),
    )


def _precision(root: Path) -> str | None:
    """What evaluate computed in, such as float32; None where its report does not say."""
    try:
        return json.loads((root / "reports/evaluate.json").read_text(encoding="utf-8")).get("precision")
    except (OSError, ValueError):
        return None
