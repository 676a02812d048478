"""Files as people have them: what is read, what is noted, what is refused and with which sentence."""

import json
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medtune.corpus.lines import Notes
from medtune.corpus.readers import data_files, read_rows
from medtune.params.errors import CorpusError

ROW = {"instruction": "머리가 아파요.", "input": "", "output": "물을 드시고 쉬세요."}
LINE = json.dumps(ROW, ensure_ascii=False)


def put(path: Path, content: str | bytes, age: float = 60) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def read(path: Path) -> tuple[list[tuple[int, dict]], list[str]]:
    notes = Notes(path.name)
    return list(read_rows(path, notes)), notes.sentences()


def refusal(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_jsonl(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", f"{LINE}\n{LINE}")
    assert read(path) == ([(1, ROW), (2, ROW)], [])


def test_json_list_with_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", json.dumps([ROW, ROW], indent=1))
    assert read(path) == ([(2, ROW), (7, ROW)], [])


def test_json_object_with_one_list(tmp_path: Path) -> None:
    text = json.dumps({"version": {"data": 1}, "data": [ROW, {"a": [1]}], "n": 2}, ensure_ascii=False)
    assert read(put(tmp_path / "a.json", text)) == ([(1, ROW), (1, {"a": [1]})], [])
    two = put(tmp_path / "b.json", json.dumps({"train": [ROW], "test": [ROW]}))
    assert "several: train, test" in refusal(two)
    assert "none, only a" in refusal(put(tmp_path / "c.json", '{"a": 1}'))


def test_json_that_is_json_lines(tmp_path: Path) -> None:
    assert len(read(put(tmp_path / "a.json", f"{LINE}\n{LINE}\n"))[0]) == 2


def test_csv(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", '질문,답변\n"머리가,\n아파요","쉬세요"\n\n배가 아파요,굶으세요\n')
    rows, notes = read(path)
    assert rows == [
        (2, {"질문": "머리가,\n아파요", "답변": "쉬세요"}),
        (5, {"질문": "배가 아파요", "답변": "굶으세요"}),
    ]
    assert notes == ["a.csv, line 4: 1 blank lines were passed over; look there if rows are missing"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_of_other_spreadsheets(tmp_path: Path, delimiter: str) -> None:
    path = put(tmp_path / "a.csv", f"질문{delimiter}답변\n머리, 배{delimiter}쉬세요\n")
    assert read(path)[0] == [(2, {"질문": "머리, 배", "답변": "쉬세요"})]


def test_csv_with_a_very_long_field(tmp_path: Path) -> None:
    assert len(read(put(tmp_path / "a.csv", f"a,b\n{'가' * 200_000},c\n"))[0][0][1]["a"]) == 200_000


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"질문": ["가", None], "n": [1.5, float("nan")]}), path)
    assert read(path)[0] == [(1, {"질문": "가", "n": 1.5}), (2, {"질문": None, "n": None})]


def test_parquet_with_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"소리": [b"\0"]}), path)
    assert "column '소리' holds bytes" in refusal(path)


def test_cut_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"질문": ["가"] * 1000}), path)
    put(path, path.read_bytes()[:-40])
    assert "not a whole parquet file" in refusal(path)


