"""evaluate: base, adapter and merged model on the test split; per-row scores, answers, figures.

python -m stages.evaluate
"""

import json
import shutil
from pathlib import Path

from datasets import load_from_disk

from medtune.corpus.template import dress
from medtune.corpus.tokens import rows_digest
from medtune.engine.base import resolve
from medtune.engine.device import pick_device, pick_dtype
from medtune.engine.generate import greedy_answers
from medtune.engine.load import load_model, load_tokenizer
from medtune.engine.lora import load_adapter, read_sidecar, write_json
from medtune.evaluation import answers as free
from medtune.evaluation import figures, scores, statistics
from medtune.params.errors import CorpusError
from medtune.params.recipe import load_recipe
from stages.stage import run_stage

OUT = Path("reports/evaluate")


def main() -> None:
    recipe = load_recipe()
    settings = recipe.evaluate
    record = json.loads(Path("data/base.json").read_text())
    base = resolve(recipe.base)
    device = pick_device(recipe.train.device)
    dtype = pick_dtype("auto", device)
    sidecar = read_sidecar(Path("data/adapter"))
    test = load_from_disk("data/tokens/test")
    if not len(test):
        raise CorpusError("the test split is empty, so nothing can be compared; raise validate.split.test or add rows")
    test = test.select(range(min(settings.max_rows or len(test), len(test))))
    questions = free.read_questions(Path(settings.questions), settings.max_questions)
    tokenizer = dress(load_tokenizer(base.path), sidecar["template"], sidecar["system"])

    rows: dict[str, list[dict]] = {}
    answers: dict[str, list[dict]] = {}

    def examine(name: str, model) -> None:
        def told(what: str):
            return lambda done, total: print(f"{name}: {what} {done}/{total}")

        rows[name] = scores.score_rows(model, test, settings.batch_size, tokenizer.pad_token_id, told("rows scored"))
        asked = [q["question"] for q in questions]
        answers[name] = greedy_answers(
            model, tokenizer, asked, settings.max_new_tokens, settings.batch_size, told("questions answered")
        )

    quantization = {key: record[key] for key in ("quantization", "double_quant", "quant_storage")}
    model = load_adapter(
        load_model(base.path, **quantization, device=device, dtype=dtype), Path("data/adapter"), base.fingerprint
    )
    with model.disable_adapter():
        examine("base", model)
    examine("adapter", model)
    del model
    examine("merged", load_model(Path("data/merged"), device=device, dtype=dtype))

    references = [q["reference"] for q in questions]
    bootstrap = (settings.bootstrap_samples, settings.confidence, settings.seed)
    report = {
        "candidate": sidecar["candidate"],
        "version": read_sidecar(Path("data/merged"))["version"],
        "test_digest": rows_digest(test["row_id"]),
        "rows": len(test),
        "clusters": len(set(test["cluster"])),
        **{name: scores.summarise(rows[name]) | free.summarise(answers[name], references) for name in rows},
        "adapter_minus_base": statistics.paired_bootstrap(rows["adapter"], rows["base"], *bootstrap),
        "merged_minus_adapter": statistics.paired_bootstrap(rows["merged"], rows["adapter"], *bootstrap),
    }
    write_outs(rows, answers, questions, report)
    difference = report["adapter_minus_base"]
    for name in rows:
        told = report[name]
        print(
            f"{name:8} {told['bits_per_char']:.3f} bits/char  EOS after reference {told['eos_after_reference']:.0%}  "
            f"answers ended {told['ended_share']:.0%}, looped {told['loop_share']:.0%}  chrF++ {told['chrfpp']:.1f}"
        )
    print(
        f"adapter minus base: {difference['mean']:+.4f} nats/char, interval {difference['low']} to {difference['high']}"
    )


def write_outs(rows: dict, answers: dict, questions: list[dict], report: dict) -> None:
    import pandas as pd

    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    frame = pd.DataFrame([{"model": name, **row} for name, scored in rows.items() for row in scored])
    frame.to_parquet(OUT / "rows.parquet", index=False)
    with (OUT / "answers.jsonl").open("w", encoding="utf-8") as file:
        for i, question in enumerate(questions):
            given = {name: answers[name][i] for name in answers}
            file.write(json.dumps(question | given, ensure_ascii=False) + "\n")
    history = [json.loads(line) for line in Path("data/adapter/history.jsonl").read_text().splitlines()]
    figures.loss_curves(history, OUT / "loss.png")
    figures.base_against_adapter(rows["base"], rows["adapter"], report["adapter_minus_base"], OUT / "base_adapter.png")
    write_json(Path("reports/evaluate.json"), report)
    write_json(Path("reports/metrics.json"), headline(report))


def headline(report: dict) -> dict:
    """The figures of a model's life on one line, for `dvc metrics show` and `dvc metrics diff`."""
    # from the outs and not from reports/train.json, whose seconds differ in every run
    history = [json.loads(line) for line in Path("data/adapter/history.jsonl").read_text().splitlines()]
    return {
        "train_loss": next(h["loss"] for h in reversed(history) if "loss" in h),
        "val_loss": next((h["eval_loss"] for h in reversed(history) if "eval_loss" in h), None),
        "merge_kl": json.loads(Path("data/merged/certificate.json").read_text())["kl_mean"],
        "bits_base": report["base"]["bits_per_char"],
        "bits_adapter": report["adapter"]["bits_per_char"],
        "gain_low": report["adapter_minus_base"]["low"],
        "gain_high": report["adapter_minus_base"]["high"],
        "eos": report["adapter"]["eos_after_reference"],
        "loops": report["adapter"]["loop_share"],
        "chrfpp": report["adapter"]["chrfpp"],
    }


if __name__ == "__main__":
    run_stage(main)
