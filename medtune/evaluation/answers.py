"""What every model is asked: test rows, questions, suites and canaries as prompts of one form.

A prompt is {"set", "id", "messages", "question", "reference", "kind", "rule", "why"}; messages stand before the answer,
question is the user's words for people to read, reference and the last three are None where a set has none. Suite
prompts keep what their file says beside it (topic …).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from medtune.params.evaluate import Evaluate

NOTHING = {"reference": None, "kind": None, "rule": None, "why": None}


@dataclass(frozen=True)
class Asked:
    """sets: the prompts of each set by its name; digests: of the suite files that some of them come from."""

    sets: dict[str, list[dict]]
    digests: dict[str, str]

    @property
    def files(self) -> list[dict]:
        """What reports/evaluate.json says of the suites: file, digest and how many of its prompts were asked."""
        return [
            {"file": f"data/suites/{name}.jsonl", "digest": digest, "prompts": len(self.sets[name])}
            for name, digest in self.digests.items()
        ]


def collect(settings: "Evaluate", row_ids: list[str], rows: Path, suites: Path, canaries: list[dict]) -> Asked:
    """Everything that a recipe's `evaluate` section asks of base and adapter.

    row_ids: of the test rows; rows: data/valid/rows.jsonl; suites: the folder of the suite files. Raises CorpusError
    or EvaluationError where a file is not as it must be.
    """
    from medtune.evaluation.suites import read_suite, select

    sets = {
        "test": row_prompts(read_rows(rows), row_ids, settings.answers),
        "questions": question_prompts(read_questions(Path(settings.questions), settings.max_questions)),
    }
    digests = {}
    for name in settings.suites:
        suite = read_suite(suites / f"{name}.jsonl")
        digests[name] = suite.digest
        sets[name] = suite_prompts(name, select(suite, settings.suite_prompts))
    if canaries:
        sets["canaries"] = canary_prompts(canaries)
    return Asked(sets, digests)


def read_questions(path: Path, limit: int | None) -> list[dict]:
    """{"question", "reference"} a line; CorpusError names file and line of one that is not."""
    questions = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise CorpusError(f"evaluate.questions: {path} cannot be read ({error}); give a UTF-8 JSONL file") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            questions.append({"question": str(row["question"]), "reference": str(row["reference"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CorpusError(
                f'{path} line {number} is not {{"question": …, "reference": …}} ({error}); mend the line'
            ) from None
    if not questions:
        raise CorpusError(f"{path} holds no question; give at least one")
    return questions[:limit]


def read_rows(path: Path) -> dict[str, dict]:
    """data/valid/rows.jsonl by row id; CorpusError where it cannot be read."""
    try:
        return {row["row_id"]: row for row in map(json.loads, path.open(encoding="utf-8"))}
    except (OSError, ValueError, KeyError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); run `dvc repro -f -s validate`") from None


def question_prompts(questions: list[dict]) -> list[dict]:
    return [_prompt("questions", f"q-{n:03d}", one["question"], one["reference"]) for n, one in enumerate(questions, 1)]


def row_prompts(rows: dict[str, dict], row_ids: list[str], limit: int | None) -> list[dict]:
    """The first answer of so many test rows, chosen by their ids: hashes, so that added rows displace few.

    A row that begins with the answer (plain text) asks nothing and is passed over. CorpusError where a row is missing.
    """
    prompts = []
    for row_id in sorted(row_ids):
        if row_id not in rows:
            raise CorpusError(
                f"data/valid/rows.jsonl has no row {row_id[:12]}, which the test split holds; run `dvc repro`"
            )
        messages = rows[row_id]["messages"]
        first = [message["role"] for message in messages].index("assistant")
        if first:
            asked = [text for m in messages[:first] if m["role"] == "user" for text in (m["content"], m.get("input"))]
            prompts.append(
                {
                    "set": "test",
                    "id": row_id,
                    "messages": messages[:first],
                    "question": "\n\n".join(text for text in asked if text),
                    **NOTHING,
                    "reference": messages[first]["content"],
                }
            )
        if len(prompts) == limit:
            break
    return prompts


def suite_prompts(name: str, prompts: list[dict]) -> list[dict]:
    """The prompts of a suite file; `answer`, where they have one, is the reference."""
    return [
        {**NOTHING, **one, **_prompt(name, one["id"], one["prompt"], one.get("answer")), **_of(one)} for one in prompts
    ]


def canary_prompts(canaries: list[dict]) -> list[dict]:
    """The planted questions (corpus/canaries.py); what was planted is no reference to come near to."""
    return [_prompt("canaries", one["id"], one["question"], None) for one in canaries]


def reference_rows(prompts: list[dict], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> "Dataset":
    """Prompts with their reference answers as samples to score; every prompt is a cluster of its own."""
    from medtune.corpus.tokens import encode_split

    rows = [
        {
            "row_id": prompt["id"],
            "cluster": prompt["id"],
            "source": f"data/suites/{prompt['set']}.jsonl",
            "messages": [*prompt["messages"], {"role": "assistant", "content": prompt["reference"]}],
        }
        for prompt in prompts
    ]
    return encode_split(rows, tokenizer, max_length, "truncate", "general").dataset


def _prompt(name: str, key: str, question: str, reference: str | None) -> dict:
    messages = [{"role": "user", "content": question}]
    return {"set": name, "id": key, "messages": messages, "question": question, **NOTHING, "reference": reference}


def _of(one: dict) -> dict:
    return {key: one.get(key) for key in ("kind", "rule", "why")}
