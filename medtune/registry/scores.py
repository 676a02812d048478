"""Per-row scores of registered models on sets of test rows, kept under mlruns/scores/<version>/<rows digest>.json.

evaluate scores base and candidate only, so that DVC can cache it. The champion may have been judged on other rows than
the candidate's test split: then it is scored here, once, with its own tokenizer and template.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.corpus.tokens import rows_digest
from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.registry.versions import MERGED
from medtune.tracking.store import HOME

KEPT = ("row_id", "cluster", "nll", "tokens", "chars", "eos_after_reference")
VALID = Path("data/valid/rows.jsonl")


def candidate_rows(root: Path) -> list[dict[str, Any]]:
    """The merged candidate's scores of reports/evaluate/rows.parquet, one mapping a test row."""
    import pyarrow.parquet as pq

    path = root / "reports/evaluate/rows.parquet"
    try:
        rows = pq.read_table(path).to_pylist()
        rows = [{key: row[key] for key in KEPT} for row in rows if row["model"] == "merged"]
    except (OSError, KeyError) as error:
        raise RegistryError(f"{path} cannot be read ({error}); run `dvc repro -f -s evaluate`") from None
    if not rows:
        raise RegistryError(f"{path} holds no row of the merged model; run `dvc repro -f -s evaluate`")
    return rows


def keep_scores(root: Path, version: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a version's scores under the digest of their rows; what is there already stands."""
    path = _path(root, version, rows_digest([row["row_id"] for row in rows]))
    if not path.exists():
        _write(path, version, rows)
    return path


def kept_scores(root: Path, version: str, row_ids: Sequence[str]) -> list[dict[str, Any]] | None:
    """A version's scores on these test rows, or None where it has none yet."""
    path = _path(root, version, rows_digest(row_ids))
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (ValueError, KeyError):
        raise RegistryError(f"{path} is damaged; remove it and run `dvc repro -f -s register`") from None


def champion_scores(
    root: Path, recipe: Recipe, version: str, directory: Path, row_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """The champion's scores on these test rows: kept ones, or computed now from `directory`, which was verified."""
    if (kept := kept_scores(root, version, row_ids)) is not None:
        return kept
    path = _path(root, version, rows_digest(row_ids))
    rows = _score(root, recipe, directory / MERGED, set(row_ids))
    # filed under the rows that were asked for: one that does not fit the champion's template is asked for once, not
    # on every run
    _write(path, version, rows)
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
    # precision as stages/evaluate.py has it for the candidate
    model = load_model(merged, device=device, dtype=pick_dtype("auto", device))
    print(f"scoring the champion on {len(dataset)} test rows that it has no scores for")
    scored = score_rows(model, dataset, recipe.evaluate.batch_size, tokenizer.pad_token_id, None)
    return [{key: row[key] for key in KEPT} for row in scored]


def _path(root: Path, version: str, rows: str) -> Path:
    return root / HOME / "scores" / version / f"{rows}.json"


def _write(path: Path, version: str, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"version": version, "rows": list(rows)}) + "\n", encoding="utf-8")
    os.replace(temporary, path)
