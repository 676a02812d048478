"""What was scored or answered once, by model and by what was asked: mlruns/scores/<model digest>/<set digest>.json.

A set digest names everything that was asked (rows or prompts in order, lengths, template, drawing, precision), so that
a changed setting is another set and nothing is ever compared with what was asked otherwise. What is there stands:
nobody is scored twice, and a champion's rows are those that it was judged by. Remove a file to have it made anew.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from medtune.params.errors import EvaluationError
from medtune.tracking.closure import source_digest
from medtune.tracking.store import HOME

FORMAT = 2  # of the file, and of what a set digest is taken over


def digest(asked: object) -> str:
    """sha256 of anything JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@cache
def code_digest(module: str) -> str:
    """sha256 over the syntax trees of a module and of all it imports: what was computed otherwise is another set."""
    return source_digest(module, Path(__file__).resolve().parents[2])


def rows_set(row_ids: Sequence[str], **settings: Any) -> str:
    """The digest of a set of test rows scored by teacher forcing; their order does not count.

    settings: max_length and overflow (they decide the text of a row), precision (the type that is computed in).
    """
    code = code_digest("medtune.evaluation.scores")
    return digest({"format": FORMAT, "task": "rows", "rows": sorted(row_ids), "code": code, **settings})


def answers_set(prompts: Sequence[Mapping[str, Any]], **settings: Any) -> str:
    """The digest of a set of prompts answered freely, {"id", "messages", "reference"} each, in order.

    settings: template, system, max_new_tokens, sampling, precision, and the version of the text figures.
    """
    code = code_digest("medtune.engine.generate")
    return digest({"format": FORMAT, "task": "answers", "prompts": list(prompts), "code": code, **settings})


def path_of(root: Path, model: str, asked: str) -> Path:
    return root / HOME / "scores" / model / f"{asked}.json"


def read(root: Path, model: str, asked: str) -> list[dict[str, Any]] | None:
    """The rows kept for a model and a set, or None where there are none yet. EvaluationError where they are damaged."""
    path = path_of(root, model, asked)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        sound = (kept["model"], kept["set"], kept["sha256"]) == (model, asked, digest(kept["rows"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError):
        sound = False
    if not sound:
        raise EvaluationError(
            f"{path} is damaged; remove it and run the stage again (`dvc repro -f -s evaluate`, or register), which "
            "scores the model anew"
        )
    return kept["rows"]


def write(root: Path, model: str, asked: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Keep rows under a model and a set, whole or not at all; what is there already stands."""
    path = path_of(root, model, asked)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    kept = {"model": model, "set": asked, "sha256": digest(rows), "rows": rows}
    temporary.write_text(json.dumps(kept, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path
