"""Row checks: is this dialogue fit to learn from?

Each check is a function of (dialogue, limits) that returns None or a sentence saying what is wrong and how to mend it.
Its name in CHECKS is what reports count by. A sentence names places and kinds and quotes no personal data.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from medtune.corpus.leaks import find_leaked_turn, find_prompt_residue, find_template_token
from medtune.corpus.personal import find_personal

if TYPE_CHECKING:
    from medtune.params.validate import Validate


@dataclass(frozen=True)
class Dialogue:
    """A row's messages with what the checks measure. Lengths are characters without white space at the ends."""

    messages: list[dict]

    @cached_property
    def question(self) -> str:
        """All that the user says, a turn a line; empty in a row that is plain text."""
        return "\n".join(text for part, text in self.parts if part == "question").strip()

    @cached_property
    def answer(self) -> str:
        """All that the assistant says, a turn a line: what is trained on."""
        return "\n".join(text for part, text in self.parts if part == "answer").strip()

    @cached_property
    def hangul_share(self) -> float:
        """Hangul among the answer's letters, 0 to 1; 0 where there is no letter."""
        letters = sum(map(str.isalpha, self.answer))
        return len(_HANGUL.findall(self.answer)) / letters if letters else 0.0

    @property
    def asks(self) -> bool:
        """Whether the row has a user's turn at all (plain text to learn from has none)."""
        return any(message["role"] == "user" for message in self.messages)

    @cached_property
    def parts(self) -> list[tuple[str, str]]:
        """(question | answer | system prompt, text) of every message that has any, in order."""
        names = {"user": "question", "assistant": "answer"}
        texts = ((m["role"], text) for m in self.messages for text in (m["content"], m.get("input")))
        return [(names.get(role, "system prompt"), text) for role, text in texts if text]


def missing(dialogue: Dialogue, limits: Validate) -> str | None:
    """An empty question or answer, or a dialogue that does not end with an answer."""
    empty = [
        part
        for part, lacks in (("question", dialogue.asks and not dialogue.question), ("answer", not dialogue.answer))
        if lacks
    ]
    if empty:
        return f"the {' and the '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty: fill in or remove the row"
    if dialogue.messages[-1]["role"] != "assistant":
        return f"the dialogue ends with the {dialogue.messages[-1]['role']}, not with an answer: cut that turn off"
    return None


def question_length(dialogue: Dialogue, limits: Validate) -> str | None:
    if not dialogue.asks:
        return None
    return _length("question", dialogue.question, limits.min_question_chars, limits.max_question_chars)


def answer_length(dialogue: Dialogue, limits: Validate) -> str | None:
    return _length("answer", dialogue.answer, limits.min_answer_chars, limits.max_answer_chars)


def hangul(dialogue: Dialogue, limits: Validate) -> str | None:
    """Too little Hangul among the answer's letters: another language, or text that was decoded wrongly."""
    if not dialogue.answer or dialogue.hangul_share >= limits.min_hangul_share:
        return None
    return (
        f"Hangul is {dialogue.hangul_share:.0%} of the answer's letters, under {limits.min_hangul_share:.0%}: "
        "translate it, or lower validate.min_hangul_share"
    )


def unicode_form(dialogue: Dialogue, limits: Validate) -> str | None:
    """Not NFC. macOS file names and some PDFs give NFD: syllables in pieces, other tokens for the same words."""
    for part, text in dialogue.parts:
        if not unicodedata.is_normalized("NFC", text):
            form = "NFD, each syllable in pieces" if any("\u1100" <= c <= "\u11ff" for c in text) else "not NFC"
            return f"the {part} is {form}: convert it with unicodedata.normalize('NFC', text)"
    return None


def control_characters(dialogue: Dialogue, limits: Validate) -> str | None:
    """Characters that nobody sees or that stand for lost ones: control, zero-width, bidi, fillers, U+FFFD."""
    for part, text in dialogue.parts:
        for place, character in find_control(text):
            name = unicodedata.name(character, "a control character")
            mend = "read the file in its own encoding" if character == "\ufffd" else "remove it"
            return f"the {part} holds U+{ord(character):04X} ({name.lower()}) at character {place + 1}: {mend}"
    return None


