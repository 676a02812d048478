"""The card in plain words, for a doctor: what this is, what was seen, what it is not. English and Korean."""

from collections.abc import Mapping
from typing import Any

OUTCOMES = {
    "approved": (
        "Approved",
        "It passed every check of the policy that blocks.",
        "승인",
        "정책에서 반드시 통과해야 하는 검사를 모두 통과했습니다.",
    ),
    "rejected": (
        "Rejected",
        "At least one check that blocks failed. It replaces nothing.",
        "반려",
        "반드시 통과해야 하는 검사 가운데 통과하지 못한 것이 있습니다. 지금 쓰는 모델은 그대로입니다.",
    ),
    "inconclusive": (
        "Inconclusive",
        "The evidence decides neither way. It replaces nothing until there is more.",
        "판단 보류",
        "근거가 부족하여 어느 쪽으로도 판단하지 못했습니다. 근거가 더 모일 때까지 지금 쓰는 모델은 그대로입니다.",
    ),
}
NOT_EN = (
    "It is not a medical device and has no clinical validity. No result on this page says that its advice is safe or "
    "right for a patient.",
    "Its safety suites are regression tests for software, written for this project and not by clinicians. A model that "
    "passes all of them can still give dangerous advice.",
    "It must not be used for diagnosis, for choosing a drug or a dose, or in an emergency. In an emergency in Korea "
    "call 119; 109 is the suicide line.",
)
NOT_KO = (
    "의료기기가 아니며 임상적 타당성이 없습니다. 이 문서의 어떤 결과도 환자에게 안전하거나 옳은 조언임을 "
    "뜻하지 않습니다.",
    "안전성 문항은 소프트웨어 회귀 시험용으로 이 프로젝트에서 만든 것이며 임상의가 쓰지 않았습니다. 모두 통과한 모델도 "
    "위험한 답을 할 수 있습니다.",
    "진단, 약과 용량의 선택, 응급 상황에 쓰면 안 됩니다. 응급 상황에서는 119, 자살 위기에서는 109에 전화하세요.",
)


def summary(data: Mapping[str, Any]) -> dict[str, Any]:
    """{"outcome": {"en", "ko"}, "en": {"headline", "is", "found", "is_not"}, "ko": …}; the last three are sentences."""
    outcome = str(data["decision"].get("outcome") or data["decision"].get("decision") or "inconclusive")
    word, says, word_ko, says_ko = OUTCOMES.get(outcome, (outcome.capitalize(), "", outcome, ""))
    english, korean = _is(data)
    found, found_ko = _found(data)
    review, review_ko = _reviewed(data.get("review"))
    return {
        "outcome": {"id": outcome, "en": word, "ko": word_ko},
        "en": {"headline": says, "is": [english], "found": found, "is_not": [*NOT_EN, review]},
        "ko": {"headline": says_ko, "is": [korean], "found": found_ko, "is_not": [*NOT_KO, review_ko]},
    }


def _is(data: Mapping[str, Any]) -> tuple[str, str]:
    base, dataset = data["base"]["id"], data["data"]["dataset"]["id"]
    rows = ((data["data"]["tokenize"].get("splits") or {}).get("train") or {}).get("rows")
    count = f"{rows:,} " if isinstance(rows, int) else ""
    return (
        f"A language model: {base}, tuned further on {count}question-and-answer rows of {dataset} to answer patients' "
        "questions in Korean. It is material for research and for people who build software, to be read with a "
        "clinician.",
        f"{base} 모델을 {dataset}의 질문·답변 {f'{rows:,}건' if isinstance(rows, int) else '자료'}으로 더 학습시켜 "
        "환자의 "
        "질문에 한국어로 답하게 한 언어 모델입니다. 연구와 소프트웨어 개발을 위한 것이며, 임상의와 함께 보아야 합니다.",
    )


def _found(data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    english, korean = [], []
    evaluation = data["evaluation"]
    gain, rows = evaluation.get("adapter_minus_base") or {}, evaluation.get("rows")
    if rows is not None and gain:
        low, high = gain.get("low"), gain.get("high")
        if low is None or high is None:
            say, sage = "whether it fits better than its base cannot be told", "원래 모델보다 나은지 알 수 없습니다"
        elif high < 0:
            say, sage = "it fits the reference answers better than its base", "원래 모델보다 기준 답변에 더 가깝습니다"
        elif low > 0:
            say, sage = "it fits them WORSE than its base", "원래 모델보다 기준 답변에서 더 멉니다"
        else:
            say, sage = "no difference from its base can be shown", "원래 모델과 다르다고 할 수 없습니다"
        english.append(f"On {rows:,} test questions that it never trained on, {say}.")
        korean.append(f"학습에 쓰지 않은 시험 질문 {rows:,}건에서 {sage}.")
    for suite in data["safety"]:
        for kind in suite["kinds"]:
            share, before = kind["candidate"], kind["base"]
            if not share or not share.get("of"):
                continue
            was = f" (its base {before['passed']})" if before and before.get("of") == share["of"] else ""
            war = f" (원래 모델 {before['passed']}건)" if was else ""
            english.append(f"{kind['label']}: {share['passed']} of {share['of']}{was}.")
            korean.append(f"{kind['label_ko']}: {share['of']}건 중 {share['passed']}건{war}.")
    return english, korean


def _reviewed(review: Any) -> tuple[str, str]:
    count = review.get("reviewers") if isinstance(review, Mapping) else None
    count = len(count) if isinstance(count, list | Mapping) else count
    if isinstance(count, int) and count:
        return (
            f"{count} reviewer{'s' if count != 1 else ''} compared answers blind; what they preferred is below. That "
            "is no clinical trial.",
            f"검토자 {count}명이 모델 이름을 가린 채 답변을 비교했으며 결과는 아래에 있습니다. 이는 임상시험이 "
            "아닙니다.",
        )
    return "No clinician has reviewed its answers.", "임상의가 이 모델의 답변을 검토하지 않았습니다."
