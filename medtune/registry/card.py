"""What people read on a version's page in the MLflow UI: its description, in Markdown.

Lists rather than tables: MLflow's page sets tables without any space between the columns. The first line is what its
list of versions shows.
"""

from collections.abc import Mapping
from typing import Any

from medtune.evaluation.release_card.safety import suites
from medtune.params.recipe import Recipe
from medtune.registry.comparison import NOT_APPLICABLE, UNDECIDED
from medtune.registry.evidence import Evidence
from medtune.registry.gate import INCONCLUSIVE, Decision, Finding, lookup

# What a figure is called, where it lies in reports/evaluate.json, how it is written
FIGURES = (
    ("base", "base.nll_per_char", "{:.4f} nats a character"),
    ("base + adapter", "adapter.nll_per_char", "{:.4f} nats a character"),
    ("merged model", "merged.nll_per_char", "{:.4f} nats a character"),
    ("merged model, in bits a character", "merged.bits_per_char", "{:.3f}"),
    ("EOS after the reference answer", "merged.eos_after_reference", "{:.0%} of rows"),
    ("free answers that end by themselves", "merged.ended_share", "{:.0%}"),
    ("free answers that loop", "merged.loop_share", "{:.0%}"),
    ("chrF++ of the free answers", "merged.chrfpp", "{:.1f}"),
    ("ROUGE-L of the free answers, on morphemes", "merged.rouge_l", "{:.3f}"),
)
CARD = "card/card.html"  # where the release card lies in the run
QUESTION = "농구를 하다가 손이 골절된 것 같아요."


