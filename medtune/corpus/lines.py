"""Bytes into lines of text: what every text format shares, and what is wrong with a file before it is parsed."""

import time
from collections.abc import Iterator
from pathlib import Path

from medtune.params.errors import CorpusError

STILL_COPYING_SECONDS = 2.0  # a file younger than this, with a cut last line, may still be on its way

_NOTES = {
    "bom": "{name}, line {line}: a byte order mark was left out; save the file as UTF-8 without BOM",
    "crlf": "{name}, line {line}: {n} lines end the Windows way (CRLF), read as line ends; "
    "`sed -i 's/\\r$//' {name}` mends the file",
    "nfd": "{name}, line {line}: {n} rows hold decomposed Hangul (NFD, as macOS writes it), left as they came; "
    "`uconv -x any-nfc` composes it",
    "blank": "{name}, line {line}: {n} blank lines were passed over; look there if rows are missing",
}


class Notes:
    """Flaws of one file that are read past: the first line and the count of each kind, told as sentences."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._seen: dict[str, list[int]] = {}

    def see(self, kind: str, line: int) -> None:
        self._seen.setdefault(kind, [line, 0])[1] += 1

    def sentences(self) -> list[str]:
        return [_NOTES[kind].format(name=self.name, line=line, n=n) for kind, (line, n) in self._seen.items()]


def refuse_foreign(path: Path) -> None:
    """CorpusError for a file that is empty or no data at all: a web page, a Git LFS pointer, an archive, UTF-16."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head.strip(b"\xef\xbb\xbf \t\r\n"):
        size = path.stat().st_size
        raise CorpusError(f"{path}: the file is empty ({size} bytes); copy or download it again, or remove it")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        raise CorpusError(
            f"{path}, line 1: this is a web page (HTML), not data, most likely a login or error page that was saved "
            "under the file's name; download it again in a browser that is signed in, or with the hub source"
        )
    if text.startswith(b"version https://git-lfs"):
        raise CorpusError(f"{path}: this is a Git LFS pointer, not the file itself; run `git lfs pull` in its checkout")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CorpusError(f"{path}: the file is UTF-16; {_iconv(path, 'UTF-16')}")
    if head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\x28\xb5\x2f\xfd")):
        raise CorpusError(f"{path}: the file is compressed; unpack it and name what is inside")


def read_lines(path: Path, notes: Notes, blanks: bool = False) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its line end) of every line.

    Blank lines are passed over and noted; with `blanks` they are given as "", for formats where they may be part of a
    value. Blank lines at the very end are a habit of editors: neither noted nor given.
    CorpusError for bytes that are not UTF-8 (with their offset) and for zero bytes.
    """
    offset = 0
    held: list[int] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            text = _decode(raw, offset, number, path)
            offset += len(raw)
            if text.startswith("\ufeff"):  # in the middle too: files that were joined with cat
                notes.see("bom", number)
                text = text[1:]
            if text.endswith("\r\n"):
                notes.see("crlf", number)
            text = text.rstrip("\r\n")
            if not text.strip():
                held.append(number)
                continue
            for blank in held:
                if blanks:
                    yield blank, ""
                else:
                    notes.see("blank", blank)
            held.clear()
            yield number, text


def cut_sentence(path: Path, line: int) -> str:
    """What to say of a file that ends in the middle of `line`."""
    said = f"{path}, line {line}: the file ends in the middle of this line"
    if 0 <= time.time() - path.stat().st_mtime < STILL_COPYING_SECONDS:
        return (
            f"{said}, and it changed a moment ago, so that it may still be being copied; run again when it is whole "
            "(copy under a name that starts with '.', then rename, and it is never read half)"
        )
    return f"{said}; copy or download it again, or delete that line if it may go: sed -i '$d' {path}"


def ends_unfinished(path: Path) -> bool:
    """Whether the last line has no line end."""
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"


def _decode(raw: bytes, offset: int, number: int, path: Path) -> str:
    zero = raw.find(b"\0")
    if zero >= 0:
        raise CorpusError(
            f"{path}, line {number}: zero bytes from byte {offset + zero} on, as a broken copy leaves them (or text "
            "in UTF-16); copy the file again"
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and error.start >= len(raw) - 3:  # the last line, without its end
            raise CorpusError(cut_sentence(path, number)) from None
        place = f"{path}, line {number}: byte {offset + error.start} is not UTF-8"
        if not _looks_korean(raw):
            raise CorpusError(f"{place}; copy the file again, or save it as UTF-8") from None
        raise CorpusError(f"{place} but reads as Korean in CP949; {_iconv(path, 'CP949')}") from None


def _looks_korean(raw: bytes) -> bool:
    """Whether the line is CP949: it decodes, and at least half of what is not ASCII are Hangul syllables."""
    try:
        foreign = [c for c in raw.decode("cp949") if not c.isascii()]
    except UnicodeDecodeError:
        return False
    return sum("가" <= c <= "힣" for c in foreign) * 2 >= len(foreign) > 0


def _iconv(path: Path, encoding: str) -> str:
    mended = path.with_suffix(f".utf8{path.suffix}")
    return f"convert it: iconv -f {encoding} -t UTF-8 '{path}' > '{mended}' and keep only the new file"
