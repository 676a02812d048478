"""Personal data in Korean text: resident registration numbers, phone numbers, e-mail addresses, card numbers.

Finds what has a recognisable form; names and addresses have none and are not looked for. Whoever reports a finding
uses its masked form: a log or a report must not spread what the corpus should not have held.
"""

import re
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

# One character for one, so that positions stay true: full-width digits and the dashes that people type
_PLAIN = str.maketrans("０１２３４５６７８９＠．‐‑‒–—−－", "0123456789@.-------")

_WORTH_A_LOOK = re.compile(r"\d{4}|[@＠]")  # \d takes full-width digits too
_RESIDENT = re.compile(r"(?<!\d)(\d{2})(\d{2})(\d{2})(\s?-\s?|)(\d)(\d{6})(?!\d)")
# 010 and the older 011, 016 - 019, with or without +82; 050x safe numbers and 070 lead to a person as well
_MOBILE = re.compile(r"(?<![\d-])(?:\+?82[-. ]?\(?0?\)?|0)1[016789][-. )]{0,2}\d{3,4}[-. ]?\d{4}(?![\d-])")
# Area codes: 02, 031 - 033, 041 - 044, 051 - 055, 061 - 064. Without separators these are too much like other numbers
_LANDLINE = re.compile(
    r"(?<![\d-])(?:\+82[-. ]?|\(?0)(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|50\d)(?:\)\s?|[-. ])\d{3,4}[-. ]\d{4}(?![\d-])"
)
_EMAIL = re.compile(r"[A-Za-z0-9][\w.+-]*@[A-Za-z0-9](?:[A-Za-z0-9-]*\.)+[A-Za-z]{2,}", re.ASCII)
_CARD = re.compile(r"(?<![\d-])(?:[3-69]\d{3}([- ]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([- ]?)\d{6}\2\d{5})(?![\d-])")


class Finding(NamedTuple):
    kind: str
    start: int  # characters from the text's beginning, from 0
    end: int


def find_personal(text: str) -> list[Finding]:
    """Every finding in order of its place; where two kinds overlap, the first of the list above wins."""
    if not _WORTH_A_LOOK.search(text):
        return []
    plain = text.translate(_PLAIN)
    taken: list[Finding] = []
    for kind, search in _SEARCHES.items():
        for start, end in search(plain):
            if all(end <= other.start or start >= other.end for other in taken):
                taken.append(Finding(kind, start, end))
    return sorted(taken, key=lambda finding: finding.start)


def mask(text: str) -> str:
    """The text with every letter and digit of its personal data replaced by `*`; its length stays."""
    characters = list(text)
    for _, start, end in find_personal(text):
        characters[start:end] = [re.sub(r"\w", "*", character) for character in characters[start:end]]
    return "".join(characters)


def has_checksum(number: str) -> bool:
    """Whether 13 digits satisfy the resident registration number's check digit.

    Weights 2 to 9 and 2 to 5 over the first twelve, check = (11 - sum mod 11) mod 10; foreigners' numbers (seventh
    digit 5 to 8) add 2 before the last modulus. Source: 주민등록법 시행규칙 as it stood before October 2020, and the
    foreigners' variant of 출입국관리법 시행규칙.
    """
    total = sum(
        int(digit) * weight for digit, weight in zip(number, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False)
    )
    check = 11 - total % 11
    if number[6] in "5678":
        check += 2
    return check % 10 == int(number[12])


def _resident(text: str) -> Iterator[tuple[int, int]]:
    """Numbers given out since October 2020 end in random digits, so that a check digit proves and its absence
    disproves nothing. Decision: six digits that are a date, a hyphen and seven digits that begin with a sex and
    century are taken for one, whatever the check digit says, since hardly anything else is written so; thirteen
    digits in a row are taken for one only where the check digit holds too, since bar codes, order numbers and
    milliseconds look the same. A number of the new kind without its hyphen therefore passes."""
    for match in _RESIDENT.finditer(text):
        year, month, day, separator, sex, rest = match.groups()
        # 9 and 0: the 1800s; 1 2 5 6: the 1900s; 3 4 7 8: the 2000s
        century = 1800 if sex in "90" else 1900 if sex in "1256" else 2000
        if _is_date(century + int(year), int(month), int(day)) and (
            separator or has_checksum(year + month + day + sex + rest)
        ):
            yield match.span()


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _card(text: str) -> Iterator[tuple[int, int]]:
    """15 or 16 digits in a card's grouping that satisfy Luhn's check digit (ISO/IEC 7812-1, annex B)."""
    for match in _CARD.finditer(text):
        digits = [int(character) for character in match[0] if character.isdigit()]
        doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
        if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0:
            yield match.span()


def _spans(pattern: re.Pattern) -> object:
    return lambda text: (match.span() for match in pattern.finditer(text))


# Emergency and service numbers (119, 112, 1339, 109, 1588-0000, 080 …) are nobody's and match none of these.
_SEARCHES = {
    "a resident registration number": _resident,
    "a card number": _card,
    "a mobile phone number": _spans(_MOBILE),
    "a landline phone number": _spans(_LANDLINE),
    "an e-mail address": _spans(_EMAIL),
}
