"""Answers to a file of questions, in batches, into a file that grows and can be gone on with: `medtune predict`.

    rows = read_rows(Path("in.jsonl"))
    predict(rows, Path("out.jsonl"), Asking(version, 256), load)

Beside OUT stands OUT.meta.json: the version and the settings that its answers are of. Batches are cut by the order of
the questions and made whole again when a run is gone on with, so that an answer has the same neighbours whether the
run was cut off or not. Neighbours matter in the last digits only: sums of another batch size round otherwise, which can
turn a near tie between two words, so that batch_size is one of the settings.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from medtune.engine.decode import Sampling
from medtune.engine.lora import write_json
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUESTIONS = ("question", "instruction", "prompt")
SHOWN = 5  # bad lines that an error names
FITS = 32  # prompts at once where nobody says: a GPU that cannot halves them by itself
EXAMPLE = '{"id": "1", "question": "머리가 아파요."}'


@dataclass(frozen=True)
class Row:
    """A question. line: in the input, from 1; id: the row's own, or made from its line and words."""

    line: int
    id: str
    question: str
    messages: list[dict]


@dataclass(frozen=True)
class Asking:
    """What a file of answers is of. version: the digest; sampling: None for the likeliest word at each step."""

    version: str
    max_new_tokens: int
    sampling: Sampling | None = None
    batch_size: int = FITS

    def record(self) -> dict[str, Any]:
        return {"format": 1, **asdict(self)}


def read_rows(path: Path) -> list[Row]:
    """Every question of a JSONL file. EngineError names file, line and mend of the lines that are none; nothing is
    answered before all are in order."""
    try:
        # at line ends alone: str.splitlines would cut at U+2028 too, which JSON has inside its texts
        lines = path.read_text(encoding="utf-8-sig").split("\n") if path.exists() else None
    except UnicodeDecodeError as error:
        raise EngineError(f"{path} is no UTF-8 at byte {error.start}; save it as UTF-8") from None
    if lines is None:
        raise EngineError(f"{path} is not there; give a JSONL file with a line such as {EXAMPLE}")
    rows, wrong, seen = [], [], {}
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = _row(number, text)
            if row.id in seen:
                raise ValueError(f"id {row.id!r} stands in line {seen[row.id]} already; give each row its own")
        except ValueError as error:
            wrong.append(f"{path}, line {number}: {error}")
            continue
        seen[row.id] = number
        rows.append(row)
    if wrong:
        more = f"\nand {len(wrong) - SHOWN} more lines" if len(wrong) > SHOWN else ""
        raise EngineError("\n".join(wrong[:SHOWN]) + more)
    if not rows:
        raise EngineError(f"{path} holds no question; give a line such as {EXAMPLE}")
    return rows


