"""download: the rows as they came, in order of first sight, and which base model is tuned.

    python -m stages.download

Out: data/raw/ (rows.jsonl, dataset.json) and data/base.json. Beside them, and not an out, data/first_seen.txt grows.
"""

import json
import shutil
from pathlib import Path

from medtune.corpus.arrivals import JOURNAL, in_order, read_journal, write_journal
from medtune.corpus.records import write_records, write_text
from medtune.corpus.sources import Gathered, gather
from medtune.engine.base import resolve
from medtune.engine.fit import check_recipe
from medtune.params.download import Download
from medtune.params.recipe import load_recipe
from medtune.registry.registered_base import check_registered_base
from stages.stage import run_stage

RAW, BASE = Path("data/raw"), Path("data/base.json")


def main() -> None:
    recipe = load_recipe()
    base = resolve(recipe.base)
    if note := check_registered_base(Path("."), recipe.base, base.path):
        print(f"note: {note}")
    # here, and not first in train: a recipe that cannot run is refused before the rows are fetched and worked on
    check_recipe(base.path, recipe.tokenize, recipe.lora, recipe.train)
    gathered = gather(recipe.download)
    _tell(gathered, recipe.download)
    journal = read_journal(JOURNAL)
    rows, new = in_order(gathered.rows, journal)
    _write_raw(rows, gathered, recipe.download)
    if new:  # after the rows: a kill in between leaves them to be seen again, in the same order
        write_journal(JOURNAL, journal + new)
    print(f"{len(rows):,} rows in {RAW / 'rows.jsonl'}, {len(new):,} of them seen for the first time ({JOURNAL})")
    record = base.record() | {"parents": [parent.model_dump() for parent in recipe.base.parents]}
    write_text(BASE, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    named = " ".join(filter(None, (base.id, base.revision)))
    print(f"base {named}, licence {base.license or 'unknown'}, fingerprint {base.fingerprint[:12]}")


def _write_raw(rows: list[tuple[str, dict]], gathered: Gathered, section: Download) -> None:
    """Both files in a folder beside data/raw, renamed when they are whole."""
    arriving = RAW.with_name(".raw.part")
    shutil.rmtree(arriving, ignore_errors=True)
    write_records(arriving / "rows.jsonl", ({"source": source, "row": row} for source, row in rows))
    dataset = {
        "source": section.source,
        "id": section.id or section.path,
        "revision": section.revision,
        "license": gathered.license,
        "files": gathered.files,
        "rows": len(rows),
    }
    write_text(arriving / "dataset.json", json.dumps(dataset, ensure_ascii=False, indent=1) + "\n")
    shutil.rmtree(RAW, ignore_errors=True)
    arriving.rename(RAW)


def _tell(gathered: Gathered, section: Download) -> None:
    print(f"rows from {section.source} {section.id or section.path}, licence {gathered.license or 'unknown'}")
    for file in gathered.files:
        print(f"  {file['name']}: {file['rows']:,} rows, {file['bytes']:,} bytes")
        for note in file["notes"]:
            print(f"  note: {note}")
    if gathered.license is None:
        print("  note: no licence is known; set download.license, since a model inherits it")


if __name__ == "__main__":
    run_stage(main)
