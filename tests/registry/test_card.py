"""What the version's page says; medtune/registry/card.py was looked at in a browser."""

import hashlib
import json
from typing import Any

from registry_checkout import Checkout

from medtune.params.recipe import load_recipe
from medtune.registry.card import describe
from medtune.registry.evidence import read_evidence
from medtune.registry.gate import APPROVED, INCONCLUSIVE, REJECTED, Decision, Finding


def finding(name: str, outcome: str, blocks: bool = True, **more: Any) -> Finding:
    passed = outcome in ("passed", "not_applicable")
    return Finding(name, f"evaluate.{name}", None, "", passed, blocks, f"{name}: is as it is", outcome, **more)


def page(checkout: Checkout, outcome: str = APPROVED, *findings: Finding, adapter: bool = False) -> str:
    recipe = load_recipe(checkout.root / "params.yaml")
    findings = findings or (finding("improvement", "passed"),)
    decision = Decision(outcome, [one.sentence for one in findings], list(findings))
    return describe(recipe, read_evidence(checkout.root), decision, "run1", adapter)


def test_what_a_reader_needs(checkout: Checkout) -> None:
    version = checkout.candidate("a", nll=2.0)
    text = page(checkout)
    assert text.splitlines()[0].startswith("**Approved.** tiny@1 with a LoRA adapter (LoRA r=8, alpha=16) merged in")
    assert "2 steps on 240 rows of medtune-sample@v1" in text
    assert "adapter minus base: -0.5000 nats a character**, 95% interval -0.6000 to -0.4000" in text
    assert "## Why it was approved\n\n- **passed** improvement: is as it is" in text
    assert 'mlflow.transformers.load_model("models:/medgpt-ko@champion")' in text
    assert "licence CC0-1.0" in text
    assert f"manifest.json in mlruns/artifacts/versions/{version[:12]}" in text
    assert "`run1`" in text
    assert "Not a medical device.** No clinician has reviewed its answers." in text
    assert "Safety suites" not in text
    assert "PeftModel" in page(checkout, adapter=True)


def test_the_card_is_linked_from_both_halves(checkout: Checkout) -> None:
    checkout.candidate("a")
    for adapter in (False, True):
        assert "(get-artifact?path=card%2Fcard.html&run_uuid=run1)" in page(checkout, adapter=adapter)


def test_every_outcome_of_a_check_has_its_word(checkout: Checkout) -> None:
    checkout.candidate("a")
    text = page(
        checkout,
        REJECTED,
        finding("eos", "failed"),
        finding("loops", "failed", blocks=False),
        finding("power", "undecided"),
        finding("forgetting", "undecided", blocks=False),
        finding("champion", "not_applicable"),
    )
    assert "## Why it was rejected" in text
    for line in ("**FAILED** eos", "**not reached** loops", "**UNDECIDED** power", "**undecided** forgetting"):
        assert line in text
    assert "**not asked** champion" in text
    assert page(checkout, INCONCLUSIVE, finding("power", "undecided")).startswith("**Inconclusive.**")
    assert "## Why it is inconclusive" in page(checkout, INCONCLUSIVE, finding("power", "undecided"))


def test_missing_figures_are_left_out(checkout: Checkout) -> None:
    checkout.candidate("a", adapter_minus_base={"mean": None}, merged={})
    text = page(checkout)
    assert "adapter minus base:" not in text
    assert "merged model:" not in text


def test_safety_and_review(checkout: Checkout) -> None:
    share = {"passed": 65, "of": 72, "share": 65 / 72, "low": 0.81, "high": 0.96, "confidence": 0.95}
    base = {**share, "passed": 39}
    suite = {"digest": "d", "rules": "1", "prompts": 72}
    checkout.candidate(
        "a", safety={"red_flags": {**suite, "adapter": {"must_escalate": share}, "base": {"must_escalate": base}}}
    )
    answers = checkout.root / "reports/evaluate/answers.jsonl"
    answers.write_text("{}\n", encoding="utf-8")
    made = read_evidence(checkout.root)
    review = {
        "candidate": made.candidate,
        "version": made.version,
        "answers": hashlib.sha256(answers.read_bytes()).hexdigest(),
        "reviewers": 2,
        "preference": {"passed": 31, "of": 44},
    }
    (checkout.root / "reports/review.json").write_text(json.dumps(review), encoding="utf-8")
    text = page(checkout)
    assert "sent to 119, an emergency room or 109 at once: **65 of 72**, base 39 of 72" in text
    assert "without clinical validity" in text
    assert "2 reviewers compared its answers blind: 31 of 44 preferred. That is no clinical trial." in text


def test_names_are_no_markup(checkout: Checkout) -> None:
    checkout.candidate("a")
    path = checkout.root / "data/raw/dataset.json"
    path.write_text('{"id": "<img src=x>\\n# [a](http://x) `b`", "license": "*"}')
    text = page(checkout)
    assert "\\<img src=x\\> # \\[a\\](http://x) \\`b\\`" in text