def describe(recipe: Recipe, evidence: Evidence, decision: Decision, run_id: str, adapter: bool) -> str:
    """The description of one half of a version: the adapter's or the merged model's."""
    parts = [
        f"**{decision.outcome.capitalize()}.** {_what(recipe, evidence, adapter)}",
        f"**Not a medical device.** {_reviewed(evidence.reports.get('review'))}"
        + (f" {note}" if (note := recipe.gate.note) else ""),
        _card(run_id),
        _decision(decision),
        _figures(evidence.reports["evaluate"]),
        _safety(evidence.reports["evaluate"]),
        _load(recipe.register_.model, adapter),
        _made_from(evidence),
        _where(evidence, run_id),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(recipe: Recipe, evidence: Evidence, adapter: bool) -> str:
    base, train, merge = evidence.base, evidence.reports["train"], evidence.reports["merge"]
    rows = lookup(evidence.reports, "tokenize.splits.train.rows")
    trained = f"trained for {train.get('steps', '?')} steps on {_count(rows)} rows of {_dataset(evidence)}"
    lora = f"LoRA r={recipe.lora.r}, alpha={recipe.lora.alpha}"
    if adapter:
        quantised = "NF4" if base.get("quantization") == "nf4" else "unquantised"
        return f"A LoRA adapter ({lora}) for {_base(base)}, {quantised}, {trained}. It runs on that base alone."
    return (
        f"{_base(base)} with a LoRA adapter ({lora}) merged in ({_plain(merge.get('into', '?'))} base), {trained}. "
        "A whole model: nothing else is needed to run it."
    )


def _reviewed(review: Mapping[str, Any] | None) -> str:
    if not review or not review.get("reviewers"):
        return "No clinician has reviewed its answers."
    preference = review.get("preference") or {}
    told = f": {preference['passed']} of {preference['of']} preferred" if preference.get("of") else ""
    return f"{review['reviewers']} reviewers compared its answers blind{told}. That is no clinical trial."


def _card(run_id: str) -> str:
    """The link is relative to MLflow's page, which hands a run's files out as downloads; the card opens offline."""
    address = f"get-artifact?path={CARD.replace('/', '%2F')}&run_uuid={run_id}"
    return f"[The release card]({address}) has it all on one page: `{CARD}` among the artifacts of run `{run_id}`."


def _decision(decision: Decision) -> str:
    lines = [f"- **{_mark(finding)}** {_plain(finding.sentence)}" for finding in decision.findings]
    return "\n".join(
        [f"## Why it {'is' if decision.outcome == INCONCLUSIVE else 'was'} {decision.outcome}", "", *lines]
    )


def _mark(finding: Finding) -> str:
    if finding.outcome == NOT_APPLICABLE:
        return "not asked"
    if finding.passed:
        return "passed"
    if finding.outcome == UNDECIDED:
        return "UNDECIDED" if finding.blocks else "undecided"
    return "FAILED" if finding.blocks else "not reached"


def _safety(evaluate: Mapping[str, Any]) -> str:
    """Good outcomes of the safety suites, candidate and base; empty where none was asked."""
    lines = [
        f"- {_plain(kind['label'])}: **{_of(kind['candidate'])}**, base {_of(kind['base'])}"
        for suite in suites(evaluate, None)
        for kind in suite["kinds"]
    ]
    head = ["## Safety suites: regression tests without clinical validity, good outcomes counted", ""]
    return "\n".join([*head, *lines]) if lines else ""


def _of(share: Mapping[str, Any] | None) -> str:
    return f"{share['passed']} of {share['of']}" if share else "not asked"


def _figures(evaluate: Mapping[str, Any]) -> str:
    lines = [f"## On {_count(evaluate.get('rows'))} test rows that were never trained on", ""]
    gain = evaluate.get("adapter_minus_base")
    if isinstance(gain, Mapping) and all(_number(gain.get(key)) for key in ("mean", "low", "high")):
        share = f"{gain['confidence']:.0%} interval" if _number(gain.get("confidence")) else "interval"
        method = f" ({_plain(gain['method'])})" if gain.get("method") else ""
        lines.append(
            f"- **adapter minus base: {gain['mean']:+.4f} nats a character**, {share} "
            f"{gain['low']:+.4f} to {gain['high']:+.4f}{method}; below 0 is better"
        )
    for name, key, form in FIGURES:
        value = lookup(evaluate, key)
        if _number(value):
            lines.append(f"- {name}: {form.format(value)}")
    return "\n".join(lines)


def _load(model: str, adapter: bool) -> str:
    if adapter:
        return (
            "## Load\n\n"
            f"`{model}` holds the same version merged, which needs no base: the tag `medtune.counterpart` names it. "
            "The adapter alone, on the base that is named below:\n\n"
            "```python\nfrom peft import PeftModel\n\n"
            'model = PeftModel.from_pretrained(base, "<source of this version>")\n```'
        )
    return (
        "## Load\n\n"
        f'```bash\n# verifies every file before it loads\nmedtune ask "{QUESTION}"\n```\n\n'
        "```python\nimport mlflow\n\n"
        "# by raw alias: MLflow verifies nothing\n"
        f'pipe = mlflow.transformers.load_model("models:/{model}@champion")\n'
        f'pipe([{{"role": "user", "content": "{QUESTION}"}}])\n```'
    )


def _made_from(evidence: Evidence) -> str:
    base, data, reports = evidence.base, evidence.dataset, evidence.reports
    lines = [
        f"- base: {_base(base)}, licence {_plain(base.get('license') or 'unknown')}, fingerprint "
        f"{_short(base.get('fingerprint'))}",
        f"- rows: {_dataset(evidence)}, licence {_plain(data.get('license') or 'unknown')}, data "
        f"{_short(reports['validate'].get('data_digest'))}, tokens {_short(reports['tokenize'].get('tokens_digest'))}",
        f"- candidate {_short(evidence.candidate)}, version {_short(evidence.version)}; whole digests are in the tags",
    ]
    return "\n".join(["## Made from", "", *lines])


def _where(evidence: Evidence, run_id: str) -> str:
    lines = [
        f"- the source run above (`{run_id}`): curve, every figure; under *Artifacts* the reports, per-row scores "
        "(evaluate/rows.parquet), answers (evaluate/answers.jsonl) and plots",
        f"- sha256 of every file: manifest.json in mlruns/artifacts/versions/{evidence.version[:12]}…",
        "- what validation found: reports/data_docs/index.html in the checkout",
    ]
    return "\n".join(["## Where the evidence lies", "", *lines])


def _base(base: Mapping[str, Any]) -> str:
    return _plain(f"{base.get('id', 'an unknown base')}@{str(base.get('revision', '?'))[:12]}")


def _dataset(evidence: Evidence) -> str:
    data = evidence.dataset
    revision = f"@{str(data['revision'])[:12]}" if data.get("revision") else ""
    return _plain(f"{data.get('id') or data.get('source') or 'an unknown dataset'}{revision}")


def _short(digest: Any) -> str:
    return f"`{str(digest)[:12]}`"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(text: Any) -> str:
    """Names and sentences come from files: nothing in them may become markup."""
    for sign in "\\`*[]<>|":
        text = str(text).replace(sign, f"\\{sign}")
    return " ".join(text.split())
