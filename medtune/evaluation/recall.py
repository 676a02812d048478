"""Memorisation as one of the things that examine() asks of a model, kept like the others."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.evaluation import kept
from medtune.evaluation.answers import read_rows
from medtune.evaluation.examine import Memory
from medtune.evaluation.memorisation import examine, read_canaries
from medtune.evaluation.verbatim import SpanIndex

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def memory_of(
    canaries: Path, rows: Path, tokenizer: "PreTrainedTokenizerBase", worn: dict[str, Any], confidence: float
) -> Memory:
    """What to look for: the canaries of data/tokens and the training answers of data/valid/rows.jsonl.

    worn: template and system of the tokenizer. Building the index of answers waits until some model needs it.
    """
    train = [
        {
            "row_id": row["row_id"],
            "answer": "\n".join(m["content"] for m in row["messages"] if m["role"] == "assistant"),
        }
        for row in read_rows(rows).values()
        if row["split"] == "train"
    ]
    index = cache(lambda: SpanIndex(train))

    def look(model: Any, answers: list[dict]) -> dict:
        def told(done: int, total: int) -> None:
            print(f"canaries: {done} of {total} looked for")

        return examine(model, tokenizer, canaries, train, answers, confidence=confidence, index=index(), progress=told)

    asked = {
        "canaries": read_canaries(canaries),
        "train": kept.digest(sorted(row["row_id"] for row in train)),
        "confidence": confidence,
        "worn": worn,
        "code": kept.code_digest("medtune.evaluation.memorisation"),
    }
    return Memory(asked, look)
