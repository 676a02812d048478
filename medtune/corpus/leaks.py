"""What generation and scraping leave inside texts: a second speaker's turn, template tokens, words about the prompt.

Trained on, they teach a model to answer as the patient, or to speak of itself in the middle of an answer.
The patterns were tuned on GPT-written, machine-translated doctor-patient dialogues, where a leaked turn reads
`… 있나요? 환자분: 네, …`, at times without its colon or with the colon alone.
"""

import re

_SPEAKERS = (
    "환자|의사|보호자|사용자|어시스턴트|상담사|상담원|간호사|질문자|답변자|질문|답변"
    "|patient|doctor|physician|user|human|assistant|chatdoctor|chatbot"
)
# A label stands at a beginning or after a finished sentence; `대상 환자: 65세 이상` is none.
_LABEL = re.compile(
    rf"(?:^|[\n.?!…,)\]\"'”’。]|(?<=[다요죠까])\s)[\s*_#>-]*((?:{_SPEAKERS})(?:분|님|\s?여러분|\s?선생님)?)\s*\**\s*[:：]",
    re.IGNORECASE,
)
# `… 보충해야 합니다. 환자분 네, 의사 선생님.`: the label without its colon
_BARE_LABEL = re.compile(
    r"[.?!]\s*(환자(?:분|님))\s+(?:(?:네|예|아|오)[,.\s]|아니[요오]|알겠[습어]|감사합니다|고맙습니다|(?:의사\s)?선생님[,\s])"
)
# `… 유전 질환입니다. 환자분 이 질병에는 어떤 치료 옵션이 있나요?`: the same before a question in the patient's voice
_BARE_ASKING = re.compile(r"[.?!]\s*(환자(?:분|님))\s+([^.?!]*\?)")
# `… 검사를 해야 합니다: 어떤 검사를 해야 하나요?`: the colon without its label, then the patient's voice
_BARE_COLON = re.compile(r"([^.?!:：\n]*(?:다|요))\s?[:：]\s*([^.?!\n]*[.?!]?)")
_ASKS = re.compile(r"질문|여쭤|여쭙|묻|물어|문진|확인하")  # the doctor announces questions of his own
_HONORIFIC = re.compile(r"[시셨신실세]")  # the doctor asks about the patient: 있으신가요, 하셨나요
_PATIENT = re.compile(r"^(?:아|네|예|오),|감사합니다|고맙습니다|^알겠(?:습니다|어요)")

_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>"  # <|im_start|>, <|endoftext|>, <|eot_id|>
    r"|\[/?INST\]|<</?SYS>>"
    r"|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[(?:BOS|EOS|PAD|UNK|SEP|CLS)\]"
    r"|#{2,}\s*(?:지시사항|지시|명령어|입력|응답|질문|답변|instruction|input|response|user|assistant|human|system)\s*[:：]",
    re.IGNORECASE,
)

_PROMPT = re.compile(
    r"언어\s?모델|프롬프트|인공지능\s참고|as an ai\b|language model"
    r"|(?:가상|허구)의 대화|이 대화는|참고\s*[:：][^.]*대화[는를가]|대화를[^.]{0,60}생성"
    r"|앞뒤로만?\s(?:한\s)?(?:번|가지)|한 번만 주고받",
    re.IGNORECASE,
)


def find_leaked_turn(answer: str) -> tuple[int, str] | None:
    """(place from 0, what gives it away) of the first second speaker in an answer."""
    colon = ":" in answer or "：" in answer  # most answers end here: the patterns are slow, these looks are not
    if not colon and "환자" not in answer:
        return None
    for pattern in (_LABEL, _BARE_LABEL) if colon else (_BARE_LABEL,):
        if match := pattern.search(answer):
            return match.start(1), match[1]
    for match in _BARE_ASKING.finditer(answer):
        if not _HONORIFIC.search(match[2]):
            return match.start(1), match[1]
    for match in _BARE_COLON.finditer(answer):
        before, after = match.groups()
        question = after.endswith("?") and not _HONORIFIC.search(after) and not _ASKS.search(before)
        if question or _PATIENT.search(after):
            return match.end(1), ":"
    return None


def find_template_token(text: str) -> tuple[int, str] | None:
    """(place from 0, token) of the first chat or instruction template token in a text."""
    match = _TOKEN.search(text)
    return (match.start(), match[0]) if match else None


def find_prompt_residue(text: str) -> tuple[int, str] | None:
    """(place from 0, words) where a text speaks of the prompt, the model or the dialogue as one that was generated."""
    match = _PROMPT.search(text)
    return (match.start(), " ".join(match[0].split())[:30]) if match else None
