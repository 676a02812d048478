"""reports/evaluate.json, from what examine() found."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medtune.evaluation import scores, texts

if TYPE_CHECKING:
    from medtune.evaluation.answers import Asked
    from medtune.evaluation.examine import Examined

GENERAL = ("nll_per_char", "chrfpp", "rouge_l", "ended_share", "loop_share", "hangul_share")
Compare = Callable[..., dict[str, Any]]


def of_model(found: "Examined") -> dict[str, Any]:
    """A model's figures: over all test rows by teacher forcing, over the answered ones of its free answers."""
    summary = scores.summarise(found.rows["test"]) | texts.summarise(found.answers["test"])
    if "test" in found.sampled:
        summary["sampled"] = texts.summarise(found.sampled["test"])
    return summary


def of_general(found: "dict[str, Examined]", digest: str, compare: Compare) -> dict[str, Any]:
    """Chat ability of base and adapter on the general prompts, and its loss, adapter minus base, as forgetting."""
    summary: dict[str, Any] = {"digest": digest, "rows": len(found["base"].answers["general"])}
    lines = {}
    for name in ("base", "adapter"):
        every = scores.summarise(found[name].rows["general"]) | texts.summarise(found[name].answers["general"])
        summary[name] = {figure: every[figure] for figure in GENERAL}
        lines[name] = [
            {"row_id": answer["id"], "cluster": answer["id"], **answer} for answer in found[name].answers["general"]
        ]
    rows = {name: found[name].rows["general"] for name in ("base", "adapter")}
    summary["forgetting"] = {"nll_per_char": compare(rows["adapter"], rows["base"], figure="nll_per_char")} | {
        figure: compare(lines["adapter"], lines["base"], figure=figure) for figure in ("chrfpp", "rouge_l")
    }
    return summary


def of_suites(found: "dict[str, Examined]", asked: "Asked", confidence: float) -> tuple[dict[str, Any], dict]:
    """The safety suites of base and adapter, and every verdict: {(set, id, model): (passed, reason)}."""
    from medtune.evaluation.suites import RULES_VERSION, judge, summarise

    prompts = asked.sets
    safety: dict[str, Any] = {}
    verdicts: dict[tuple[str, str, str], tuple[bool, str]] = {}
    for name in [name for name in asked.digests if name != "general"]:
        safety[name] = {"digest": asked.digests[name], "rules": RULES_VERSION, "prompts": len(prompts[name])}
        for who in ("base", "adapter"):
            given = found[who].answers[name]
            judged = [judge(prompt, answer["text"]) for prompt, answer in zip(prompts[name], given, strict=True)]
            safety[name][who] = summarise(prompts[name], judged, confidence)
            verdicts |= {(name, prompt["id"], who): v for prompt, v in zip(prompts[name], judged, strict=True)}
    return safety, verdicts


def sentences(told: dict[str, Any]) -> list[str]:
    """What a person at the terminal wants to know first."""
    lines = []
    for name in ("base", "adapter", "merged"):
        figures = told[name]
        line = f"{name:8} {figures['bits_per_char']:.3f} bits/char"
        line += f"  EOS after reference {figures['eos_after_reference']:.0%}"
        if figures["answers"]:
            line += (
                f"  answers ended {figures['ended_share']:.0%}, looped {figures['loop_share']:.0%}  "
                f"chrF++ {figures['chrfpp']:.1f}  ROUGE-L {figures['rouge_l']:.3f}"
            )
        lines.append(line)
    for name, suite in told["safety"].items():
        if name != "memorisation":
            passed = {who: suite[who]["passed"] for who in ("base", "adapter")}
            shown = ", ".join(f"{who} {one['passed']} of {one['of']}" for who, one in passed.items())
            lines.append(f"{name}: {shown} answers keep the rules")
    if "general" in told:
        lost = told["general"]["forgetting"]["nll_per_char"]
        lines.append(f"forgetting, adapter minus base on general prompts: {_difference(lost)} nats/char")
    lines.append(f"adapter minus base: {_difference(told['adapter_minus_base'])} nats/char")
    return lines


def _difference(found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return f"none ({found['problem']})"
    if found["low"] is None:
        return f"{found['mean']:+.4f}, no interval ({found['problem']})"
    return f"{found['mean']:+.4f}, {found['confidence']:.0%} interval {found['low']:+.4f} to {found['high']:+.4f}"
