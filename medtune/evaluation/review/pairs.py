"""Pairs of answers for a blind review: the same prompt answered by the candidate and by another model.

Which side an answer stands on and the order of the prompts are drawn per reviewer, from the reviewer's name and the
items' ids, so that a reload shows the same. Sides are balanced by permuted blocks of four (Matts and Lachin, Properties
of permuted-block randomization in clinical trials, Controlled Clinical Trials 9, 1988): after every block each model
stood on the left equally often, and nobody can learn which side is whose.
"""

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.params.errors import EvaluationError

CANDIDATE = "adapter"
DEFAULT_SETS = ("test", "questions")
BLOCK = 4
# Parts of a model's id that are no name: an answer may say them without giving anybody away
COMMON_WORDS = frozenset("instruct model chat base large small preview assistant".split())  # noqa: SIM905


@dataclass(frozen=True)
class Item:
    """One prompt and two answers to it. Only `question` and the two texts, unordered, may reach a reviewer."""

    id: str
    set: str
    prompt: str  # the prompt's id in its set
    question: str
    candidate: str
    other: str

    def text_ids(self) -> tuple[str, str]:
        """Digests of the candidate's and the other's text: how a vote says which answer it was given to."""
        return text_id(self.candidate), text_id(self.other)


@dataclass(frozen=True)
class Pairs:
    """Items by id, what they compare, and what was left out.

    candidate, other: {"name", "digest"} of the two models. evaluation: {"candidate", "version", "test_digest",
    "answers"}, the last being the sha256 of the answers file. left_out: {"identical", "unanswered", "repeated",
    "names a model"} -> prompts.
    """

    items: dict[str, Item]
    candidate: dict[str, str]
    other: dict[str, str]
    evaluation: dict[str, str | None]
    sets: tuple[str, ...]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Shown:
    """An item as one reviewer sees it; `flipped` where the candidate's answer is B."""

    item: Item
    flipped: bool

    @property
    def answers(self) -> tuple[str, str]:
        both = (self.item.candidate, self.item.other)
        return both[::-1] if self.flipped else both


def read_pairs(root: Path, sets: Sequence[str] | None = None, against: str | None = None) -> Pairs:
    """The items of the evaluation that lies in reports/.

    sets: names of prompt sets, None for all that were answered; of DEFAULT_SETS those that were.
    against: "base", "champion", another model of reports/evaluate.json, or a folder with the evaluate.json and
    evaluate/answers.jsonl of another evaluation; None takes the champion where the answers hold one, else the base.
    Raises EvaluationError where a report is missing or broken, a set or model was not answered, or no pair is left.
    """
    folder = root / "reports"
    report, lines, digest = _read_evaluation(folder)
    models = report["models"]
    if against is None:
        against = "champion" if "champion" in models else "base"
    if against not in models and (Path(against) / "evaluate.json").is_file():
        name, other = _join(Path(against), lines)
        models = {**models, name: other}
        against = name
    for name in (CANDIDATE, against):
        if name not in models:
            raise EvaluationError(
                f"reports/evaluate.json holds no answers of {name!r}; it holds those of {', '.join(sorted(models))}. "
                "Give --against one of them, or a folder with evaluate.json and evaluate/answers.jsonl"
            )
    if against == CANDIDATE:
        raise EvaluationError(f"--against {against} is the candidate itself; give the model to compare it with")
    known = tuple(dict.fromkeys(line["set"] for line in lines))
    if sets is not None and tuple(sets) == DEFAULT_SETS:
        sets = [name for name in DEFAULT_SETS if name in known]
    for name in sets or ():
        if name not in known:
            raise EvaluationError(
                f"--sets names {name!r}, but {folder / 'evaluate/answers.jsonl'} answers {', '.join(known)}"
            )
    chosen = tuple(sets or known)
    items, left_out = make_items(
        [line for line in lines if line["set"] in chosen], models, CANDIDATE, against, _names(root)
    )
    if not items:
        said = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
        raise EvaluationError(f"no pair of answers to review in {', '.join(chosen)}: {said or 'no prompts'}")
    return Pairs(
        items,
        {"name": CANDIDATE, "digest": models[CANDIDATE]},
        {"name": against, "digest": models[against]},
        {key: report.get(key) for key in ("candidate", "version", "test_digest")} | {"answers": digest},
        chosen,
        left_out,
    )


