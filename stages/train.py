"""train: tokens in, an adapter out; live in MLflow, resumable at any moment.

python -m stages.train

With train.sharding it starts itself once a visible GPU, by torchrun; MEDTUNE_PROCESSES=N takes N.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.labels import CONTRACT
from medtune.corpus.records import write_text
from medtune.engine.base import resolve
from medtune.engine.launch import launch, rank_sentences, started_here
from medtune.engine.lora import write_json
from medtune.engine.ranks import join
from medtune.engine.train import Job, run
from medtune.params.errors import EngineError
from medtune.params.recipe import Recipe, load_recipe
from medtune.registry.starting import starting_adapter
from medtune.tracking.closure import source_digest
from medtune.tracking.runs import Candidate
from medtune.tracking.store import open_store
from stages.stage import run_stage

if TYPE_CHECKING:
    from transformers import TrainerCallback


def main() -> None:
    # brings transformers and bitsandbytes, which log as they are imported: after run_stage has set the levels
    from medtune.tracking.callback import MlflowCallback

    recipe = load_recipe()
    if started_here(recipe.train):  # sharded: this process starts one a GPU, which come to the lines below
        resolve(recipe.base)  # fetched once, before they all ask for it
        launch("stages.train", recipe.train)
        return
    with rank_sentences():
        train(recipe, MlflowCallback)


def train(recipe: Recipe, live: "type[TrainerCallback]") -> None:
    """In one process, or in each of those that train together: rank 0 alone speaks with MLflow and writes."""
    ranks = join(recipe.train)
    tokens = json.loads(Path("reports/tokenize.json").read_text())
    record = json.loads(Path("data/base.json").read_text())
    base = resolve(recipe.base)
    if base.fingerprint != record["fingerprint"]:
        raise EngineError(
            f"data/base.json names a base with fingerprint {record['fingerprint'][:12]}, and the recipe's base now has "
            f"{base.fingerprint[:12]}; run `dvc repro download`"
        )
    uri = ranks.from_main(open_store)
    start = ranks.from_main(lambda: starting_adapter(uri, Path("."), recipe))
    adapter_params = {"lora": recipe.lora.model_dump(), "train": recipe.train.model_dump()}
    identity = {
        "tokens": tokens["tokens_digest"],
        "base": base.fingerprint,
        "params": adapter_params,
        "code": source_digest("stages.train", Path(".")),
    }
    if start:
        identity["init"] = start[1]  # a number means another version in another registry; its digest does not
    candidate = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    print(f"candidate {candidate[:12]}")
    memory = Candidate(uri, recipe.register_.experiment, candidate, f"candidate {candidate[:12]}")
    run_id = ranks.from_main(memory.open_soon)  # None where the store is away: training goes on
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
        init=start and start[0],
    )
    figures = run(job, [live(uri, run_id, memory)] if ranks.main else [])
    if not ranks.main:
        return
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
