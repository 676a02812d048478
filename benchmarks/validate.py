"""Time and memory of the validate stage, beyond imports.

    python -m benchmarks.validate ROWS.jsonl              # the given rows, then 100,000 made of them
    python -m benchmarks.validate ROWS.jsonl --rows 20000

ROWS.jsonl holds objects with instruction, input and output. The large corpus recombines its sentences: a question of
one row, an answer of two to four sentences of others; one row in ten is an earlier one with one word left out (a
near-duplicate), one in a hundred an earlier one word for word. Each corpus runs through stages.validate's main() in a
process and a directory of its own, reading, GX suite, page and all; bounds of the recipe are lifted, so that the
quarantine is counted and stops nothing. Time is wall time after the heavy imports, memory the process's peak
resident set less that after them.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEAR, EXACT = 0.10, 0.01  # shares of near-duplicates and of exact ones in the made corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=100_000, help="of the made corpus")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # inside a prepared directory
    arguments = parser.parse_args()
    if arguments.measure:
        return measure()
    rows = [json.loads(line) for line in arguments.path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name, corpus in (("given", rows), ("made", recombine(rows, arguments.rows))):
        directory = Path(tempfile.mkdtemp(prefix="medtune-benchmark-"))
        try:
            prepare(directory, corpus)
            run = [sys.executable, "-m", "benchmarks.validate", "-", "--measure"]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(run, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            print(name, done.stdout.splitlines()[-1], flush=True)
        finally:
            shutil.rmtree(directory)
    return None


def recombine(rows: list[dict], count: int, seed: int = 0) -> Iterator[dict]:
    """`count` rows out of the sentences of the given ones, the same ones for the same seed."""
    chance = random.Random(seed)
    questions = [row["instruction"] for row in rows]
    sentences = [s for row in rows for s in re.split(r"(?<=[.?!])\s+", row["output"].strip()) if s]
    made: list[dict] = []
    for _ in range(count):
        draw = chance.random()
        if made and draw < EXACT:
            row = chance.choice(made)
        elif made and draw < EXACT + NEAR:
            earlier = chance.choice(made)
            words = earlier["output"].split()
            del words[chance.randrange(len(words))]
            row = {**earlier, "output": " ".join(words)}
        else:
            answer = " ".join(chance.choices(sentences, k=chance.randint(2, 4)))
            row = {"instruction": chance.choice(questions), "input": "", "output": answer}
        made.append(row)
        yield row


def prepare(directory: Path, rows: Iterator[dict]) -> None:
    """What the download stage would leave: raw rows, their record and a recipe that bears any quarantine."""
    from ruamel.yaml import YAML

    yaml = YAML()
    recipe = yaml.load(ROOT / "params.yaml")
    recipe["validate"] |= {"min_rows": 1, "max_rows": 10_000_000, "max_quarantine_share": 1.0}
    recipe["download"] |= {"format": "auto"}
    yaml.dump(recipe, directory / "params.yaml")
    raw = directory / "data/raw"
    raw.mkdir(parents=True)
    count = 0
    with (raw / "rows.jsonl").open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):
            file.write(json.dumps({"source": f"rows.jsonl:{count}", "row": row}, ensure_ascii=False) + "\n")
    (raw / "dataset.json").write_text(json.dumps({"rows": count, "files": []}))


def measure() -> None:
    """Run the stage here and print one line of figures."""
    import great_expectations.expectations  # noqa: F401  (its own time is not the stage's)
    import pandas  # noqa: F401
    import psutil
    import rensa  # noqa: F401

    from stages.validate import REPORT
    from stages.validate import main as stage

    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    stage()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    print(
        f"{report['rows_in']:,} rows: {seconds:.1f} s, {(peak - before) / 2**20:,.0f} MiB beyond imports "
        f"(peak {peak / 2**20:,.0f} MiB); {report['quarantined']:,} set aside, {report['clusters']:,} clusters, "
        f"{report['near_duplicates']:,} near-duplicates"
    )


if __name__ == "__main__":
    main()