def _row(number: int, text: str) -> Row:
    try:
        told = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno}); mend or delete the line") from None
    if not isinstance(told, dict):
        raise ValueError(f"a line must be an object such as {EXAMPLE}")
    if "messages" in told:
        messages = _messages(told["messages"])
    else:
        key = next((key for key in QUESTIONS if key in told), None)
        if key is None:
            found = ", ".join(map(str, told)) or "none"
            raise ValueError(f"none of the keys {', '.join(QUESTIONS)} and messages (found: {found}); rename yours")
        if not isinstance(told[key], str) or not told[key].strip():
            raise ValueError(f"{key} holds no text; write the question, or delete the line")
        messages = [{"role": "user", "content": told[key].strip()}]
    own = told.get("id")
    if own is not None and (isinstance(own, bool) or not isinstance(own, str | int) or own == ""):
        raise ValueError("id must be a text or a whole number; mend it, or leave it out")
    asked = hashlib.sha256(json.dumps(messages, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
    identity = str(own) if own is not None else f"line-{number}-{asked[:16]}"
    return Row(number, identity, messages[-1]["content"], messages)


def _messages(told: object) -> list[dict]:
    if not isinstance(told, list) or not told:
        raise ValueError('messages must be a list of turns such as [{"role": "user", "content": …}]')
    for turn, message in enumerate(told, 1):
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            raise ValueError(f"turn {turn} of messages has no role of system, user, assistant; mend it")
        if not isinstance(message.get("content"), str) or not isinstance(message.get("input", ""), str):
            raise ValueError(f"turn {turn} of messages has no text as its content; mend it")
    if told[-1]["role"] != "user" or not told[-1]["content"].strip():
        raise ValueError("messages must end with the user's question; leave the answer out")
    return told


def predict(
    rows: list[Row],
    out: Path,
    asking: Asking,
    load: "Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]",
    progress: Callable[[int, int, float], None] | None = None,
) -> int:
    """Answer the rows that `out` does not answer yet; how many were answered now.

    A line each: {"id", "question", "answer", "tokens", "ended", "version"}, appended when its batch is done and on the
    disk before the next begins. `load` is called only where something is left to answer; the tokenizer must be the
    model's own. progress: (answered, of, answers a second since the start). EngineError where `out` is of another
    version or other settings, where another process writes to it, and for a prompt that is too long.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a+b") as file:
        _only_one(file, out)
        _same_asking(out, file, asking)
        done = _answered(file, out, rows)
        left = [row for row in rows if row.id not in done]
        if not left:
            return 0
        model, tokenizer = load()
        _must_fit(rows, model, tokenizer, asking.max_new_tokens)
        began, new = time.monotonic(), 0
        for start in range(0, len(rows), asking.batch_size):
            batch = rows[start : start + asking.batch_size]
            missing = [row.id not in done for row in batch]
            if not any(missing):
                continue
            lines = [
                line for line, lacks in zip(_answer(batch, model, tokenizer, asking), missing, strict=True) if lacks
            ]
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
            new += len(lines)
            if progress:
                progress(len(done) + new, len(rows), new / (time.monotonic() - began))
    return new


def _answer(batch: list[Row], model: Any, tokenizer: Any, asking: Asking) -> list[bytes]:
    from medtune.engine.generate import answer_all

    questions = [row.messages for row in batch]
    answers = answer_all(model, tokenizer, questions, asking.max_new_tokens, len(batch), asking.sampling)
    lines = []
    for row, answer in zip(batch, answers, strict=True):
        told = {"id": row.id, "question": row.question, "answer": answer["text"]}
        told |= {"tokens": answer["tokens"], "ended": answer["ended"], "version": asking.version}
        lines.append((json.dumps(told, ensure_ascii=False) + "\n").encode())
    return lines


def meta_path(out: Path) -> Path:
    """Where the version and settings of a file of answers stand."""
    return out.with_name(out.name + ".meta.json")


def kept_asking(out: Path) -> dict[str, Any] | None:
    """What OUT.meta.json says; None where there is none."""
    try:
        return json.loads(meta_path(out).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise EngineError(
            f"{meta_path(out)} is not JSON ({error}); remove it with {out}, or name another OUT"
        ) from None


def _only_one(file: IO[bytes], out: Path) -> None:
    """Freed by the kernel when this process ends, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise EngineError(f"another process writes to {out}; wait for it, or name another OUT") from None


def _same_asking(out: Path, file: IO[bytes], asking: Asking) -> None:
    kept, wanted = kept_asking(out), asking.record()
    if kept is None:
        if os.fstat(file.fileno()).st_size:
            raise EngineError(
                f"{out} holds lines, and no {meta_path(out).name} says of which version; name another OUT, or move it"
            )
        write_json(meta_path(out), wanted)
    elif kept != wanted:
        told = [
            f"{key} {_short(kept.get(key))} and not {_short(wanted.get(key))}"
            for key in sorted(kept.keys() | wanted.keys())
            if kept.get(key) != wanted.get(key)
        ]
        raise EngineError(
            f"{out} has answers with {', '.join(told)}; one file holds the answers of one version and setting: go on "
            "with those, or name another OUT"
        )


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else json.dumps(value)


def _answered(file: IO[bytes], out: Path, rows: list[Row]) -> set[str]:
    """Ids that are answered already; what a kill left of a last line is cut off."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        file.truncate(whole)
    asked = {row.id: row for row in rows}
    done = set()
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            told = json.loads(line)
            identity, question = told["id"], told["question"]
        except (ValueError, KeyError, TypeError):
            raise EngineError(f"{out}, line {number} is no answer; remove the line, and it is answered anew") from None
        if identity in asked and asked[identity].question != question:
            raise EngineError(
                f"{out}, line {number} answers another question under id {identity!r} than line "
                f"{asked[identity].line} of the input asks; name another OUT, or give the new question its own id"
            )
        done.add(identity)
    return done & asked.keys()


def _must_fit(rows: list[Row], model: Any, tokenizer: Any, new: int) -> None:
    """EngineError for a prompt that the template refuses or that is too long, before the first answer."""
    from jinja2 import TemplateError

    from medtune.corpus.template import prompt_ids

    room = getattr(model.config, "max_position_embeddings", None)
    for row in rows:
        try:
            length = len(prompt_ids(row.messages, tokenizer))
        except TemplateError as error:
            raise EngineError(f"line {row.line} (id {row.id}): the model's template refuses it ({error})") from None
        if room and length + new > room:
            raise EngineError(
                f"line {row.line} (id {row.id}): {length} tokens and {new} new ones are more than the model's {room} "
                "positions; shorten the question, or lower --max-new-tokens"
            )


def generation_defaults(folder: Path) -> dict[str, Any]:
    """temperature, top_k, top_p, repetition_penalty and max_new_tokens of a merged model's generation_config.json."""
    file = folder / "generation_config.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "max_new_tokens": 256}
    return {key: value if told.get(key) is None else told[key] for key, value in plain.items()}
