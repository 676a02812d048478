"""tokenize: good rows in, one Arrow dataset per split out; every row keeps the label contract.

python -m stages.tokenize
"""

import json
import shutil
from pathlib import Path

from medtune.corpus.histogram import draw_lengths
from medtune.corpus.records import write_text
from medtune.corpus.template import dress
from medtune.corpus.tokens import SPLITS, encode_split, length_rows, summarise, tokens_digest
from medtune.engine.base import resolve
from medtune.engine.load import load_tokenizer
from medtune.params.recipe import load_recipe
from stages.stage import run_stage

VALID = Path("data/valid/rows.jsonl")
OUT = Path("data/tokens")


def main() -> None:
    recipe = load_recipe()
    settings = recipe.tokenize
    base = resolve(recipe.base)
    tokenizer = dress(load_tokenizer(base.path), settings.template, settings.system)
    rows = [json.loads(line) for line in VALID.open(encoding="utf-8")]

    building = OUT.with_name("tokens.tmp")
    shutil.rmtree(building, ignore_errors=True)
    splits, report = {}, {"template": settings.template, "max_length": settings.max_length, "splits": {}}
    listed = {"truncated": [], "dropped": []}
    for name in SPLITS:
        chosen = [row for row in rows if row["split"] == name]
        split = encode_split(chosen, tokenizer, settings.max_length, settings.overflow, name)
        split.dataset.save_to_disk(building / name)
        report["splits"][name] = summarise(split.dataset)
        listed["truncated"] += split.truncated
        listed["dropped"] += split.dropped
        splits[name] = split.dataset
        figures = report["splits"][name]
        print(f"{name}: {figures['rows']} rows, {figures['tokens']} tokens, {figures['target_tokens']} of them trained")
    shutil.rmtree(OUT, ignore_errors=True)
    building.rename(OUT)

    report |= {f"{kind}_rows": len(ids) for kind, ids in listed.items()} | listed
    report |= tokens_digest(splits)
    write_text(Path("reports/tokenize.json"), json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    write_text(Path("reports/lengths.csv"), "\n".join(["length,count,split", *length_rows(splits)]) + "\n")
    draw_lengths(splits, settings.max_length, Path("reports/lengths.png"))
    print(f"{len(listed['truncated'])} rows shortened, {len(listed['dropped'])} left out; ids in reports/tokenize.json")
    print("the label contract holds on every row")


if __name__ == "__main__":
    run_stage(main)
