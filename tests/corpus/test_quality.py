"""Row checks: each finds its fault, says so in a sentence, and leaves good rows alone."""

import unicodedata

import pytest

from medtune.corpus.quality import CHECKS, Dialogue, examine
from medtune.params.validate import Split, Validate

LIMITS = Validate(min_rows=1, max_rows=1000, max_line_breaks=3, split=Split(validation=0.1, test=0.1))
QUESTION, ANSWER = "어제부터 머리가 아파요. 왜 그런가요?", "긴장성 두통으로 보입니다. 물을 드시고 푹 쉬세요."


def faults(question: str = QUESTION, answer: str = ANSWER, limits: Validate = LIMITS, **extra: str) -> dict[str, str]:
    user = {"role": "user", "content": question} | extra
    return examine(Dialogue([user, {"role": "assistant", "content": answer}]), limits)


def test_a_good_row_has_no_fault() -> None:
    assert faults() == {}
    assert faults(input="30대 여성입니다.") == {}
    assert faults(answer="열이 나면\r\n해열제를 드세요.\t그래도 나면 병원에 가세요 👨‍👩‍👧 ❤️.") == {}


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("missing", {"question": " "}, "the question is empty"),
        ("missing", {"question": "", "answer": "\n"}, "the question and the answer are empty"),
        ("question_length", {"question": "왜요?"}, "has 3 characters, under 5"),
        ("question_length", {"question": "아파요 " * 700}, "over 2000"),
        ("answer_length", {"answer": "위염."}, "validate.min_answer_chars"),
        ("answer_length", {"answer": "쉬세요 " * 1100}, "over 4000"),
        ("hangul", {"answer": "You should rest and drink water. 네."}, "4%"),
        ("hangul", {"answer": "1234567890 !!!"}, "0%"),
        ("unicode_form", {"answer": unicodedata.normalize("NFD", ANSWER)}, "unicodedata.normalize('NFC', text)"),
        ("unicode_form", {"question": unicodedata.normalize("NFD", QUESTION)}, "the question is NFD"),
        ("unicode_form", {"input": unicodedata.normalize("NFD", "여성")}, "the question is NFD"),
        ("control_characters", {"answer": f"물\u200b을 {ANSWER}"}, "U+200B (zero width space) at character 2"),
        ("control_characters", {"question": f"{QUESTION}\u202e"}, "right-to-left override"),
        ("control_characters", {"answer": f"두\ufffd통 {ANSWER}"}, "own encoding"),
        ("control_characters", {"answer": f"{ANSWER}\x00"}, "U+0000"),
        ("control_characters", {"answer": f"\ufeff{ANSWER}"}, "U+FEFF"),
        ("control_characters", {"answer": f"{ANSWER}\ud83d"}, "U+D83D"),
        ("control_characters", {"answer": f"{ANSWER}\u3164"}, "hangul filler"),
        ("control_characters", {"answer": f"{ANSWER} 가\u200d나"}, "zero width joiner"),
        ("leaked_turn", {"answer": f"{ANSWER} 환자분: 네, 감사합니다."}, f"'환자분' at character {len(ANSWER) + 2}"),
        ("template_tokens", {"answer": f"{ANSWER}</s>"}, "</s>"),
        ("template_tokens", {"question": f"[INST] {QUESTION}"}, "the question holds the template token [INST]"),
        ("prompt_residue", {"answer": f"{ANSWER} 이 대화는 교육용입니다."}, "how it was generated"),
        (
            "personal_data",
            {"question": f"{QUESTION} 010-1234-5678로 연락 주세요."},
            "a mobile phone number at character 23",
        ),
        ("line_breaks", {"answer": "\n".join([ANSWER] * 5)}, "4 line breaks, more than 3"),
    ],
)
def test_a_fault_is_found_and_named(name: str, row: dict[str, str], says: str) -> None:
    found = faults(**row)
    assert list(found) == [name]
    assert says in found[name]


def test_every_check_has_a_case_above() -> None:
    marks = test_a_fault_is_found_and_named.pytestmark
    assert {case[0] for case in marks[0].args[1]} == set(CHECKS)


def test_reasons_repeat_no_personal_data() -> None:
    found = faults(question=f"{QUESTION} 900101-1234567", answer=f"{ANSWER} kim@example.com, 010-9876-5432")
    assert list(found) == ["personal_data"]
    for secret in ("900101", "1234567", "kim", "9876"):
        assert secret not in found["personal_data"]


def test_bounds_themselves_are_allowed() -> None:
    assert faults(question="가" * LIMITS.min_question_chars) == {}
    assert faults(answer="가" * LIMITS.max_answer_chars) == {}
    half = LIMITS.model_copy(update={"min_hangul_share": 0.5})
    assert faults(answer="가나다라마바abcdef", limits=half) == {}
    assert list(faults(answer="가나다라마바abcdefg", limits=half)) == ["hangul"]


def test_a_row_with_many_faults_names_them_all() -> None:
    found = faults(question="", answer="환자: <s>")
    assert list(found) == ["missing", "answer_length", "leaked_turn", "template_tokens"]


def test_plain_text_needs_no_question() -> None:
    assert examine(Dialogue([{"role": "assistant", "content": ANSWER}]), LIMITS) == {}


def test_every_turn_of_a_long_dialogue_is_looked_at() -> None:
    turns = [QUESTION, ANSWER, "네", f"{ANSWER} 환자: 네"]
    roles = ["user", "assistant"] * 2
    found = examine(Dialogue([{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]), LIMITS)
    assert list(found) == ["leaked_turn"]


def test_a_dialogue_must_end_with_an_answer() -> None:
    dialogue = Dialogue([{"role": "assistant", "content": ANSWER}, {"role": "user", "content": QUESTION}])
    assert "ends with the user" in examine(dialogue, LIMITS)["missing"]


def test_the_system_prompt_is_no_part_of_question_or_answer() -> None:
    messages = [{"role": "system", "content": "Be kind <s>"}, {"role": "user", "content": QUESTION}]
    dialogue = Dialogue([*messages, {"role": "assistant", "content": ANSWER}])
    assert (dialogue.question, dialogue.answer) == (QUESTION, ANSWER)
    assert list(examine(dialogue, LIMITS)) == ["template_tokens"]
