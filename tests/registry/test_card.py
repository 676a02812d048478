"""What the version's page says; medtune/registry/card.py was looked at in a browser."""

from registry_checkout import Checkout

from medtune.params.recipe import load_recipe
from medtune.registry.card import describe
from medtune.registry.evidence import read_evidence
from medtune.registry.gate import decide


def page(checkout: Checkout, adapter: bool = False) -> str:
    recipe = load_recipe(checkout.root / "params.yaml")
    evidence = read_evidence(checkout.root)
    return describe(recipe, evidence, decide(recipe.gate, evidence.reports, None), "run1", adapter)


def test_what_a_reader_needs(checkout: Checkout) -> None:
    version = checkout.candidate("a", nll=2.0)
    text = page(checkout)
    assert text.splitlines()[0].startswith("**Approved.** tiny@1 with a LoRA adapter (LoRA r=8, alpha=16) merged in")
    assert "2 steps on 240 rows of medtune-sample@v1" in text
    assert "adapter minus base: -0.5000 nats a character**, 95% interval -0.6000 to -0.4000" in text
    assert "- **passed** improvement: evaluate.adapter_minus_base.high is -0.4, below 0 as asked" in text
    assert 'mlflow.transformers.load_model("models:/medgpt-ko@champion")' in text
    assert "licence CC0-1.0" in text
    assert f"manifest.json in mlruns/artifacts/versions/{version[:12]}" in text
    assert "`run1`" in text
    assert "Not a medical device" in text
    assert "PeftModel" in page(checkout, adapter=True)


def test_failures_and_missing_figures(checkout: Checkout) -> None:
    checkout.candidate("a", adapter_minus_base={"mean": None}, adapter={"loop_share": 0.9}, merged={})
    text = page(checkout)
    assert "- **FAILED** improvement: evaluate.adapter_minus_base.high is missing" in text
    assert "- **not reached** loops: evaluate.adapter.loop_share is 0.9" in text
    assert "adapter minus base:" not in text


def test_names_are_no_markup(checkout: Checkout) -> None:
    checkout.candidate("a")
    path = checkout.root / "data/raw/dataset.json"
    path.write_text('{"id": "<img src=x>\\n# [a](http://x) `b`", "license": "*"}')
    text = page(checkout)
    assert "\\<img src=x\\> # \\[a\\](http://x) \\`b\\`" in text