def make_items(
    lines: Iterable[Mapping[str, Any]],
    models: Mapping[str, str],
    candidate: str,
    other: str,
    names: Iterable[str] = (),
) -> tuple[dict[str, Item], dict[str, int]]:
    """Items by id, and the prompts left out by reason.

    lines: of answers.jsonl. models: name -> digest. names: words that would give a model away; a pair in which an
    answer says one that its question does not is left out. An item's id is the sha256 of prompt, both answers and both
    models' digests, so a vote belongs to exactly these answers.
    """
    items: dict[str, Item] = {}
    left_out = {"identical": 0, "unanswered": 0, "repeated": 0, "names a model": 0}
    telling = re.compile("|".join(map(re.escape, names)), re.IGNORECASE) if names else None
    for line in lines:
        answers = line["answers"]
        if candidate not in answers or other not in answers:
            left_out["unanswered"] += 1
            continue
        ours, theirs = answers[candidate]["text"], answers[other]["text"]
        if _folded(ours) == _folded(theirs):
            left_out["identical"] += 1
            continue
        if telling and telling.search(f"{ours}\n{theirs}") and not telling.search(line["question"]):
            left_out["names a model"] += 1
            continue
        key = [line["question"], [ours, models[candidate]], [theirs, models[other]]]
        item = hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()
        if item in items:
            left_out["repeated"] += 1
            continue
        items[item] = Item(item, line["set"], str(line["id"]), line["question"], ours, theirs)
    return items, left_out


def arrange(items: Mapping[str, Item], reviewer: str) -> list[Shown]:
    """All items in a reviewer's order, each with its side. The same for the same name and items, on every machine."""
    order = sorted(items, key=lambda item: _draw("order", reviewer, item))
    shown = []
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        sides = [True, False] * (BLOCK // 2)
        random.Random(_draw("sides", reviewer, block[0])).shuffle(sides)
        shown += [Shown(items[item], side) for item, side in zip(block, sides, strict=False)]
    return shown


def text_id(text: str) -> str:
    """The first 16 hex digits of an answer's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _draw(what: str, reviewer: str, item: str) -> str:
    return hashlib.sha256(f"{what}\0{reviewer}\0{item}".encode()).hexdigest()


def _folded(text: str) -> str:
    """What a reader sees: answers that differ by white space alone are the same answer."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _names(root: Path) -> list[str]:
    """Words of the base's id that only a model speaking of itself would say, such as SmolLM2 or KULLM3."""
    try:
        name = json.loads((root / "data/base.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return ["medgpt"]
    words = re.split(r"[^A-Za-z0-9]+", str(name).rsplit("/", 1)[-1])
    return ["medgpt", *(w for w in words if len(w) >= 5 and w.lower() not in COMMON_WORDS and not w.isdigit())]


def _read_evaluation(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """(evaluate.json, lines of evaluate/answers.jsonl, sha256 of that file)."""
    path = folder / "evaluate.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        models = report["models"]
        if not (isinstance(models, dict) and all(isinstance(digest, str) for digest in models.values())):
            raise KeyError("models")
    except FileNotFoundError:
        raise EvaluationError(f"{path} is missing; run `dvc repro evaluate`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path} is no report with `models` ({error}); run `dvc repro -f -s evaluate`") from None
    path = folder / "evaluate/answers.jsonl"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise EvaluationError(f"{path} is missing; run `dvc repro -f -s evaluate`") from None
    lines = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
            texts = [answer["text"] for answer in row["answers"].values()]
            if not all(isinstance(text, str) for text in [*texts, row["set"], row["question"]]):
                raise TypeError("a text is no string")
            row["id"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"{path} line {number} is no answered prompt ({error}); run `dvc repro -f -s evaluate`"
            ) from None
        lines.append(row)
    return report, lines, hashlib.sha256(content).hexdigest()


def _join(folder: Path, lines: list[dict[str, Any]]) -> tuple[str, str]:
    """Put the answers of another evaluation's candidate beside ours, by set and question; (name, digest) of it."""
    report, theirs, _ = _read_evaluation(folder)
    name = "champion"
    given = {
        (line["set"], line["question"]): line["answers"][CANDIDATE] for line in theirs if CANDIDATE in line["answers"]
    }
    for line in lines:
        if (line["set"], line["question"]) in given:
            line["answers"][name] = given[line["set"], line["question"]]
    if CANDIDATE not in report["models"]:
        raise EvaluationError(f"{folder / 'evaluate.json'} holds no answers of {CANDIDATE!r}")
    return name, report["models"][CANDIDATE]
