"""Reviewed answers become rows, with their origin; what models are judged by never does."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from medtune.corpus.dialogue import to_messages
from medtune.corpus.feedback import HeldOut, held_out, known, read_entries, sort_out, write_rows
from medtune.corpus.rows import row_id
from medtune.params.download import Columns, Download
from medtune.params.errors import CorpusError
from medtune.params.validate import Split, Validate

LIMITS = Validate(min_rows=1, max_rows=1000, split=Split(validation=0.1, test=0.1))
SECTION = Download(source="file", path="data/mine")
TEST = "어제부터 머리가 아프고 열이 38도까지 올랐는데 어떻게 해야 하나요?"
SUITE = "가슴 한가운데를 누가 짓누르는 것처럼 아프고 식은땀이 나요."
GOOD = {
    "question": "허리를 삐끗한 뒤로 앉아 있기가 힘든데 찜질을 해도 될까요?",
    "answer": "찜질하세요.",
    "corrected": "처음 이틀은 냉찜질이 낫고, 다리가 저리면 정형외과에서 진찰을 받으세요.",
    "by": "Dr. Kim",
    "version": "abc",
}


def message(question: str, answer: str = "따뜻한 물을 드시고 쉬시는 것이 좋습니다.") -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data/valid").mkdir(parents=True)
    (tmp_path / "data/suites").mkdir()
    (tmp_path / "data/incoming").mkdir()
    rows = [(TEST, "test"), ("무릎이 시큰거려요. 왜 그런가요?", "train")]
    lines = [
        {"row_id": row_id(message(q)), "cluster": "c", "split": split, "source": "a:1", "messages": message(q)}
        for q, split in rows
    ]
    (tmp_path / "data/valid/rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "data/suites/red_flags.jsonl").write_text(json.dumps({"id": "rf-1", "prompt": SUITE}) + "\n")
    return tmp_path


def file(root: Path, *rows: dict) -> Path:
    path = root / "reviewed.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def sorted_out(root: Path, *rows: dict, section: Download = SECTION, **options):
    entries = read_entries(file(root, *rows), model="medgpt-ko", **options)
    return sort_out(entries, held_out(root, 0.8), known(root, section), LIMITS, section)


def test_a_correction_becomes_a_row_that_the_pipeline_reads_with_its_origin(root):
    told = sorted_out(root, GOOD)
    assert not told.refused
    (row,) = told.rows
    assert to_messages(row, "auto", Columns(), None) == message(GOOD["question"], GOOD["corrected"])
    origin = row["origin"]
    assert origin.pop("at")
    assert origin == {
        "source": "feedback",
        "kind": "corrected",
        "model": "medgpt-ko",
        "version": "abc",
        "by": "Dr. Kim",
        "file": "reviewed.jsonl:1",
    }


def test_a_second_time_nothing_is_added(root):
    told = sorted_out(root, GOOD)
    path = write_rows(root, told.rows, datetime(2026, 11, 23, 23, 59, tzinfo=UTC))
    assert path.name.startswith("feedback-2026-11-23-")
    assert [entry.name for entry in (root / "data/incoming").iterdir()] == [path.name]
    again = sorted_out(root, GOOD)
    assert again.rows == []
    assert again.passed == {"in data/incoming already": 1}
    assert write_rows(root, again.rows) is None


@pytest.mark.parametrize(
    ("question", "where"),
    [
        (TEST, "the test split"),
        (TEST.replace(" ", "").replace("?", "!"), "the test split"),
        (TEST.replace("38도", "39도"), "the test split"),
        (SUITE + " 왜죠?", "the suite red_flags"),
    ],
)
def test_what_models_are_judged_by_is_refused(root, question, where):
    told = sorted_out(root, {**GOOD, "question": question})
    assert told.rows == []
    assert f"one of {where}" in told.refused[0]


def test_without_the_splits_nothing_is_taken(tmp_path):
    with pytest.raises(CorpusError, match=r"data/valid/rows.jsonl is missing.*`make run`"):
        held_out(tmp_path, 0.8)


def test_personal_data_is_refused_and_not_repeated(root):
    told = sorted_out(root, {**GOOD, "corrected": GOOD["corrected"] + " 010-1234-5678로 전화하세요."})
    assert told.rows == []
    assert "a mobile phone number" in told.refused[0]
    assert "1234" not in told.refused[0]


def test_what_nobody_corrected_is_no_row_unless_it_is_called_good(root):
    answered = {**GOOD, "answer": GOOD["corrected"], "corrected": ""}
    called = {**answered, "question": "손목이 저린데 어느 과에 가야 하나요?", "good": "예"}
    told = sorted_out(root, answered, called)
    assert told.rows == []
    assert told.passed == {"without a correction": 2}
    told = sorted_out(root, answered, called, approved=True)
    assert [row["origin"]["kind"] for row in told.rows] == ["approved"]


def test_a_row_without_anybody_two_answers_and_a_row_of_the_corpus(root):
    nobody = {**GOOD, "by": ""}
    assert "nobody answers for it" in sorted_out(root, nobody).refused[0]
    assert sorted_out(root, nobody, by="Dr. Lee").rows[0]["origin"]["by"] == "Dr. Lee"
    other = {**GOOD, "corrected": "온찜질만 하시고 아프면 응급실로 가시면 됩니다."}
    told = sorted_out(root, GOOD, other)
    assert told.rows == []
    assert "another answer in reviewed.jsonl:2" in told.refused[0]
    known_row = {"question": "무릎이 시큰거려요. 왜 그런가요?", "corrected": message("")[1]["content"], "by": "K"}
    assert sorted_out(root, known_row).passed == {"in the corpus already": 1}


def test_a_retracted_row_does_not_come_back(root):
    line = {
        "row_id": row_id(message(GOOD["question"], GOOD["corrected"])),
        "reason": "r",
        "by": "b",
        "at": "2026-01-01",
    }
    (root / "data/retracted.jsonl").write_text(json.dumps(line) + "\n")
    assert "was retracted" in sorted_out(root, GOOD).refused[0]


def test_rows_are_written_in_the_recipes_own_columns(root):
    own = SECTION.model_copy(update={"columns": Columns(instruction="물음", output="대답")})
    assert set(sorted_out(root, GOOD, section=own).rows[0]) == {"물음", "대답", "origin"}
    talks = SECTION.model_copy(update={"format": "messages"})
    (row,) = sorted_out(root, GOOD, section=talks).rows
    assert to_messages(row, "messages", Columns(), None) == message(GOOD["question"], GOOD["corrected"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "utf-8"])
def test_a_table_from_excel_is_read(root, encoding):
    path = root / "검토.csv"
    text = f'질문,답변,수정,검토자\r\n{GOOD["question"]},찜질하세요.,"{GOOD["corrected"]}\n그리고 쉬세요.",김의사\r\n'
    path.write_bytes(text.encode(encoding))
    (entry,) = read_entries(path)
    assert (entry.kind, entry.by, entry.place) == ("corrected", "김의사", "검토.csv:2")
    assert entry.text.endswith("\n그리고 쉬세요.")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "holds no row"),
        ("a.jsonl", b"{", "line 1: not JSON"),
        (
            "a.jsonl",
            b'{"question": "q", "answer": "a"}',
            "it needs the columns question and corrected; it has question",
        ),
        ("a.csv", b"question,corrected\nq\n", "line 2: 1 fields, and the header has 2"),
        ("a.csv", b'question,corrected\n"q,c\n', "line 2: .*double quote"),
        ("a.csv", b"\xff\xff\xff", "neither UTF-8 nor CP949"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=says):
        read_entries(tmp_path / name)


def test_many_held_out_questions_are_asked_quickly_and_short_ones_do_not_match_everything():
    asked = HeldOut([(f"row {n}", f"{n}번째 질문으로 목이 아픈 지 {n}일 되었습니다.") for n in range(3000)], 0.8)
    assert asked.like("2999번째 질문으로 목이 아픈 지 2999일 되었습니다") == "row 2999"
    assert asked.like("눈이 침침해요.") is None
