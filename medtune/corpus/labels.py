"""From a dialogue to input_ids and labels, and the contract that labels keep.

Labels are -100 on everything but the assistant's words and the EOS that ends them. The prompt and each answer are
tokenized apart, so that no token straddles the border and the prompt's ids are those of inference
(template.prompt_ids; a test holds it).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medtune.corpus.template import prompt_ids, render, wants_bos
from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100

CONTRACT = (
    "exactly one BOS where the model wants it",
    "prompt masked",
    "EOS trained at the end of every answer",
    "at least one target token besides EOS",
    "no longer than max_length",
)


@dataclass(frozen=True)
class Encoded:
    """One sample. input_ids and labels: equally long; chars: characters of the trained text, EOS not counted."""

    input_ids: list[int]
    labels: list[int]
    chars: int
    truncated: bool


def encode(
    messages: list[dict], tokenizer: "PreTrainedTokenizerBase", max_length: int, overflow: str = "truncate"
) -> Encoded | None:
    """A dialogue as one sample for a tokenizer that has been dressed; None where it does not fit.

    A dialogue over max_length is cut inside its last answer that begins within it, and that answer keeps its EOS
    (overflow "truncate"), or given up (overflow "drop", or a prompt that leaves no room for two target tokens).
    Raises CorpusError where the template rewrites earlier turns, so that answers cannot be told from prompts.
    """
    eos = tokenizer.eos_token_id
    input_ids: list[int] = []
    labels: list[int] = []
    chars, truncated = 0, False
    for between, answer in _segments(messages, tokenizer):
        prompt = tokenizer(between, add_special_tokens=False).input_ids if between else []
        target = [*tokenizer(answer, add_special_tokens=False).input_ids, eos]
        room = max_length - len(input_ids) - len(prompt)
        if len(target) > room:
            truncated = True
            if overflow == "drop":
                return None
            if room < 2:
                break
            target = [*target[: room - 1], eos]
            answer = tokenizer.decode(target[:-1], clean_up_tokenization_spaces=False)
        input_ids += prompt + target
        labels += [IGNORED] * len(prompt) + target
        chars += len(answer)
        if truncated:
            break
    return Encoded(input_ids, labels, chars, truncated) if chars else None


def _segments(messages: list[dict], tokenizer: "PreTrainedTokenizerBase") -> list[tuple[str, str]]:
    """(text since the last answer, answer without EOS) for each of the assistant's turns."""
    segments, done = [], ""
    full = render(messages, tokenizer, answer=False)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        # A template of plain text has no prompt for its first words, and apply_chat_template refuses an empty list
        before = (
            render(messages[:i], tokenizer, answer=True) if i else (tokenizer.bos_token if wants_bos(tokenizer) else "")
        )
        after = render(messages[: i + 1], tokenizer, answer=False)
        if not (before.startswith(done) and after.startswith(before) and full.startswith(after[: len(before)])):
            raise CorpusError(
                f"the chat template renders turn {i + 1} differently once more turns follow, so that its answer cannot "
                "be found in the text; choose another tokenize.template"
            )
        answer = after[len(before) :].split(tokenizer.eos_token)[0]
        segments.append((before[len(done) :], answer))
        done = before + answer + tokenizer.eos_token
        # A template may end turns with another token than EOS; then EOS is added here and stands in no rendered text
        if not full.startswith(done):
            done = before + answer
    return segments


def first_prompt(messages: list[dict], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids before the first answer, as inference makes them; only BOS (or nothing) where text stands alone."""
    before = [m["role"] for m in messages].index("assistant")
    if before:
        return prompt_ids(messages[:before], tokenizer)
    return [tokenizer.bos_token_id] if wants_bos(tokenizer) else []


def violations(
    input_ids: list[int],
    labels: list[int],
    prompt: list[int],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
) -> list[str]:
    """What a sample breaks of the contract, as sentences; empty where it keeps it.

    `prompt`: the ids that inference would feed before the first answer (template.prompt_ids), made apart from the
    sample, so that labels are held against something else than themselves.
    """
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    found = []
    if len(input_ids) != len(labels):
        return [f"{len(input_ids)} input_ids but {len(labels)} labels"]
    if wants_bos(tokenizer) and (input_ids[:1] != [bos] or input_ids.count(bos) != 1):
        found.append(f"{input_ids.count(bos)} BOS tokens instead of one in front")
    if input_ids[: len(prompt)] != prompt:
        found.append("it does not begin with the prompt that inference would feed")
    if any(label != IGNORED for label in labels[: len(prompt)]):
        found.append("a token of the prompt is trained")
    if any(label not in (IGNORED, token) for token, label in zip(input_ids, labels, strict=True)):
        found.append("a label differs from its token")
    ends = [
        i for i, label in enumerate(labels) if label != IGNORED and (i + 1 == len(labels) or labels[i + 1] == IGNORED)
    ]
    if any(labels[i] != eos for i in ends) or not ends:
        found.append("an answer does not end with a trained EOS")
    if sum(label not in (IGNORED, eos) for label in labels) < 1:
        found.append("no target token besides EOS")
    if len(input_ids) > max_length:
        found.append(f"{len(input_ids)} tokens, over max_length {max_length}")
    return found
