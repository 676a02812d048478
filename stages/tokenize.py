"""tokenize: good rows in, one Arrow dataset per split out; every row keeps the label contract.

Canaries (tokenize.canaries) go into the training split's tokens alone; data/valid and the other splits know none.

python -m stages.tokenize
"""

import json
import shutil
from pathlib import Path

from medtune.corpus.canaries import canary_seed, make_canaries, planted_rows
from medtune.corpus.histogram import draw_lengths
from medtune.corpus.records import write_text
from medtune.corpus.template import dress
from medtune.corpus.tokens import SPLITS, EncodedSplit, encode_split, length_rows, summarise, tokens_digest
from medtune.engine.base import resolve
from medtune.engine.load import load_tokenizer
from medtune.params.errors import CorpusError
from medtune.params.recipe import load_recipe
from stages.stage import run_stage

VALID = Path("data/valid/rows.jsonl")
OUT = Path("data/tokens")
CANARIES = OUT / "canaries.json"


def main() -> None:
    recipe = load_recipe()
    settings = recipe.tokenize
    base = resolve(recipe.base)
    tokenizer = dress(load_tokenizer(base.path), settings.template, settings.system)
    rows = [json.loads(line) for line in VALID.open(encoding="utf-8")]
    # an empty training split stays empty, so that training says so
    wanted = settings.canaries if any(row["split"] == "train" for row in rows) else 0
    canaries = make_canaries(wanted, canary_seed(settings.model_dump()))
    rows += planted_rows(canaries, settings.canary_repeats)

    building = OUT.with_name("tokens.tmp")
    shutil.rmtree(building, ignore_errors=True)
    splits, report = {}, {"template": settings.template, "max_length": settings.max_length, "splits": {}}
    listed = {"truncated": [], "dropped": []}
    for name in SPLITS:
        chosen = [row for row in rows if row["split"] == name]
        split = encode_split(chosen, tokenizer, settings.max_length, settings.overflow, name)
        whole_canaries(split, canaries, settings.max_length)
        split.dataset.save_to_disk(building / name)
        report["splits"][name] = summarise(split.dataset)
        listed["truncated"] += split.truncated
        listed["dropped"] += split.dropped
        splits[name] = split.dataset
        figures = report["splits"][name]
        print(f"{name}: {figures['rows']} rows, {figures['tokens']} tokens, {figures['target_tokens']} of them trained")
    listing = [canary | {"repeats": settings.canary_repeats} for canary in canaries]
    write_text(building / CANARIES.name, json.dumps(listing, ensure_ascii=False, indent=2) + "\n")
    shutil.rmtree(OUT, ignore_errors=True)
    building.rename(OUT)

    report |= {f"{kind}_rows": len(ids) for kind, ids in listed.items()} | listed
    report |= tokens_digest(splits)
    planted = len(canaries) * settings.canary_repeats
    report["canaries"] = {
        "canaries": len(canaries),
        "repeats": settings.canary_repeats,
        "rows": planted,
        "share_of_train": round(planted / len(splits["train"]), 4) if planted else 0.0,
        "file": str(CANARIES),
    }
    write_text(Path("reports/tokenize.json"), json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    write_text(Path("reports/lengths.csv"), "\n".join(["length,count,split", *length_rows(splits)]) + "\n")
    draw_lengths(splits, settings.max_length, Path("reports/lengths.png"))
    print(f"{len(listed['truncated'])} rows shortened, {len(listed['dropped'])} left out; ids in reports/tokenize.json")
    if canaries:
        print(
            f"{len(canaries)} canaries with invented secrets planted among the training rows, {planted} rows in all; "
            f"{CANARIES} lists them, and evaluate looks for them in the model"
        )
    print("the label contract holds on every row")


def whole_canaries(split: EncodedSplit, canaries: list[dict], max_length: int) -> None:
    """CorpusError where a canary was cut: its secret stands at the end, and would be looked for without being there."""
    cut = {canary["row_id"] for canary in canaries} & {*split.truncated, *split.dropped}
    if cut:
        raise CorpusError(
            f"tokenize.max_length: {max_length} tokens cut {len(cut)} of {len(canaries)} canaries, whose secrets would "
            "then not be trained; raise it, or write tokenize.canaries: 0"
        )


if __name__ == "__main__":
    run_stage(main)
