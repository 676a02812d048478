"""Answers of two versions to the same prompts, where they differ most first."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

VOICES = ("adapter", "merged")  # the first that answered speaks for its version, as on the release card


def side_by_side(ours: Iterable[Mapping[str, Any]], theirs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of two answers.jsonl as {"set", "id", "question", "reference", "rule", "why", "a", "b", "verdict",
    "nll_difference"}; a and b: {"text", "tokens", "ended", "passed", "reason", "chrfpp", "looped", "nll", "sampled"}.

    A prompt is the same where set, id and words are. verdict: worse (b breaks a rule that a keeps, or the reference
    became less likely), better, same (the same words), differs (nothing says which is better). Order: rules that b
    breaks, worse by how much, differs, better, same; then set and id.
    """
    first = {(item.get("set"), item.get("id")): item for item in ours}
    found = []
    for item in theirs:
        other = first.get((item.get("set"), item.get("id")))
        if other is not None and other.get("question") == item.get("question"):
            a, b = _said(other), _said(item)
            if a and b:
                found.append(_pair(item, a, b))
    return sorted(found, key=_order)


def _pair(item: Mapping[str, Any], a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    difference = b["nll"] - a["nll"] if _finite(a["nll"]) and _finite(b["nll"]) else None
    if a["passed"] is not None and b["passed"] is not None and a["passed"] != b["passed"]:
        verdict = "better" if b["passed"] else "worse"
    elif a["text"] == b["text"]:
        verdict = "same"
    elif difference:
        verdict = "worse" if difference > 0 else "better"
    else:
        verdict = "differs"
    kept = {key: item.get(key) for key in ("set", "id", "question", "reference", "rule", "why")}
    return {**kept, "a": a, "b": b, "verdict": verdict, "nll_difference": difference}


def _said(item: Mapping[str, Any]) -> dict[str, Any] | None:
    answers = item.get("answers") or {}
    voice = next((model for model in VOICES if model in answers), None)
    if voice is None:
        return None
    answer, score = answers[voice], (item.get("scores") or {}).get(voice) or {}
    return {
        **{key: answer.get(key) for key in ("text", "tokens", "ended")},
        **{key: score.get(key) for key in ("passed", "reason", "chrfpp", "looped")},
        "nll": (item.get("nll") or {}).get(voice),
        "sampled": ((item.get("sampled") or {}).get(voice) or {}).get("text"),
    }


def _order(pair: Mapping[str, Any]) -> tuple:
    broken = pair["a"]["passed"] is True and pair["b"]["passed"] is False
    ranks = ("worse", "differs", "better", "same")
    return not broken, ranks.index(pair["verdict"]), -(pair["nll_difference"] or 0.0), str(pair["set"]), str(pair["id"])


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
