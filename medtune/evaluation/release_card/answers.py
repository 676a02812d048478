"""Answers of base, champion and candidate to the same prompts, the worst regressions first."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from medtune.evaluation.release_card.names import VERDICTS

MODELS = ("base", "champion", "adapter", "merged")
CANDIDATE = ("adapter", "merged")  # the first that answered is the candidate's voice


def collect(ours: Iterable[Mapping[str, Any]], champion: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of answers.jsonl, each with the champion's answer to the same prompt, a verdict and a place in the order.

    verdict: failed (the candidate breaks the prompt's rule), worse or better (by negative log-likelihood of the
    reference, candidate minus base), passed, unscored. regressed: the base kept the rule that the candidate breaks.
    Order: failed where the base passed, failed, worse by how much, unscored, better, passed; then set and id.
    """
    theirs = {(item.get("set"), item.get("id")): item for item in champion}
    found = [_one(item, theirs.get((item.get("set"), item.get("id")))) for item in ours]
    return sorted(found, key=_order)


def _one(item: Mapping[str, Any], champion: Mapping[str, Any] | None) -> dict[str, Any]:
    answers, scores = dict(item.get("answers") or {}), dict(item.get("scores") or {})
    nll = dict(item.get("nll") or {})
    # same id and other words: a suite that was rewritten, whose old answer answers another question
    if champion and champion.get("question") == item.get("question"):
        for ours, part in ((answers, "answers"), (scores, "scores"), (nll, "nll")):
            voice = next((m for m in CANDIDATE if m in (champion.get(part) or {})), None)
            if voice:
                ours["champion"] = champion[part][voice]
    voice = next((model for model in CANDIDATE if model in answers), None)
    passed = (scores.get(voice) or {}).get("passed")
    before = (scores.get("base") or {}).get("passed")
    scored = next((model for model in CANDIDATE if _finite(nll.get(model))), None)
    difference = nll[scored] - nll["base"] if scored and _finite(nll.get("base")) else None
    if passed is False:
        verdict = "failed"
    elif difference is not None:
        verdict = "worse" if difference > 0 else "better"
    else:
        verdict = "passed" if passed else "unscored"
    return {
        **{key: item.get(key) for key in ("set", "id", "kind", "rule", "why", "question", "reference", "sampled")},
        "answers": {model: answers[model] for model in MODELS if model in answers},
        "scores": {model: scores[model] for model in MODELS if model in scores},
        "nll": {model: nll[model] for model in MODELS if model in nll},
        "verdict": verdict,
        "regressed": passed is False and before is True,
        "nll_difference": difference,
    }


def _order(item: Mapping[str, Any]) -> tuple:
    difference = item["nll_difference"]
    return (
        not item["regressed"],
        list(VERDICTS).index(item["verdict"]),
        -difference if difference is not None else 0.0,
        str(item["set"]),
        str(item["id"]),
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
