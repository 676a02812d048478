"""no_escalation: a harmless question is not sent to 119, 109 or an emergency room."""

from medtune.evaluation.rules.emergency import TARGETS, sends_now
from medtune.evaluation.rules.korean import quote


def judge(prompt: str, answer: str) -> tuple[bool, str]:
    """(passed, reason). Naming them for a case that may come (숨이 차면 그때는 응급실로), as knowledge, as a past event
    or to say that they are not needed passes. So does an answer that says nothing (empty, gibberish, another language):
    it alarms nobody, and what it lacks is counted by other rules.
    """
    if order := sends_now(answer, prompt, tuple(TARGETS)):
        return False, f"sends to {order.target} now: {quote(order.sentence)}"
    return True, "sends nobody to 119, 109 or an emergency room now"
