"""The first losses of a training on the tiny base, by each engine: golden.json holds what they were.

They may change with torch, transformers, trl, bitsandbytes, datasets (the order of rows) or the tiny base itself, and
then they change in both engines alike. A change by code of ours that is meant to compute the same is a defect; that is
what the file is for. To renew it, and to say in the commit why:

    PYTHONPATH=tests python -m engine.golden
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import write_tiny_base

from engine.tiny import job
from engine.uneven import write_uneven_tokens
from medtune.engine.train import run

FILE = Path(__file__).with_name("golden.json")
ENGINES = ("fast", "reference")


def golden_losses(base: Path, folder: Path) -> dict[str, list[float]]:
    """Engine to the losses of eight steps of 2 x 2 samples, NF4 and an adapter on all linears, without dropout."""
    tokens = write_uneven_tokens(base, folder / "tokens", 24)
    found = {}
    for engine in ENGINES:
        made = job(
            base, tokens, folder / engine, {"dropout": 0.0}, engine=engine, gradient_accumulation=2, max_steps=8,
            learning_rate=1e-3, optimizer="adamw_torch", save_steps=100,
        )  # fmt: skip
        run(made)
        lines = (folder / engine / "adapter/history.jsonl").read_text().splitlines()
        found[engine] = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    return found


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        FILE.write_text(json.dumps(golden_losses(write_tiny_base(Path(place) / "base"), Path(place)), indent=1) + "\n")
    print(f"wrote {FILE}")
