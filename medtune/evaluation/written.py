"""reports/evaluate/: rows.parquet, general.parquet, answers.jsonl and the pictures."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.evaluation import figures

if TYPE_CHECKING:
    from medtune.evaluation.examine import Examined

PER_ANSWER = ("chrfpp", "rouge_l", "looped", "ended", "answer_chars", "hangul_share")
# written out, since a column that is empty in one run must not change its type in the next
COLUMNS = {
    "model": "string",
    "row_id": "string",
    "cluster": "string",
    "nll": "double",
    "tokens": "int64",
    "chars": "int64",
    "eos_after_reference": "bool",
    "chrfpp": "double",
    "rouge_l": "double",
    "looped": "bool",
    "ended": "bool",
    "answer_chars": "int64",
    "hangul_share": "double",
}


def write_folder(
    out: Path,
    found: "dict[str, Examined]",
    prompts: dict[str, list[dict]],
    verdicts: dict,
    difference: dict[str, Any],
    history: list[dict],
) -> None:
    """The whole folder anew. verdicts: as report.of_suites gives them; difference: adapter minus base."""
    building = out.with_name(out.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    _table(score_lines(found, "test"), building / "rows.parquet")
    if "general" in prompts:
        _table(score_lines(found, "general"), building / "general.parquet")
    with (building / "answers.jsonl").open("w", encoding="utf-8") as file:
        for line in answer_lines(found, prompts, verdicts):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    figures.loss_curves(history, building / "loss.png")
    base, adapter = (found[name].rows["test"] for name in ("base", "adapter"))
    figures.base_against_adapter(base, adapter, difference, building / "base_adapter.png")
    shutil.rmtree(out, ignore_errors=True)
    building.rename(out)


def score_lines(found: "dict[str, Examined]", name: str) -> list[dict[str, Any]]:
    """One line a model and row of a set: its scores, and figures of its answer (None where it was not answered)."""
    lines = []
    for who, model in found.items():
        if name not in model.rows:
            continue
        given = {answer["id"]: answer for answer in model.answers.get(name, [])}
        for row in model.rows[name]:
            answer = given.get(row["row_id"], {})
            lines.append({"model": who, **row, **{figure: answer.get(figure) for figure in PER_ANSWER}})
    return lines


def answer_lines(found: "dict[str, Examined]", prompts: dict[str, list[dict]], verdicts: dict) -> list[dict[str, Any]]:
    """One line a prompt, with the answers of every model that was asked; the release card shows them."""
    nll = {(who, r["row_id"]): r["nll"] / r["chars"] for who, one in found.items() for r in one.rows.get("test", [])}
    lines = []
    for name, chosen in prompts.items():
        asked = [who for who, one in found.items() if name in one.answers]
        for n, prompt in enumerate(chosen):
            line = {key: prompt[key] for key in ("set", "id", "question", "reference", "kind", "rule", "why")}
            line["answers"] = {who: _said(found[who].answers[name][n]) for who in asked}
            drawn = {who: _said(found[who].sampled[name][n]) for who in asked if name in found[who].sampled}
            if drawn:
                line["sampled"] = drawn
            line["scores"] = {who: {} for who in asked}
            for who in asked:
                answer = found[who].answers[name][n]
                passed, reason = verdicts.get((name, prompt["id"], who), (None, None))
                figures = {key: answer[key] for key in ("chrfpp", "rouge_l", "looped")}
                line["scores"][who] = figures | {"passed": passed, "reason": reason}
            if name == "test":
                line["nll"] = {who: nll[who, prompt["id"]] for who in asked if (who, prompt["id"]) in nll}
            lines.append(line)
    return lines


def _said(answer: dict) -> dict[str, Any]:
    return {key: answer[key] for key in ("text", "tokens", "ended")}


def _table(lines: list[dict], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    pq.write_table(pa.Table.from_pylist(lines, schema=schema), path)
