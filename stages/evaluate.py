"""evaluate: base, adapter and merged model on the test split, the questions and the suites; scores, answers, figures.

python -m stages.evaluate
"""

import hashlib
import json
from pathlib import Path

from datasets import load_from_disk

from medtune.corpus.template import dress
from medtune.corpus.tokens import rows_digest
from medtune.engine.base import ResolvedBase, resolve
from medtune.engine.decode import Sampling
from medtune.engine.device import pick_device, pick_dtype
from medtune.engine.load import load_tokenizer
from medtune.engine.lora import read_sidecar, write_json
from medtune.evaluation import answers, kept, report, statistics, written
from medtune.evaluation.examine import Asking, Examined, Model, examine
from medtune.evaluation.memorisation import read_canaries
from medtune.evaluation.recall import memory_of
from medtune.evaluation.weights import Weights
from medtune.params.errors import CorpusError
from medtune.params.recipe import Recipe, load_recipe
from stages.stage import run_stage

ROOT = Path(".")
ADAPTER, MERGED = Path("data/adapter"), Path("data/merged")
TOKENS_REPORT = Path("reports/tokenize.json")
CANARIES, VALID, SUITES = Path("data/tokens/canaries.json"), Path("data/valid/rows.jsonl"), Path("data/suites")


def main() -> None:
    recipe = load_recipe()
    settings = recipe.evaluate
    record = json.loads(Path("data/base.json").read_text())
    base = resolve(recipe.base)
    sidecar, version = read_sidecar(ADAPTER), read_sidecar(MERGED)["version"]
    trained, made = sidecar["identity"]["tokens"], json.loads(TOKENS_REPORT.read_text())["tokens_digest"]
    if trained != made:
        raise CorpusError(
            f"data/adapter was trained on tokens {trained[:12]}, and data/tokens holds {made[:12]}: its test rows may "
            "be rows that it was trained on; run `dvc repro`, which runs the stages in order"
        )
    worn = {"template": sidecar["template"], "system": sidecar["system"]}
    test = load_from_disk("data/tokens/test")
    if not len(test):
        raise CorpusError("the test split is empty, so nothing can be compared; raise validate.split.test or add rows")
    test = test.select(range(min(settings.max_rows or len(test), len(test))))

    device = pick_device(recipe.train.device)
    dtype = pick_dtype("auto", device)
    asking = _asking(recipe, base, worn, str(dtype).removeprefix("torch."))
    asked = answers.collect(settings, test["row_id"], VALID, SUITES, read_canaries(CANARIES))
    memory = memory_of(CANARIES, VALID, asking.tokenizer, worn, settings.confidence)
    quantization = {key: record[key] for key in ("quantization", "double_quant", "quant_storage")}
    weights = Weights(base.path, base.fingerprint, quantization, ADAPTER, MERGED, device, dtype)
    rows = {"test": test}
    if "general" in asked.sets:
        rows["general"] = answers.reference_rows(asked.sets["general"], asking.tokenizer, asking.max_length)

    found: dict[str, Examined] = {}
    digests = {"base": kept.digest({"fingerprint": base.fingerprint, **quantization, **worn})}
    # by their bytes as well: training does not repeat to the bit everywhere, and merging adds nothing of its own
    bits = _sha256(ADAPTER / "adapter_model.safetensors")
    digests |= {
        "adapter": kept.digest({"candidate": sidecar["candidate"], "weights": bits}),
        "merged": kept.digest({"version": version, "weights": bits}),
    }
    for name, opened in (("base", weights.base), ("adapter", weights.adapter)):
        found[name] = examine(Model(name, digests[name], opened), rows, asked.sets, asking, ROOT, memory)
    fewer = {name: asked.sets[name] for name in ("test", "questions")}
    merged = Model("merged", digests["merged"], weights.merged)
    found["merged"] = examine(merged, {"test": test}, fewer, asking, ROOT)

    compare = statistics_of(recipe)
    safety, verdicts = report.of_suites(found, asked, settings.confidence)
    told = {
        "candidate": sidecar["candidate"],
        "version": version,
        "models": digests,
        "precision": asking.precision,
        "test_digest": rows_digest(test["row_id"]),
        "rows": len(test),
        "clusters": len(set(test["cluster"])),
        "suites": asked.files,
        "sets": found["base"].sets,
        **{name: report.of_model(found[name]) for name in found},
        "adapter_minus_base": compare(found["adapter"].rows["test"], found["base"].rows["test"]),
        "merged_minus_adapter": compare(found["merged"].rows["test"], found["adapter"].rows["test"]),
        "safety": safety | {"memorisation": {name: found[name].memory for name in ("base", "adapter")}},
    }
    if "general" in asked.sets:
        told["general"] = report.of_general(found, asked.digests["general"], compare)
    history = [json.loads(line) for line in (ADAPTER / "history.jsonl").read_text().splitlines()]
    written.write_folder(Path("reports/evaluate"), found, asked.sets, verdicts, told["adapter_minus_base"], history)
    write_json(Path("reports/evaluate.json"), told)
    write_json(Path("reports/metrics.json"), headline(told, history))
    for line in report.sentences(told):
        print(line)


def statistics_of(recipe: Recipe):
    """statistics.compare by the recipe's settings."""
    settings = recipe.evaluate

    def compare(a: list[dict], b: list[dict], figure: str = "nll_per_char") -> dict:
        return statistics.compare(
            a, b, figure, confidence=settings.confidence, samples=settings.bootstrap_samples, seed=settings.seed
        )

    return compare


def headline(told: dict, history: list[dict]) -> dict:
    """The figures of a model's life on one line, for `dvc metrics show` and `dvc metrics diff`."""
    # from the outs and not from reports/train.json, whose seconds differ in every run
    return {
        "train_loss": next(h["loss"] for h in reversed(history) if "loss" in h),
        "val_loss": next((h["eval_loss"] for h in reversed(history) if "eval_loss" in h), None),
        "merge_kl": json.loads((MERGED / "certificate.json").read_text())["kl_mean"],
        "bits_base": told["base"]["bits_per_char"],
        "bits_adapter": told["adapter"]["bits_per_char"],
        "gain_low": told["adapter_minus_base"]["low"],
        "gain_high": told["adapter_minus_base"]["high"],
        "eos": told["adapter"]["eos_after_reference"],
        "loops": told["adapter"].get("loop_share"),
        "chrfpp": told["adapter"].get("chrfpp"),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _asking(recipe: Recipe, base: ResolvedBase, worn: dict, precision: str) -> Asking:
    settings, drawn = recipe.evaluate, recipe.merge.generation
    sampling = Sampling(drawn.temperature, drawn.top_k, drawn.top_p, drawn.repetition_penalty, settings.seed)
    return Asking(
        tokenizer=dress(load_tokenizer(base.path), **worn),
        **worn,
        precision=precision,
        max_length=recipe.tokenize.max_length,
        overflow=recipe.tokenize.overflow,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        sampling=sampling if settings.sampled else None,
    )


if __name__ == "__main__":
    run_stage(main)
