"""validate: raw rows in; good rows with cluster and split, a quarantine with reasons, and a report out.

python -m stages.validate
"""

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from medtune.corpus.data_docs import page
from medtune.corpus.dialogue import constant_instruction, to_messages
from medtune.corpus.expectations import Verdict, judge, table
from medtune.corpus.records import read_records, write_records, write_text
from medtune.corpus.retracted import RETRACTED, read_retracted
from medtune.corpus.sift import Sifted, sift
from medtune.params.errors import CorpusError
from medtune.params.recipe import load_recipe
from stages.stage import run_stage

RAW, DATASET = Path("data/raw/rows.jsonl"), Path("data/raw/dataset.json")
GOOD, QUARANTINE = Path("data/valid/rows.jsonl"), Path("data/valid/quarantine.jsonl")
REPORT, DOCS = Path("reports/validate.json"), Path("reports/data_docs/index.html")


def main() -> None:
    recipe = load_recipe()
    limits, columns = recipe.validate_, recipe.download.columns
    records = list(read_records(RAW))
    retracted = {row.row_id: row.sentence for row in read_retracted(RETRACTED).values()}
    constant = constant_instruction((record["row"] for record in records), columns)
    as_messages = partial(to_messages, format=recipe.download.format, columns=columns, constant_instruction=constant)
    sifted = sift(records, limits, as_messages, retracted)
    # Written before anything can stop the stage, so that whoever must mend the rows can look at them
    kept = write_records(GOOD, (row.record() for row in sifted.good))
    aside = write_records(QUARANTINE, (row.quarantined() for row in sifted.bad))
    dataset = json.loads(DATASET.read_text(encoding="utf-8"))
    if not len(records) == dataset["rows"] == kept + aside:
        raise CorpusError(
            f"{DATASET} says {dataset['rows']} rows, {RAW} holds {len(records)}, and {kept} were kept and {aside} set "
            "aside: rows got lost; run `dvc repro -f -s download`, then `dvc repro`"
        )
    verdict = judge(table(sifted), limits, plain_text=recipe.download.format == "text")
    report = _report(sifted, verdict, dataset, retracted.keys() - {row.id for row in sifted.rows})
    write_text(DOCS, page(sifted, verdict, limits, report["data_digest"]))
    write_text(REPORT, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    _tell(report)
    if not verdict.passed:
        raise CorpusError(_refusal(sifted, verdict))


def _report(sifted: Sifted, verdict: Verdict, dataset: dict, absent: set[str]) -> dict:
    notes = [note for file in dataset["files"] for note in file.get("notes", [])]
    notes += [f"warning: {c.says}: no, {c.observed}" for c in verdict.checks if c.verdict == "warning"]
    if absent:  # an id is taken over the messages: another download.format or system prompt makes other ids
        notes.append(
            f"warning: {len(absent)} of the ids in {RETRACTED} are of no row that came in, such as "
            f"{min(absent)[:12]}: those rows are gone from the sources, or other download.columns gave them other ids"
        )
    return {
        "rows_in": len(sifted.rows),
        "rows_out": len(sifted.good),
        "quarantined": len(sifted.bad),
        "reasons": sifted.reasons(),
        "retracted": sum(row.retracted for row in sifted.rows),
        "splits": sifted.splits(),
        "clusters": sifted.clusters,
        "near_duplicates": sum(row.near_duplicate for row in sifted.good),
        "data_digest": hashlib.sha256(GOOD.read_bytes()).hexdigest(),
        "passed": verdict.passed,
        "checks": [asdict(check) for check in verdict.checks],
        "notes": notes,
    }


def _tell(report: dict) -> None:
    rows = report["rows_in"]
    print(f"{rows:,} rows in = {report['rows_out']:,} good + {report['quarantined']:,} set aside ({QUARANTINE})")
    for reason, count in report["reasons"].items():
        print(f"  {reason:<20}{count:>8,}  {count / rows:6.1%}")
    sides = ", ".join(f"{side} {count:,}" for side, count in report["splits"].items())
    near = f"{report['clusters']:,} clusters, {report['near_duplicates']:,} near-duplicates"
    print(f"{sides}; {near}")
    for note in report["notes"]:
        print(note)
    print(f"the same on a page: {DOCS}")


def _refusal(sifted: Sifted, verdict: Verdict) -> str:
    lines = [f"{check.says}: no, {check.observed}; {check.mend}" for check in verdict.failures]
    if worst := sifted.worst():
        lines.append(f"the {len(worst)} worst of {len(sifted.bad):,} rows set aside (all, with reasons: {QUARANTINE}):")
        lines += [f"  {row.source}: {'; '.join(row.reasons.values())}" for row in worst]
    return "\n".join(["the rows cannot be used as they are", *lines])


if __name__ == "__main__":
    run_stage(main)