def test_flaws_are_noted_with_their_first_line_and_rows_stay(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", LINE)
    path = put(tmp_path / "a.jsonl", f"\ufeff{LINE}\n{LINE}\r\n\n \n{decomposed}\r\n\n\n")
    rows, notes = read(path)
    assert [line for line, _ in rows] == [1, 2, 5]
    assert rows[0][1] == ROW
    assert rows[2][1] == json.loads(decomposed) != ROW
    assert [note.partition(":")[0] for note in notes] == [
        "a.jsonl, line 1",
        "a.jsonl, line 2",
        "a.jsonl, line 3",
        "a.jsonl, line 5",
    ]
    assert "byte order mark" in notes[0]
    assert "2 lines end the Windows way (CRLF)" in notes[1]
    assert "2 blank lines" in notes[2]
    assert "1 rows hold decomposed Hangul (NFD" in notes[3]


def test_decomposed_hangul_in_escapes_is_noted_too(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", json.dumps({"a": unicodedata.normalize("NFD", "가")}) + "\n")
    assert "NFD" in read(path)[1][0]


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_bom_and_crlf_in_the_other_formats(tmp_path: Path, suffix: str) -> None:
    text = "a,b\r\n1,2\r\n" if suffix == "csv" else '[{"a": "1",\r\n "b": "2"}]\r\n'
    rows, notes = read(put(tmp_path / f"a.{suffix}", "\ufeff" + text))
    assert rows[0][1] == {"a": "1", "b": "2"}
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", f"{LINE}\n{LINE[:30]}", ("line 2: the file ends in the middle", "delete that line", "sed -i '$d'")),
        ("a.jsonl", f"{LINE}\n{LINE}".encode()[:-4], ("line 2: the file ends in the middle",)),  # inside a syllable
        ("a.jsonl", f"{LINE}\n{LINE[:30]}\n{LINE}\n", ("line 2: not JSON", "mend or delete")),
        ("a.jsonl", f"{LINE}\n{LINE[:30]}\n", ("line 2: not JSON",)),
        ("a.jsonl", f"{LINE}\n[1, 2]\n", ("line 2: a row must be an object", "this is a list")),
        ("a.jsonl", f'{LINE}\n"말"\n', ("line 2: a row must be an object", "this is a text")),
        ("a.jsonl", f"[{LINE}]\n", ("line 1", "end in .json")),
        ("a.jsonl", json.dumps(ROW, indent=1), ("line 1: the first object goes on", "end in .json")),
        ("a.jsonl", '{"a": 1, "a": 2}\n', ("line 1: key 'a' stands twice",)),
        ("a.jsonl", '{"a": NaN}\n', ("line 1: NaN is not JSON; write null",)),
        ("a.jsonl", "", ("the file is empty (0 bytes)",)),
        ("a.jsonl", "\n\n", ("the file is empty (2 bytes)",)),
        ("a.jsonl", f"{LINE}\n\0\0\0\0\n", ("line 2: zero bytes from byte", "copy the file again")),
        ("a.jsonl", LINE.encode("utf-16"), ("UTF-16", "iconv -f UTF-16 -t UTF-8")),
        ("a.jsonl", "<!DOCTYPE html><p>로그인</p>", ("line 1: this is a web page (HTML)",)),
        ("a.csv", "<html>", ("web page",)),
        ("a.parquet", "<html>", ("web page",)),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ("git lfs pull",)),
        ("a.jsonl", b"\x1f\x8b\x08\x00", ("compressed", "unpack")),
        ("a.json", json.dumps([ROW, ROW], indent=1)[:60], ("the file ends in the middle",)),
        ("a.json", '[{"a": 1},\n {"b" 2}]', ("line 2: not JSON",)),
        ("a.json", '[{"a": 1},\n 3]', ("line 2: a row must be an object", "a number")),
        ("a.json", "[]", ("there are no rows",)),
        ("a.csv", "a,b\n1,2\n1,2,3\n", ("line 3: 3 fields, and the header has 2 (a, b)", "double quotes")),
        ("a.csv", "a,b\n1\n", ("line 2: 1 fields",)),
        ("a.csv", 'a,b\n1,2\n"3,4\n5,6\n', ("line 3", "not closed")),
        ("a.csv", "a,b,a\n1,2,3\n", ("line 1: columns 'a' stand twice",)),
        ("a.csv", "a,b\n", ("there are no rows",)),
    ],
)
def test_broken_files_are_refused_in_a_sentence(
    tmp_path: Path, name: str, content: str | bytes, said: tuple[str, ...]
) -> None:
    sentence = refusal(put(tmp_path / name, content))
    for words in said:
        assert words in sentence
    assert "\n" not in sentence


def test_a_young_file_with_a_cut_line_may_still_be_copied(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", f"{LINE}\n{LINE[:30]}", age=0)
    assert "may still be being copied" in refusal(path)


def test_cp949_is_guessed_with_its_byte(tmp_path: Path) -> None:
    head = f"{json.dumps(ROW)}\n".encode()
    path = put(tmp_path / "a.jsonl", head + f"{LINE}\n".encode("cp949"))
    offset = len(head) + LINE.encode("cp949").index("머".encode("cp949"))
    sentence = refusal(path)
    assert f"line 2: byte {offset} is not UTF-8 but reads as Korean in CP949" in sentence
    assert f"iconv -f CP949 -t UTF-8 '{path}'" in sentence


def test_other_bytes_are_not_called_korean(tmp_path: Path) -> None:
    sentence = refusal(put(tmp_path / "a.jsonl", b'{"a": "caf\xe9"}\n'))
    assert "byte 10 is not UTF-8" in sentence
    assert "CP949" not in sentence


def test_half_a_character_passes(tmp_path: Path) -> None:
    """Validate sets such a row aside; one of them is no reason to refuse the file."""
    assert read(put(tmp_path / "a.jsonl", '{"a": "\\ud83d"}\n'))[0] == [(1, {"a": "\ud83d"})]


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", ".hidden.jsonl", "c.jsonl.part", "d.tmp", "README.md", "in/e.jsonl", ".x/f.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        put(tmp_path / name, LINE)
    named = [path.relative_to(tmp_path).as_posix() for path in data_files(tmp_path)]
    assert named == ["a.csv", "b.jsonl", "in/e.jsonl"]
    assert [path.name for path in data_files(tmp_path, "in/*")] == ["e.jsonl"]
    assert data_files(tmp_path / "b.jsonl") == [tmp_path / "b.jsonl"]
    with pytest.raises(CorpusError, match=r"matches download.pattern '\*.parquet'; it holds: README.md, a.csv"):
        data_files(tmp_path, "*.parquet")
    with pytest.raises(CorpusError, match="does not exist"):
        data_files(tmp_path / "nothing")
    with pytest.raises(CorpusError, match="is none of"):
        data_files(tmp_path / "README.md")
