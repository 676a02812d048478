"""Rows of every habit become the messages that they mean."""

import pytest

from medtune.corpus.dialogue import constant_instruction, to_messages
from medtune.params.download import Columns
from medtune.params.errors import CorpusError

DOCTOR = "당신은 의사입니다. 환자의 질문에 답하세요."
ASK, SAY = {"role": "user", "content": "머리가 아파요."}, {"role": "assistant", "content": "쉬세요."}


def messages(row: dict, format: str = "auto", constant: str | None = None, **columns: str) -> list[dict]:
    return to_messages(row, format, Columns(**columns), constant)


def refusal(row: dict, format: str = "auto", constant: str | None = None, **columns: str) -> str:
    with pytest.raises(CorpusError) as caught:
        messages(row, format, constant, **columns)
    assert len(str(caught.value)) < 300
    return str(caught.value)


def test_medgpt_asks_in_the_instruction() -> None:
    row = {"instruction": " 머리가 아파요.\n", "input": "", "output": "쉬세요. "}
    assert messages(row) == [ASK, SAY]
    assert messages({**row, "input": None}, "alpaca") == [ASK, SAY]


def test_sibling_asks_in_the_input_under_a_constant_instruction() -> None:
    row = {"instruction": DOCTOR, "input": "머리가 아파요.", "output": "쉬세요."}
    constant = constant_instruction([row, {**row, "input": "배가 아파요."}])
    assert constant == DOCTOR
    assert messages(row, constant=constant) == [{"role": "system", "content": DOCTOR}, ASK, SAY]
    assert "no question" in refusal({**row, "input": " "}, constant=constant)


def test_alpaca_keeps_both_apart() -> None:
    row = {"instruction": "증상을 요약하세요.", "input": "머리가 아파요.", "output": "두통"}
    assert constant_instruction([row, {**row, "instruction": "번역하세요."}]) is None
    assert messages(row)[0] == {"role": "user", "content": "증상을 요약하세요.", "input": "머리가 아파요."}


def test_constant_instruction_is_not_undone_by_a_few_rows_of_another_habit() -> None:
    siblings = [{"instruction": DOCTOR, "input": f"{n}일째 아파요.", "output": "네"} for n in range(30)]
    medgpt = [{"instruction": f"{n}번 아파요.", "input": "", "output": "네"} for n in range(50)]
    other = [{"instruction": "요약하세요.", "input": "아파요.", "output": "네"}]
    assert constant_instruction(siblings + medgpt + other) == DOCTOR
    assert constant_instruction(medgpt) is None
    assert constant_instruction(siblings[:1]) is None
    assert constant_instruction([]) is None


def test_constant_instruction_under_other_names() -> None:
    rows = [{"역할": DOCTOR, "질문": f"{n}일째", "답변": "네"} for n in range(3)]
    assert constant_instruction(rows, Columns(instruction="역할", input="질문", output="답변")) == DOCTOR


def test_habits_and_named_columns() -> None:
    assert messages({"질문": "머리가 아파요.", "답변": "쉬세요."}) == [ASK, SAY]
    assert messages({"q": "머리가 아파요.", "a": "쉬세요."}, instruction="q", output="a") == [ASK, SAY]
    with_system = messages({"question": "머리가 아파요.", "answer": "쉬세요.", "system": DOCTOR})
    assert with_system == [{"role": "system", "content": DOCTOR}, ASK, SAY]


def test_sharegpt_and_messages() -> None:
    turns = [{"from": "human", "value": "머리가 아파요."}, {"from": "gpt", "value": "쉬세요."}]
    assert messages({"conversations": turns}) == [ASK, SAY]
    more = [{"role": "system", "content": DOCTOR}, ASK, SAY, ASK, SAY]
    assert messages({"id": 1, "messages": more}, "messages") == more
    assert messages({"대화": turns}, messages="대화") == [ASK, SAY]


def test_text_is_one_assistant_message() -> None:
    row = {"본문": "두통은 흔하다."}
    assert messages(row, "text", text="본문") == [{"role": "assistant", "content": "두통은 흔하다."}]
    assert "is empty" in refusal({"본문": ""}, "text", text="본문")
    assert "columns found: other" in refusal({"other": "x"}, "text", text="본문")


def test_missing_columns_name_those_found_those_needed_and_the_mend() -> None:
    said = refusal({"q": "머리가 아파요.", "a": "쉬세요."})
    assert "columns found: q, a" in said
    assert "needed: instruction" in said
    assert "download.columns: {instruction: 질문, output: 답변}" in said
    assert "needed: messages or conversations" in refusal({"q": "x"}, "sharegpt")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "머리가 아파요.", "output": " "}, "no answer: column 'output' is empty"),
        ({"instruction": "", "input": None, "output": "쉬세요."}, "no question: 'instruction' and 'input' hold none"),
        ({"instruction": 3, "output": "쉬세요."}, "column 'instruction' holds int, not text"),
        ({"messages": "말"}, "column 'messages' holds no list of turns"),
        ({"messages": []}, "holds no list of turns"),
        ({"messages": ["말"]}, "turn 1 is no object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "turn 1 is by 'tool'"),
        ({"messages": [ASK, {"role": "assistant", "content": ""}]}, "turn 2 (assistant) has no text"),
        ({"messages": [ASK, ASK, SAY]}, "turns 1 and 2 are both the user's"),
        ({"messages": [ASK, SAY, ASK]}, "does not end with the assistant's turn"),
        ({"messages": [SAY, ASK, SAY]}, "does not begin with the user's turn"),
        ({"messages": [ASK, {"role": "system", "content": "x"}, SAY]}, "turn 2 is a system turn in the middle"),
    ],
)
def test_rows_that_cannot_be_mapped_say_why(row: dict, said: str) -> None:
    assert said in refusal(row)