def leaked_turn(dialogue: Dialogue, limits: Validate) -> str | None:
    """A second speaker inside one answer."""
    for part, text in dialogue.parts:
        if part == "answer" and (found := find_leaked_turn(text)):
            place, label = found
            return f"the answer holds another speaker's turn ('{label}' at character {place + 1}): cut it off there"
    return None


def template_tokens(dialogue: Dialogue, limits: Validate) -> str | None:
    """Markers of a prompt template: the template adds its own, and these would be trained as text."""
    for part, text in dialogue.parts:
        if found := find_template_token(text):
            place, token = found
            return f"the {part} holds the template token {token} at character {place + 1}: remove it"
    return None


def prompt_residue(dialogue: Dialogue, limits: Validate) -> str | None:
    """The generator of the text speaks of its prompt or of itself."""
    for part, text in dialogue.parts:
        if part == "answer" and (found := find_prompt_residue(text)):
            place, words = found
            return f"the answer speaks of how it was generated ('{words}' at character {place + 1}): cut that out"
    return None


def personal_data(dialogue: Dialogue, limits: Validate) -> str | None:
    """Registration number, phone, e-mail or card number; see medtune/corpus/personal.py."""
    found = [
        f"{finding.kind} at character {finding.start + 1} of the {part}"
        for part, text in dialogue.parts
        for finding in find_personal(text)
    ]
    return f"it holds {', '.join(found)}: remove it or put a placeholder there" if found else None


def line_breaks(dialogue: Dialogue, limits: Validate) -> str | None:
    """More lines than a dialogue has: most likely a pasted document."""
    count = count_line_breaks(dialogue)
    if count <= limits.max_line_breaks:
        return None
    return f"{count} line breaks, more than {limits.max_line_breaks}: split the row, or raise validate.max_line_breaks"


# In the order in which a reader would want to know
CHECKS: dict[str, Callable[[Dialogue, Validate], str | None]] = {
    "missing": missing,
    "question_length": question_length,
    "answer_length": answer_length,
    "hangul": hangul,
    "unicode_form": unicode_form,
    "control_characters": control_characters,
    "leaked_turn": leaked_turn,
    "template_tokens": template_tokens,
    "prompt_residue": prompt_residue,
    "personal_data": personal_data,
    "line_breaks": line_breaks,
}


def examine(dialogue: Dialogue, limits: Validate) -> dict[str, str]:
    """Name -> sentence of every check that the dialogue fails; empty if it is fit to learn from."""
    return {name: sentence for name, check in CHECKS.items() if (sentence := check(dialogue, limits))}


def count_line_breaks(dialogue: Dialogue) -> int:
    return sum(len(text.strip().splitlines()) - 1 for _, text in dialogue.parts if text.strip())


def find_control(text: str) -> Iterator[tuple[int, str]]:
    """(place from 0, character) of what should not be in a text. A joiner inside an emoji is legitimate."""
    if text.replace("\n", " ").isprintable() and not any(map(text.__contains__, _INVISIBLE)):
        return  # nearly every text, at the speed of C
    for place, character in enumerate(text):
        if character in "\n\r\t" or (character.isprintable() and character not in _INVISIBLE):
            continue
        category = unicodedata.category(character)
        if category.startswith("Z") and character not in "\u2028\u2029":  # spaces of any width
            continue
        if character == "\u200d" and place and unicodedata.category(text[place - 1]) in ("So", "Sk", "Mn"):
            continue
        yield place, character


_HANGUL = re.compile("[가-힣\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\ud7b0-\ud7ff]")
# Printable by Python's account: the replacement character, Hangul fillers, the Braille blank
_INVISIBLE = frozenset("\ufffd\u115f\u1160\u3164\uffa0\u2800")


def _length(part: str, text: str, low: int, high: int) -> str | None:
    if text and len(text) < low:
        return f"the {part} has {len(text)} characters, under {low}: complete it, or lower validate.min_{part}_chars"
    if len(text) > high:
        return f"the {part} has {len(text)} characters, over {high}: shorten it, or raise validate.max_{part}_chars"
    return None
