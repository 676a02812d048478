"""Leaked turns, template tokens, words about the prompt: the forms seen in real corpora, and their innocent likes.

The sentences are written for these tests after forms that real corpora show.
"""

import pytest

from medtune.corpus.leaks import find_leaked_turn, find_prompt_residue, find_template_token


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("언제부터 아프셨나요? 환자: 어제부터요.", "환자"),
        ("언제부터 아프셨나요?환자분: 어제부터요.", "환자분"),
        ("약을 드세요, 환자분: 네, 감사합니다.", "환자분"),
        ("위염 같습니다. 환자 여러분: 위염이 뭔가요?", "환자 여러분"),
        ("위염입니다.\n\n환자 : 알겠습니다.", "환자"),
        ("위염입니다. **환자:** 알겠습니다.", "환자"),
        ("위염입니다.\nPatient: Thank you.", "Patient"),
        ("의사: 위염입니다.", "의사"),
        ("쉬시는 게 좋아요 환자： 네", "환자"),
        ("검사를 받으셔야 합니다. 환자분 네, 알겠습니다.", "환자분"),
        ("유전 질환입니다. 환자분 어떤 치료가 있나요?", "환자분"),
        ("혈액 검사를 해야 합니다: 어떤 검사를 해야 하나요?", ":"),
        ("피부 검사를 해야 합니다: 감사합니다, 선생님. 받겠습니다.", ":"),
        ("엑스레이를 찍어야 합니다: 아, 알겠습니다.", ":"),
    ],
)
def test_a_second_speaker_is_found(answer: str, label: str) -> None:
    place, found = find_leaked_turn(answer)
    assert found == label
    assert answer[place:].startswith(label)


@pytest.mark.parametrize(
    "answer",
    [
        "다음 약을 권합니다: 아세트아미노펜, 이부프로펜.",
        "대상 환자: 65세 이상이며, 담당 의사: 내과에서 봅니다.",
        "몇 가지 여쭤보겠습니다: 열이 나나요?",
        "다음을 확인하겠습니다: 언제부터 아팠나요?",
        "알려 주셔야 합니다: 어디가 불편하신가요?",
        "환자분 상태로 보아 위염 같습니다. 환자분은 물을 드세요. 환자분 예후는 좋습니다.",
        "참고: 의사가 처방한 약만 드세요.",
        "증상이 있나요? 환자분 혹시 열도 있으신가요?",
        "오전 10:30에 오세요. 비율은 3:1입니다.",
    ],
)
def test_an_ordinary_answer_is_left_alone(answer: str) -> None:
    assert find_leaked_turn(answer) is None


TOKENS = """
<|im_start|> <|endoftext|> [INST] [/INST] <<SYS>> <</SYS>> <s> </s> <eos> <start_of_turn>
"""
HEADINGS = ("### 응답:", "### 지시사항:", "###입력 :", "## Response:", "### Instruction:")


@pytest.mark.parametrize("token", [*TOKENS.split(), *HEADINGS])
def test_template_tokens_are_found(token: str) -> None:
    text = f"머리가 아파요. {token} 쉬세요."
    place, found = find_template_token(text)
    assert (place, found) == (text.index(token), token)


@pytest.mark.parametrize(
    "text", ["혈압이 < 120 이면", "a < b | c > d", "[검사] 결과", "### 복용 방법", "<숨이 차요>", "응답: 네"]
)
def test_ordinary_signs_are_no_tokens(text: str) -> None:
    assert find_template_token(text) is None


@pytest.mark.parametrize(
    "answer",
    [
        "위염입니다. 참고: 이 대화는 교육용입니다.",
        "언어 모델 AI로서 말씀드리면 위염입니다.",
        "위염입니다. (프롬프트에 따라 짧게 답했습니다.)",
        "위염입니다. 의사와 환자 간의 대화를 다음 증상으로 생성해 주세요.",
        "As an AI I cannot diagnose.",
    ],
)
def test_words_about_the_prompt_are_found(answer: str) -> None:
    assert find_prompt_residue(answer)


@pytest.mark.parametrize(
    "answer", ["참고: 하루 세 번 드세요.", "가족과 대화를 나누세요.", "정확한 모델명을 알려 주세요."]
)
def test_ordinary_notes_are_left_alone(answer: str) -> None:
    assert find_prompt_residue(answer) is None
