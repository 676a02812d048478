"""From a votes file to reports/review.json: unblinded preference, harm and agreement, for the card and the gate."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.evaluation.review.agreement import krippendorff_alpha, raw_agreement
from medtune.evaluation.review.log import Vote, latest, read_votes
from medtune.evaluation.review.pairs import Item, Pairs, read_pairs
from medtune.params.errors import EvaluationError

REPORT = Path("reports/review.json")
SCHEMA = 1
BOOTSTRAP_SAMPLES = 10_000
METHODS = {
    "preference": "items whose reviewers' majority prefers the candidate, of the items with a majority (ties left out, "
    "as in the sign test: Dixon and Mood, 1946); Clopper-Pearson (1934)",
    "score": "mean over items of the candidate's share of votes, an equal vote as half; percentile bootstrap of whole "
    "items (Efron and Tibshirani, 1993, chapter 13)",
    "harmful": "items whose answer at least one reviewer called harmful, of the items reviewed; Clopper-Pearson (1934)",
    "agreement": "Krippendorff's alpha, nominal, over candidate / other / equal (Krippendorff, 2011)",
    "left": "votes for the answer on the left, of the votes for one answer; near one half where position plays no part",
}


def import_votes(path: Path, items: Mapping[str, Item]) -> dict[str, Any]:
    """Check a votes file, unblind it, and say what it holds.

    Returns (an interval mapping is medtune.evaluation.intervals.share's):
      preference: interval mapping + {"ties", "rows"}; rows is the items reviewed
      score: {"mean", "low", "high", "confidence"}, 0.5 where the two are equal; low and high None where no item differs
      harmful: {"candidate", "other"} -> interval mapping over items (passed counts the harmful ones)
      agreement: alpha, None where no item has two reviewers (or all votes are alike); raw_agreement: {"same", "of",
      "share"} over pairs of reviewers; shared_items
      left: interval mapping over votes; sets: set -> {"candidate", "other", "ties"} items
      reviewers (number), votes (that count), items_reviewed, items, lines, changed, withdrawn, repeated, torn (bool)
      by_reviewer: [{"votes", "candidate", "other", "equal", "harmful", "comments"}], in order of their first vote,
      without names; comments: [{"prompt", "set", "reviewer", "comment", "preferred"}]; methods: how each was computed
    Raises EvaluationError naming file and line: a line that is no vote, items or answers that are not in `items`.
    """
    from medtune.evaluation.intervals import share

    lines, torn = read_votes(path)
    _refuse_foreign(path, lines, items)
    votes = latest(lines)
    if not votes:
        raise EvaluationError(f"{path} holds no vote that counts; review some pairs with `medtune review serve`")
    names = list(dict.fromkeys(vote.reviewer for _, vote in lines if (vote.reviewer, vote.item) in votes))
    by_item: dict[str, list[Vote]] = defaultdict(list)
    for (_, item), vote in votes.items():
        by_item[item].append(vote)

    units = {item: [preferred(vote, items[item]) for vote in voted] for item, voted in by_item.items()}
    majorities = {item: _majority(values) for item, values in units.items()}
    count = Counter(majorities.values())
    same, pairs = raw_agreement(units.values())
    harmed = {side: sum(side in _harmed(voted, items[item]) for item, voted in by_item.items()) for side in SIDES}
    sided = Counter(vote.choice for vote in votes.values())
    repeated = len(lines) - len({(vote.reviewer, vote.key) for _, vote in lines})
    given = Counter((vote.reviewer, vote.item) for _, vote in lines if vote.choice is not None)
    return {
        "preference": share(count["candidate"], count["candidate"] + count["other"])
        | {"ties": count["equal"], "rows": len(units)},
        "score": _score(list(units.values())),
        "harmful": {side: share(harmed[side], len(units)) for side in SIDES},
        "agreement": krippendorff_alpha(units.values()),
        "raw_agreement": {"same": same, "of": pairs, "share": same / pairs if pairs else None},
        "shared_items": sum(len(values) > 1 for values in units.values()),
        "left": share(sided["a"], sided["a"] + sided["b"]),
        "sets": _by_set(majorities, items),
        "reviewers": len(names),
        "votes": len(votes),
        "items_reviewed": len(units),
        "items": len(items),
        "lines": len(lines),
        "changed": sum(given.values()) - len(given) - repeated,
        "withdrawn": sum(vote.choice is None for _, vote in lines),
        "repeated": repeated,
        "torn": torn,
        "by_reviewer": [_tell([v for v in votes.values() if v.reviewer == name], items) for name in names],
        "comments": [
            {
                "prompt": items[vote.item].prompt,
                "set": items[vote.item].set,
                "reviewer": names.index(vote.reviewer) + 1,
                "comment": vote.comment,
                "preferred": preferred(vote, items[vote.item]),
            }
            for vote in votes.values()
            if vote.comment.strip()
        ],
        "methods": METHODS,
    }


SIDES = ("candidate", "other")


def preferred(vote: Vote, item: Item) -> str:
    """candidate, other or equal: a vote unblinded by the digest of the answer that stood at A."""
    if vote.choice == "equal":
        return "equal"
    return _model(vote.choice, vote, item)


def write_review(root: Path, path: Path, against: str | None = None) -> dict[str, Any]:
    """Import a votes file against the evaluation in reports/, and write reports/review.json (whole or not at all).

    Votes of every prompt set count, whichever the page was served with. Returns the report.
    """
    pairs = read_pairs(root, None, against)
    summary = import_votes(path, pairs.items)
    report = {
        "schema": SCHEMA,
        **pairs.evaluation,
        "models": {"candidate": pairs.candidate, "other": pairs.other},
        "left_out": pairs.left_out,
        "votes_digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        **summary,
    }
    target = root / REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(json.dumps(report, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, target)
    return report


def read_review(root: Path, candidate: str, version: str) -> tuple[dict[str, Any], str | None]:
    """(the review, None), or ({}, a sentence why there is none for this version): absent, of another candidate or of
    other answers. A gate check on a figure of `review.` then finds it missing. EvaluationError where it is broken."""
    path = root / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        of = (report["candidate"], report["version"], report["answers"], report["preference"])
    except FileNotFoundError:
        return {}, f"{REPORT} is not there: `medtune review serve`, then `medtune review import`"
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{path} is no review ({error}); remove it or run `medtune review import` again"
        ) from None
    if of[:2] != (candidate, version):
        return {}, (
            f"{REPORT} is of candidate {str(of[0])[:12]} and version {str(of[1])[:12]}, not of this one "
            f"({candidate[:12]}, {version[:12]}): its answers must be reviewed anew"
        )
    answers = root / "reports/evaluate/answers.jsonl"
    if not answers.is_file() or hashlib.sha256(answers.read_bytes()).hexdigest() != of[2]:
        return (
            {},
            f"{REPORT} was made from other answers than {answers.relative_to(root)}: `medtune review import` again",
        )
    return report, None


def review_status(root: Path, votes: Path, sets: Sequence[str] | None, against: str | None = None) -> str:
    """Lines for people: how far each reviewer is, and whether reports/review.json is of these votes and answers."""
    pairs = read_pairs(root, sets, against)
    told = [f"{len(pairs.items)} pairs of answers ({', '.join(pairs.sets)}): {_named(pairs)}"]
    lines, torn = read_votes(root / votes) if (root / votes).is_file() else ([], False)
    done: Counter[str] = Counter()
    for (reviewer, item), _ in latest(lines).items():
        done[reviewer] += item in pairs.items
    told += [f"  {name}: {count} of {len(pairs.items)}" for name, count in done.items()]
    if not lines:
        told.append(f"  no votes yet in {votes}: `medtune review serve`")
    foreign = len({vote.item for _, vote in lines if vote.item not in pairs.items})
    if foreign:
        told.append(f"  {foreign} voted pairs in {votes} are of other answers or other sets")
    if torn:
        told.append(f"  the last line of {votes} is torn; the server's next start sets it aside")
    report, why = read_review(root, str(pairs.evaluation["candidate"]), str(pairs.evaluation["version"]))
    if report:
        new = lines and hashlib.sha256((root / votes).read_bytes()).hexdigest() != report["votes_digest"]
        told.append(summarise(report))
        if new:
            told.append(f"  {votes} has changed since: `medtune review import {votes}`")
    else:
        told.append(str(why))
    return "\n".join(told)


def summarise(report: Mapping[str, Any]) -> str:
    """A review in a few lines of English."""
    preference, harmful = report["preference"], report["harmful"]
    alpha = report["agreement"]
    models = report["models"]
    lines = [
        f"{models['candidate']['name']} against {models['other']['name']}: {report['votes']} votes of "
        f"{report['reviewers']} reviewers on {report['items_reviewed']} of {report['items']} pairs",
        f"  preferred on {preference['passed']} of {preference['of']} pairs with a majority, {_interval(preference)}; "
        f"{preference['ties']} ties",
        "  called harmful: "
        + "; ".join(f"{harmful[side]['passed']} of the {side}'s, {_interval(harmful[side])}" for side in SIDES),
        f"  agreement on {report['shared_items']} pairs with several reviewers: "
        + ("not computable" if alpha is None else f"alpha {alpha:.2f}, raw {report['raw_agreement']['share']:.0%}"),
    ]
    return "\n".join(lines)


def _interval(share: Mapping[str, Any]) -> str:
    if share["share"] is None:
        return "no interval"
    return f"{share['share']:.0%} [{share['low']:.0%}, {share['high']:.0%}]"


def _named(pairs: Pairs) -> str:
    return " against ".join(f"{model['name']} {model['digest'][:12]}" for model in (pairs.candidate, pairs.other))


def _refuse_foreign(path: Path, lines: list[tuple[int, Vote]], items: Mapping[str, Item]) -> None:
    foreign = [
        (number, vote) for number, vote in lines if vote.item not in items or vote.a not in items[vote.item].text_ids()
    ]
    if foreign:
        numbers = ", ".join(str(number) for number, _ in foreign[:5]) + (" …" if len(foreign) > 5 else "")
        ids = list(dict.fromkeys(vote.item[:12] for _, vote in foreign))
        named = ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
        raise EvaluationError(
            f"{path} line {numbers}: {len(foreign)} votes are on items that the answers in reports/evaluate do not "
            f"hold ({named}); they were given to other answers or models. Import them with the reports they belong to, "
            "give --against as it was served, or remove the lines"
        )


def _model(side: str | None, vote: Vote, item: Item) -> str:
    candidate, _ = item.text_ids()
    return "candidate" if (vote.a == candidate) == (side == "a") else "other"


def _harmed(votes: Sequence[Vote], item: Item) -> set[str]:
    return {_model(side, vote, item) for vote in votes for side in vote.harmful}


def _majority(values: Sequence[str]) -> str:
    lead = values.count("candidate") - values.count("other")
    return "candidate" if lead > 0 else "other" if lead < 0 else "equal"


def _score(units: Sequence[Sequence[str]], confidence: float = 0.95) -> dict[str, Any]:
    import numpy as np

    worth = {"candidate": 1.0, "equal": 0.5, "other": 0.0}
    scores = np.array([np.mean([worth[value] for value in values]) for values in units])
    low = high = None
    if len(set(scores.tolist())) > 1:  # resamples of scores that do not vary would claim an interval of no width
        drawn = np.random.default_rng(0).integers(len(scores), size=(BOOTSTRAP_SAMPLES, len(scores)))
        tail = (1 - confidence) / 2
        low, high = (float(q) for q in np.quantile(scores[drawn].mean(axis=1), [tail, 1 - tail]))
    return {"mean": float(scores.mean()), "low": low, "high": high, "confidence": confidence}


def _by_set(majorities: Mapping[str, str], items: Mapping[str, Item]) -> dict[str, dict[str, int]]:
    told: dict[str, dict[str, int]] = {}
    for item, majority in majorities.items():
        counts = told.setdefault(items[item].set, {"candidate": 0, "other": 0, "ties": 0})
        counts["ties" if majority == "equal" else majority] += 1
    return told


def _tell(votes: Sequence[Vote], items: Mapping[str, Item]) -> dict[str, int]:
    values = Counter(preferred(vote, items[vote.item]) for vote in votes)
    return {
        "votes": len(votes),
        "candidate": values["candidate"],
        "other": values["other"],
        "equal": values["equal"],
        "harmful": sum(len(vote.harmful) for vote in votes),
        "comments": sum(bool(vote.comment.strip()) for vote in votes),
    }
