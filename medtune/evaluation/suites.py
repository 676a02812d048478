"""Suites of prompts and the rules that judge answers to them: read, choose, judge, count.

    python -m medtune.evaluation.suites --held-out    # score the rules on the hand-written answers, and freeze them

The rules themselves are in medtune/evaluation/rules, one module each. How often they err is counted on hand-written
good and bad answers (data/suites/*_answers.jsonl), of which a third is held out until the rules are frozen.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medtune.evaluation.intervals import share
from medtune.params.errors import EvaluationError

KINDS = (
    "must_escalate",
    "must_not_escalate",
    "must_defer",
    "may_answer",
    "invites_identity",
    "ordinary",
    "prompt_has_identity",
)
RULED = ("id", "suite", "kind", "topic", "prompt", "rule", "why")
GENERAL = ("id", "suite", "topic", "prompt", "answer")  # a suite without rules: scored against its references
HELD_OUT = "held_out.json"


@dataclass(frozen=True)
class Suite:
    """A file of prompts. `digest`: sha256 (hex) of the prompts' canonical JSON, so that white space and the order of
    keys do not count and the order of prompts does. `prompts`: one dict a line, with the file's keys."""

    name: str
    digest: str
    prompts: list[dict]

    @property
    def has_rules(self) -> bool:
        return "rule" in self.prompts[0]


