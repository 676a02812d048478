"""One row of any habit -> messages: [{"role": "system" | "user" | "assistant", "content": text}, ...].

| habit | columns | becomes |
|---|---|---|
| MedGPT-5k-ko | `instruction` the patient's words, `input` empty, `output` | user, assistant |
| its sibling, GenMedGPT-5k-ko | the same `instruction` in all rows, `input`, `output` | system, user, assistant |
| Alpaca | `instruction` differs from row to row, `input`, `output` | user (with "input" beside), assistant |
| ShareGPT | `conversations`: a list of {from, value} | as they come |
| messages | `messages`: a list of {role, content} | as they come |
| text | one column of plain text | assistant alone |

Columns with other names are given by download.columns. Ends of texts are trimmed; nothing else is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    from medtune.params.download import Columns

# Names that corpora use, the commonest first; download.columns goes before all of them.
HABITS = {
    "instruction": ("instruction", "question", "prompt", "질문"),
    "input": ("input", "context"),
    "output": ("output", "answer", "response", "completion", "답변"),
    "system": ("system", "system_prompt"),
    "messages": ("messages", "conversations", "conversation"),
}
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "환자": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "의사": "assistant",
}
# Only of these, in order of first sight: rows that arrive later never change how old ones are read
FIRST_ROWS = 200
CONSTANT_SHARE = 0.9  # of the rows with input: so that a few rows of another habit do not change how the rest is read


def constant_instruction(rows: Iterable[dict], columns: Columns | None = None) -> str | None:
    """The instruction above (nearly) all of the first rows with an input, at least two: a system prompt. Or None."""
    counts: Counter[str] = Counter()
    for row in islice(rows, FIRST_ROWS):
        instruction, question = _column(row, "instruction", columns), _column(row, "input", columns)
        texts = row.get(instruction), row.get(question)
        if all(isinstance(text, str) and text.strip() for text in texts):
            counts[texts[0].strip()] += 1
    if not counts:
        return None
    text, count = counts.most_common(1)[0]
    return text if count >= max(2, CONSTANT_SHARE * counts.total()) else None


def to_messages(row: dict, format: str, columns: Columns, constant_instruction: str | None) -> list[dict]:
    """The dialogue of one row; `format` is download.format. CorpusError in a short sentence if there is none in it."""
    if format == "text":
        if columns.text not in row:
            raise CorpusError(_missing(row, repr(columns.text), "{text: 본문}"))
        if not (text := _text(row, columns.text)):
            raise CorpusError(f"column {columns.text!r} is empty")
        return [{"role": "assistant", "content": text}]
    turns = _column(row, "messages", columns)
    if format in ("sharegpt", "messages") or (format == "auto" and turns is not None):
        if turns is None:
            raise CorpusError(_missing(row, "messages or conversations, a list of turns", "{messages: 대화}"))
        return _dialogue(row[turns], turns)
    return _pair(row, columns, constant_instruction)


def _pair(row: dict, columns: Columns, constant: str | None) -> list[dict]:
    """Question and answer in two or three columns."""
    asked, more, answered = (_column(row, name, columns) for name in ("instruction", "input", "output"))
    if answered is None or (asked is None and more is None):
        needed = "instruction (or question, prompt, 질문) and output (or answer, response, 답변)"
        raise CorpusError(_missing(row, needed, "{instruction: 질문, output: 답변}"))
    instruction, given, answer = _text(row, asked), _text(row, more), _text(row, answered)
    system = _text(row, _column(row, "system", columns))
    if not answer:
        raise CorpusError(f"no answer: column {answered!r} is empty")
    if given and instruction and instruction == constant and not system:
        system, instruction, given = instruction, given, ""
    if given and instruction:
        user = {"role": "user", "content": instruction, "input": given}
    elif (given or instruction) and not (instruction and instruction == constant):
        user = {"role": "user", "content": given or instruction}
    else:
        raise CorpusError(f"no question: {' and '.join(repr(c) for c in (asked, more) if c)} hold none")
    head = [{"role": "system", "content": system}] if system else []
    return [*head, user, {"role": "assistant", "content": answer}]


def _dialogue(turns: object, column: str) -> list[dict]:
    """Turns of ShareGPT (from, value) or of messages (role, content): system first if any, user and assistant by turns,
    an assistant's at the end."""
    if not isinstance(turns, list) or not turns:
        raise CorpusError(f"column {column!r} holds no list of turns")
    messages = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise CorpusError(f"turn {number} is no object with role and content (or from and value)")
        said_by, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        role = ROLES.get(said_by.strip().lower()) if isinstance(said_by, str) else None
        if role is None:
            raise CorpusError(f"turn {number} is by {said_by!r}; known are {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise CorpusError(f"turn {number} ({role}) has no text")
        if role == "system" and messages:
            raise CorpusError(f"turn {number} is a system turn in the middle")
        if messages and messages[-1]["role"] == role:
            raise CorpusError(f"turns {number - 1} and {number} are both the {role}'s")
        messages.append({"role": role, "content": content.strip()})
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if not roles or roles[0] != "user":
        raise CorpusError("the dialogue does not begin with the user's turn")
    if roles[-1] != "assistant":
        raise CorpusError("the dialogue does not end with the assistant's turn")
    return messages


def _column(row: dict, name: str, columns: Columns | None) -> str | None:
    """The row's column for `name`: the recipe's, else the first habit that the row has."""
    if columns is not None and (named := getattr(columns, name)) is not None:
        return named if named in row else None
    for habit in HABITS[name]:
        if habit in row:
            return habit
    return None


def _text(row: dict, column: str | None) -> str:
    """The column's text, trimmed; "" where it is absent or null."""
    if column is None or (value := row.get(column)) is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(f"column {column!r} holds {type(value).__name__}, not text")
    return value.strip()


def _missing(row: dict, needed: str, example: str) -> str:
    found = ", ".join(map(str, list(row)[:12])) or "none"
    return f"columns found: {found}; needed: {needed}; name yours in the recipe, such as download.columns: {example}"
