"""Rows out of JSON lines and out of JSON lists, each with the line it begins on."""

import json
from collections.abc import Iterator
from pathlib import Path

from medtune.corpus.lines import Notes, cut_sentence, ends_unfinished, read_lines
from medtune.params.errors import CorpusError


def jsonl_rows(path: Path, notes: Notes) -> Iterator[tuple[int, dict]]:
    """(line, row) of a file with one JSON object a line. CorpusError names the line that is none."""
    held: tuple[int, ValueError, str] | None = None
    for number, text in read_lines(path, notes):
        if held:
            raise CorpusError(_not_json(path, *held))
        try:
            row = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
        except ValueError as error:
            held = number, error, text  # told once it is known whether it is the last line
            continue
        if not isinstance(row, dict):
            mend = "rename the file to end in .json" if isinstance(row, list) and number == 1 else "mend the line"
            raise CorpusError(
                f'{path}, line {number}: a row must be an object such as {{"instruction": …, "output": …}}, and this '
                f"is {_kind(row)}; {mend}"
            )
        yield number, row
    if held and isinstance(held[1], json.JSONDecodeError) and ends_unfinished(path):
        raise CorpusError(cut_sentence(path, held[0]))
    if held:
        raise CorpusError(_not_json(path, *held))


def json_rows(path: Path, notes: Notes) -> Iterator[tuple[int, dict]]:
    """(line, row) of a file that is one JSON list of objects, or an object with one list of them. Read at once."""
    text = "\n".join(line for _, line in read_lines(path, notes, blanks=True))
    try:
        whole = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or not text.rstrip().endswith(("]", "}")):
            raise CorpusError(cut_sentence(path, text.rstrip().count("\n") + 1)) from None
        raise CorpusError(f"{path}, line {error.lineno}: not JSON ({error.msg}); mend it there") from None
    except ValueError as error:
        raise CorpusError(f"{path}: {error}") from None
    if isinstance(whole, dict):
        lists = [key for key, value in whole.items() if isinstance(value, list)]
        if len(lists) != 1:
            found = f"several: {', '.join(lists)}" if lists else f"none, only {', '.join(whole)}"
            raise CorpusError(
                f"{path}: rows must be a list, or the one list of an object, and this object has {found}; "
                "save the rows as a list, or as .jsonl"
            )
        rows, start = whole[lists[0]], _list_under(text, lists[0])
    elif isinstance(whole, list):
        rows, start = whole, text.index("[")
    else:
        raise CorpusError(f"{path}: rows must be a list of objects, and this is {_kind(whole)}; save them as a list")
    for line, row in zip(_element_lines(text, start, len(rows)), rows, strict=True):
        if not isinstance(row, dict):
            raise CorpusError(f"{path}, line {line}: a row must be an object, and this is {_kind(row)}; mend it")
        yield line, row


def is_really_jsonl(path: Path) -> bool:
    """Whether a .json file's first line is a whole object and more follows: JSON lines by another name."""
    with path.open("rb") as file:
        first, more = file.readline().removeprefix(b"\xef\xbb\xbf"), file.read(64)
    try:
        return bool(more.strip()) and isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _object(pairs: list[tuple[str, object]]) -> dict:
    """An object whose keys stand once each; json would keep the last and lose the first in silence."""
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} stands twice in one object; keep one of them")
    return row


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON; write null")


def _not_json(path: Path, number: int, error: ValueError, text: str) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"{path}, line {number}: {error}"
    if number == 1 and text.lstrip().startswith(("[", "{")) and error.pos >= len(text.rstrip()):
        return f"{path}, line 1: the first object goes on past its line; rename the file to end in .json"
    return f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}); mend or delete the line"


def _element_lines(text: str, start: int, count: int) -> Iterator[int]:
    """The line on which each element of the list that opens at text[start] begins."""
    decoder = json.JSONDecoder()
    line, at, counted = 1, start + 1, 0
    for _ in range(count):
        at = _skip(text, at, ",")
        line += text.count("\n", counted, at)
        counted = at
        yield line
        at = decoder.raw_decode(text, at)[1]


def _list_under(text: str, wanted: str) -> int:
    """Where the list under the key `wanted` of the outermost object opens."""
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        key, at = decoder.raw_decode(text, _skip(text, at, ","))
        at = _skip(text, at, ":")
        if key == wanted:
            return at
        at = decoder.raw_decode(text, at)[1]


def _skip(text: str, at: int, mark: str) -> int:
    while text[at] in " \t\r\n" + mark:
        at += 1
    return at


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