def read_suite(path: Path | str) -> Suite:
    """The suite in a JSONL file. EvaluationError names file and line, what is wrong and the mend."""
    path = Path(path)
    prompts: list[dict] = []
    seen: dict[str, int] = {}
    for line, row in _rows(path):
        keys = RULED if "rule" in row or "kind" in row else GENERAL
        if missing := [key for key in keys if not isinstance(row.get(key), str) or not row[key].strip()]:
            raise EvaluationError(
                f"{path}, line {line}: {missing[0]!r} is missing or is no text; a prompt needs {', '.join(keys)}"
            )
        if keys is RULED:
            _check_rule(row, path, line)
        if row["id"] in seen:
            raise EvaluationError(
                f"{path}, line {line}: the id {row['id']!r} is already on line {seen[row['id']]}; give each its own"
            )
        if prompts and ("rule" in row) != ("rule" in prompts[0]):
            raise EvaluationError(f"{path}, line {line}: either every prompt of a suite has a rule and a kind, or none")
        seen[row["id"]] = line
        prompts.append(row)
    if not prompts:
        raise EvaluationError(
            f"{path} holds no prompt; write one JSON object a line, or take the suite out of the recipe"
        )
    canonical = json.dumps(prompts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return Suite(path.stem, hashlib.sha256(canonical.encode()).hexdigest(), prompts)


def select(suite: Suite, n: int | None) -> list[dict]:
    """`n` prompts of the suite (all of them for None), as equally many of each kind as there are.

    The order is by the sha256 of the id: a prompt that is added takes its own place and moves no other. Kinds take
    turns in it, so that the first 8 of three kinds hold 3, 3 and 2. ValueError: n is under 1.
    """
    if n is not None and n < 1:
        raise ValueError(f"{n} prompts are none: give 1 or more, or null for all")
    by_kind: dict[str, list[dict]] = {}
    for prompt in sorted(suite.prompts, key=lambda prompt: hashlib.sha256(prompt["id"].encode()).hexdigest()):
        by_kind.setdefault(prompt.get("kind", ""), []).append(prompt)
    order = sorted(by_kind, key=lambda kind: KINDS.index(kind) if kind in KINDS else len(KINDS))
    turns = max(map(len, by_kind.values()))
    chosen = [by_kind[kind][turn] for turn in range(turns) for kind in order if turn < len(by_kind[kind])]
    return chosen if n is None else chosen[:n]


def judge(prompt: dict, answer: str) -> tuple[bool, str]:
    """(passed, reason) of an answer to a prompt of a suite with rules; the reason is one English sentence."""
    from medtune.evaluation.rules.table import RULES

    if prompt.get("rule") not in RULES:
        raise EvaluationError(f"prompt {prompt.get('id')!r} has no rule to be judged by; known are {', '.join(RULES)}")
    return RULES[prompt["rule"]](prompt["prompt"], answer)


def summarise(
    prompts: Sequence[dict], verdicts: Sequence[bool | tuple[bool, str]], confidence: float = 0.95
) -> dict[str, dict]:
    """{"passed": interval over all prompts, <kind>: interval over its prompts}; verdicts are judge's, in the prompts'
    order. See intervals.share for an interval. ValueError where there is not one verdict a prompt."""
    passes = [verdict[0] if isinstance(verdict, tuple) else verdict for verdict in verdicts]
    if len(passes) != len(prompts):
        raise ValueError(f"{len(passes)} verdicts for {len(prompts)} prompts: there must be one each")
    groups: dict[str, list[bool]] = {"passed": list(passes)}
    for prompt, passed in zip(prompts, passes, strict=True):
        groups.setdefault(prompt["kind"], []).append(passed)
    return {name: share(sum(map(bool, group)), len(group), confidence) for name, group in groups.items()}


@cache
def rules_version() -> str:
    """sha256 (hex) over the syntax trees of everything a verdict depends on: the rules package, without comments and
    docstrings, as in a candidate's digest. Reports name it, and held_out.json freezes it."""
    from medtune.tracking.closure import source_digest

    return source_digest("medtune.evaluation.rules.table", Path(__file__).resolve().parents[2])


def __getattr__(name: str) -> str:
    if name == "RULES_VERSION":  # read on first use: importing this module reads no sources
        return rules_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _check_rule(row: dict, path: Path, line: int) -> None:
    from medtune.evaluation.rules.table import RULES

    for key, known in (("rule", tuple(RULES)), ("kind", KINDS)):
        if row[key] not in known:
            raise EvaluationError(f"{path}, line {line}: unknown {key} {row[key]!r}; known are {', '.join(known)}")


def _rows(path: Path) -> Iterable[tuple[int, dict]]:
    """(line number from 1, JSON object) of every line that is not blank."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}); check the path and its rights") from None
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise EvaluationError(
                f"{path}, line {number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
            ) from None
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise EvaluationError(
                f"{path}, line {number}, column {error.colno}: not JSON ({error.msg}); write one object a line"
            ) from None
        if not isinstance(row, dict):
            raise EvaluationError(f"{path}, line {number}: not a JSON object but {type(row).__name__}; write {{...}}")
        yield number, row


def rule_errors(folder: Path, split: str, confidence: float = 0.95) -> dict[str, dict]:
    """How the rules judge the hand-written answers of one split ("dev" or "held_out") of a folder of suites.

    {rule: {"good_passed": interval, "bad_caught": interval, "false_positives": [answer ids], "false_negatives": […]}}:
    a false positive is a good answer that the rule fails, a false negative a bad one that it passes.
    """
    verdicts: dict[str, list[tuple[str, bool, bool]]] = {}
    for path in sorted(folder.glob("*_answers.jsonl")):
        prompts = {prompt["id"]: prompt for prompt in read_suite(folder / path.name.replace("_answers", "")).prompts}
        for line, row in _rows(path):
            if row.get("split") != split:
                continue
            if row.get("prompt_id") not in prompts or row.get("label") not in ("good", "bad"):
                raise EvaluationError(f"{path}, line {line}: needs the prompt_id of a prompt and a label, good or bad")
            prompt = prompts[row["prompt_id"]]
            verdicts.setdefault(prompt["rule"], []).append(
                (row["id"], row["label"] == "good", judge(prompt, row["answer"])[0])
            )
    return {rule: _errors(rows, confidence) for rule, rows in sorted(verdicts.items())}


def _errors(rows: list[tuple[str, bool, bool]], confidence: float) -> dict:
    good = [(name, passed) for name, is_good, passed in rows if is_good]
    bad = [(name, passed) for name, is_good, passed in rows if not is_good]
    return {
        "good_passed": share(sum(passed for _, passed in good), len(good), confidence),
        "bad_caught": share(sum(not passed for _, passed in bad), len(bad), confidence),
        "false_positives": [name for name, passed in good if not passed],
        "false_negatives": [name for name, passed in bad if passed],
    }


def freeze(folder: Path, note: str) -> dict:
    """Score the rules on both splits and write folder/held_out.json: the frozen version, the figures, and a history
    with one entry a scoring. Every scoring after the first says that the held-out answers were no longer unseen."""
    path = folder / HELD_OUT
    history = json.loads(path.read_text(encoding="utf-8"))["history"] if path.exists() else []
    held_out = rule_errors(folder, "held_out")
    history.append(
        {
            "rules": rules_version(),
            "unseen": not history,
            "note": note,
            "good_passed": sum(row["good_passed"]["passed"] for row in held_out.values()),
            "good": sum(row["good_passed"]["of"] for row in held_out.values()),
            "bad_caught": sum(row["bad_caught"]["passed"] for row in held_out.values()),
            "bad": sum(row["bad_caught"]["of"] for row in held_out.values()),
        }
    )
    frozen = {"rules": rules_version(), "held_out": held_out, "dev": rule_errors(folder, "dev"), "history": history}
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(frozen, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
    return frozen


def describe(errors: dict[str, dict]) -> str:
    """The errors as a Markdown table, one rule a line."""

    def cell(interval: dict) -> str:
        return f"{interval['passed']}/{interval['of']} ({interval['low']:.2f} to {interval['high']:.2f})"

    lines = ["| rule | good passed | bad caught | false positives | false negatives |", "|---|---|---|---|---|"]
    for rule, row in errors.items():
        wrong = (", ".join(row[key]) or "none" for key in ("false_positives", "false_negatives"))
        lines.append(f"| `{rule}` | {cell(row['good_passed'])} | {cell(row['bad_caught'])} | {' | '.join(wrong)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Count how often the rules err on hand-written answers.")
    parser.add_argument("--folder", type=Path, default=Path("data/suites"), help="the suites (default: data/suites)")
    parser.add_argument("--held-out", action="store_true", help="score the held-out third too, and freeze the rules")
    parser.add_argument("--note", default="first scoring, rules written on dev only", help="kept in the history")
    options = parser.parse_args(arguments)
    try:
        if options.held_out:
            frozen = freeze(options.folder, options.note)
            for split in ("dev", "held_out"):
                print(f"{split}\n{describe(frozen[split])}\n")
            print(f"rules {frozen['rules']}, written to {options.folder / HELD_OUT}")
        else:
            print(describe(rule_errors(options.folder, "dev")))
    except EvaluationError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
