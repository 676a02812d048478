"""merge: adapter and base in, one model out, with a certificate of how true it is.

python -m stages.merge
"""

import hashlib
import json
from pathlib import Path

from datasets import load_from_disk

from medtune.engine.base import resolve
from medtune.engine.lora import read_sidecar, write_json
from medtune.engine.merge import MergeJob, run
from medtune.params.errors import EngineError
from medtune.params.recipe import load_recipe
from stages.stage import run_stage


def main() -> None:
    recipe = load_recipe()
    record = json.loads(Path("data/base.json").read_text())
    base = resolve(recipe.base)
    adapter = Path("data/adapter")
    held_out = load_from_disk("data/tokens/validation")
    if not len(held_out):
        held_out = load_from_disk("data/tokens/test")
    if not len(held_out):
        raise EngineError("no held-out row to compare the merged model on; raise validate.split.test or add rows")
    identity = {"candidate": read_sidecar(adapter)["candidate"], "merge": recipe.merge.model_dump()}
    job = MergeJob(
        base=base.path,
        fingerprint=base.fingerprint,
        quantization={key: record[key] for key in ("quantization", "double_quant", "quant_storage")},
        adapter=adapter,
        held_out=held_out,
        merge=recipe.merge,
        device=recipe.train.device,
        version=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        out=Path("data/merged"),
    )
    report = run(job)
    write_json(Path("reports/merge.json"), report)
    print(
        f"merged into the {report['into']} base: version {report['version'][:12]}, {report['bytes'] / 2**20:.0f} MiB "
        f"in {report['seconds']:.0f} s; KL to base + adapter {report['kl_mean']:.2e}, "
        f"same first choice on {report['top1_agreement']:.1%} of {report['tokens']} tokens"
    )


if __name__ == "__main__":
    run_stage(main)
