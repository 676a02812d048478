"""How often the drift report cries wolf, and how often it sees a wolf: on the sample corpus, seeded.

    python -m benchmarks.drift_power --trials 200
    python -m benchmarks.drift_power --rows my.jsonl     # instruction and output a line; without the labelled rows

Every trial draws new rows and holds them against old ones with the recipe's thresholds. "Random" halves differ by
chance alone: each alarm there is a false one. The rest are shifts that somebody should hear of.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medtune.corpus.drift import measure
from medtune.params.recipe import PARAMS, load_recipe

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("question", "answer", "words", "specialties", "unseen", "duplicates")
ENGLISH = (
    (
        "My throat has been sore for three days and I have a fever.",
        "Rest, drink plenty of water, see a doctor if it lasts.",
    ),
    ("I twisted my ankle playing football and it is swollen.", "Put ice on it and keep it raised; have it X-rayed."),
    ("My chest feels tight when I climb the stairs.", "This may be angina. See a cardiologist within a day or two."),
    ("My baby is two months old and has a fever.", "Take the child to an emergency room now."),
    ("I cannot sleep and feel anxious all day.", "Talk to a psychiatrist; therapy and medicine both help."),
    ("There is blood in my urine.", "Have it tested this week; a urologist should look at your bladder."),
    ("My skin itches at night and I have a rash.", "It may be eczema or scabies. A dermatologist can tell."),
    ("One eye suddenly went dark.", "Go to an emergency room at once: the retina may be without blood."),
    ("My gums bleed when I brush my teeth.", "Brush softly and have your teeth cleaned by a dentist."),
    ("I am thirsty all the time and lose weight.", "Have your blood sugar measured in the next few days."),
    ("My ear has been ringing for months.", "A hearing test will show whether the nerve is at fault."),
    ("I have heartburn after every dinner.", "Eat earlier, raise your pillow, and see a doctor if it goes on."),
)


def row(question: str, answer: str, cluster: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "cluster": cluster}


def english(draw: random.Random, count: int) -> list[dict[str, Any]]:
    return [row(*draw.choice(ENGLISH), f"english {i}") for i in range(count)]


def texts(one: dict[str, Any]) -> tuple[str, str]:
    return one["messages"][0]["content"], one["messages"][1]["content"]


def split(rows: list, draw: random.Random, count: int) -> tuple[list, list]:
    """(old, new)"""
    mixed = draw.sample(rows, len(rows))
    return mixed[count:], mixed[:count]


def doubled(rows: list, draw: random.Random) -> tuple[list, list]:
    old, new = split(rows, draw, 60)
    return old, [row(texts(a)[0], f"{texts(a)[1]} {texts(draw.choice(new))[1]}", a["cluster"]) for a in new]


def cut(rows: list, draw: random.Random) -> tuple[list, list]:
    old, new = split(rows, draw, 60)
    return old, [row(texts(a)[0], texts(a)[1].partition(".")[0] + ".", a["cluster"]) for a in new]


def mixed(share: float) -> Callable:
    def make(rows: list, draw: random.Random) -> tuple[list, list]:
        old, new = split(rows, draw, 60)
        count = round(60 * share)
        return old, new[count:] + english(draw, count)

    return make


def repeated(share: float) -> Callable:
    def make(rows: list, draw: random.Random) -> tuple[list, list]:
        old, new = split(rows, draw, 60)
        count = round(60 * share)
        again = [row(texts(a)[0] + " 네?", texts(a)[1], a["cluster"]) for a in draw.sample(old, count)]
        return old, new[count:] + again

    return make


def of_specialties(labels: list[str], most: int) -> Callable:
    """60 new rows of so many specialties that the old ones have too; of one, some rows come several times."""

    def make(rows: list, draw: random.Random) -> tuple[list, list]:
        picked = set(draw.sample(sorted(set(labels)), most))
        inside = [one for one, label in zip(rows, labels, strict=True) if label in picked]
        outside = [one for one, label in zip(rows, labels, strict=True) if label not in picked]
        draw.shuffle(inside)
        half = len(inside) // 4
        old, pool = outside + inside[:half], inside[half:]
        return old, [draw.choice(pool) for _ in range(60)] if len(pool) < 60 else pool[:60]

    return make


def random_split(count: int, old: int | None = None) -> Callable:
    def make(rows: list, draw: random.Random) -> tuple[list, list]:
        before, new = split(rows, draw, count)
        return before[:old] if old else before, new

    return make


def cases(labels: list[str] | None) -> Iterator[tuple[str, Callable]]:
    yield "random, 60 new against all others", random_split(60)
    yield "random, 30 new against all others", random_split(30)
    yield "random, 60 new against 60", random_split(60, 60)
    yield "random halves", random_split(180)
    if labels:
        yield "one specialty (60 of its rows, repeated)", of_specialties(labels, 1)
        yield "three specialties", of_specialties(labels, 3)
        yield "six specialties", of_specialties(labels, 6)
    for share in (1.0, 0.5, 0.25, 0.1):
        yield f"English, {share:.0%} of 60", mixed(share)
    yield "answers doubled", doubled
    yield "answers cut to a sentence", cut
    for share in (0.6, 0.3):
        yield f"near-duplicates of old rows, {share:.0%} of 60", repeated(share)


def main() -> None:
    parser = argparse.ArgumentParser(description="False alarms and power of the drift report")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rows", type=Path, help="JSONL of instruction and output, instead of the sample")
    parser.add_argument("--seed", type=int, default=20261123)
    arguments = parser.parse_args()
    thresholds = load_recipe(ROOT / PARAMS).retrain.drift
    path = arguments.rows or ROOT / "data/sample/dialogues.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row(line["instruction"], line["output"], str(i)) for i, line in enumerate(lines) if line["output"]]
    labels = None
    if not arguments.rows:
        marked = (ROOT / "data/sample/labels.jsonl").read_text(encoding="utf-8").splitlines()
        labels = [json.loads(line)["specialty"] for line in marked]
    print(f"{len(rows)} rows of {path.name}, {arguments.trials} trials, seed {arguments.seed}, {thresholds}\n")
    print("| new rows | any alarm | " + " | ".join(NAMES) + " |")
    print("|---|---:|" + "---:|" * len(NAMES))
    for name, make in cases(labels):
        draw = random.Random(f"{arguments.seed} {name}")
        found = dict.fromkeys(("any", *NAMES), 0)
        for _ in range(arguments.trials):
            drift = measure(*make(rows, draw), thresholds)
            found["any"] += bool(drift.alarms)
            for one in drift.measures:
                found[one.name] += one.alarm is not None
        cells = [f"{100 * found[key] / arguments.trials:.1f} %" for key in ("any", *NAMES)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
