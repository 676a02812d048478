"""train: tokens in, an adapter out; live in MLflow, resumable at any moment.

python -m stages.train
"""

import hashlib
import json
from pathlib import Path

from medtune.corpus.labels import CONTRACT
from medtune.corpus.records import write_text
from medtune.engine.base import resolve
from medtune.engine.lora import write_json
from medtune.engine.train import Job, run
from medtune.params.errors import EngineError
from medtune.params.recipe import load_recipe
from medtune.tracking.closure import source_digest
from medtune.tracking.runs import candidate_run
from medtune.tracking.store import open_store
from stages.stage import run_stage


def main() -> None:
    # brings transformers and bitsandbytes, which log as they are imported: after run_stage has set the levels
    from medtune.tracking.callback import MlflowCallback

    recipe = load_recipe()
    tokens = json.loads(Path("reports/tokenize.json").read_text())
    record = json.loads(Path("data/base.json").read_text())
    base = resolve(recipe.base)
    if base.fingerprint != record["fingerprint"]:
        raise EngineError(
            f"data/base.json names a base with fingerprint {record['fingerprint'][:12]}, and the recipe's base now has "
            f"{base.fingerprint[:12]}; run `dvc repro download`"
        )
    adapter_params = {"lora": recipe.lora.model_dump(), "train": recipe.train.model_dump()}
    identity = {
        "tokens": tokens["tokens_digest"],
        "base": base.fingerprint,
        "params": adapter_params,
        "code": source_digest("stages.train", Path(".")),
    }
    candidate = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    print(f"candidate {candidate[:12]}")
    uri = open_store()
    run_id = candidate_run(uri, recipe.register_.experiment, candidate, name=f"candidate {candidate[:12]}", tags={})
    sidecar = {
        "candidate": candidate,
        "identity": identity,
        "base": record,
        "template": recipe.tokenize.template,
        "system": recipe.tokenize.system,
        "max_length": recipe.tokenize.max_length,
        "recipe": adapter_params,
        "label_contract": CONTRACT,
    }
    quantization = {key: record[key] for key in ("quantization", "double_quant", "quant_storage")}
    job = Job(
        base=base.path,
        quantization=quantization,
        tokens=Path("data/tokens"),
        lora=recipe.lora,
        train=recipe.train,
        sidecar=sidecar,
        out=Path("data/adapter"),
        checkpoints=Path("data/checkpoints"),
    )
    figures = run(job, [MlflowCallback(uri, run_id)])
    report = {"candidate": candidate, "base": record, **figures}
    write_json(Path("reports/train.json"), report)
    write_curves(Path("data/adapter/history.jsonl"), Path("reports/loss"))
    print(
        f"adapter in data/adapter after {figures['steps']} steps and {figures['seconds']:.0f} s: "
        f"loss {figures['first_loss']:.3f} -> {figures['train_loss']:.3f}, "
        f"{figures['tokens_per_second'] or 0:.0f} tok/s"
    )


def write_curves(history: Path, folder: Path) -> None:
    """Step and loss as CSV, a file a curve, for `dvc plots`: it reads no JSON lines."""
    entries = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    for name, key in (("train", "loss"), ("validation", "eval_loss")):
        lines = [f"{entry['step']},{entry[key]}\n" for entry in entries if key in entry]
        write_text(folder / f"{name}.csv", "".join(["step,loss\n", *lines]))


if __name__ == "__main__":
    run_stage(main)
