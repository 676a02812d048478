"""The small project with rows that come in: download reads them as the real stage does, register reports as it does."""

import json
import os
import shutil
import time
from pathlib import Path

import yaml

from tests.flows.small_project import ROOT, SmallProject

DOWNLOAD = """
    import json
    from pathlib import Path
    from medtune.corpus.arrivals import JOURNAL, in_order, read_journal, write_journal
    from medtune.corpus.sources import gather
    from medtune.params.recipe import load_recipe
    from stand_in import tally

    tally("download")
    gathered = gather(load_recipe().download)
    journal = read_journal(JOURNAL)
    rows, new = in_order(gathered.rows, journal)
    raw = Path("data/raw")
    raw.mkdir(parents=True)
    (raw / "rows.jsonl").write_text("".join(json.dumps(row) + "\\n" for _, row in rows))
    dataset = {"id": "data/sample", "revision": None, "files": gathered.files, "rows": len(rows)}
    (raw / "dataset.json").write_text(json.dumps(dataset))
    write_journal(JOURNAL, journal + new)
"""
STAND_IN = """
def tally(stage):
    with open("ran.txt", "a") as file:
        file.write(stage + "\\n")
"""


class RetrainProject(SmallProject):
    @classmethod
    def make(cls, root: Path, store: Path) -> "RetrainProject":
        """download → train → register; `store`: an initialised mlflow.db to copy."""
        project = cls(SmallProject.create(root, ("download", "train", "register")).root)
        with (root / "stand_in.py").open("a") as file:
            file.write(STAND_IN)
        for folder in ("mlruns", "data/incoming", "reports"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(store, root / "mlruns/mlflow.db")
        shutil.copytree(ROOT / "data/sample", root / "data/sample")
        shutil.copy(ROOT / "data/first_seen.txt", root / "data")
        project.write_stage("download", DOWNLOAD)
        graph = yaml.safe_load((root / "dvc.yaml").read_text())
        stages = graph["stages"]
        stages["download"] |= {"deps": ["data/sample", "data/incoming", "stages/download.py"], "outs": ["data/raw"]}
        stages["train"]["deps"][0] = "data/raw/rows.jsonl"
        (root / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))
        project.set_param("retrain", "quiet_seconds", 0)
        project.report("rejected", "improvement: no")
        return project

    def report(self, decision: str, *reasons: str) -> None:
        """From now on the stage register says so."""
        finding = {
            "name": "improvement", "figure": "f", "value": 0.02, "bound": "below 0", "passed": decision == "approved",
            "blocks": True, "sentence": "improvement: nats per character 0.02, below 0 is asked",
        }  # fmt: skip
        champion = {"number": 4, "version": "d" * 64} if decision == "approved" else None
        report = {
            "decision": decision, "reasons": reasons, "findings": [finding], "version": "d" * 64, "run_id": "r1",
            "versions": {"merged": {"model": "medgpt-ko", "number": 4}, "adapter": {"model": "a", "number": 4}},
            "champion": champion, "promotion": "auto",
        }  # fmt: skip
        self.write_stage(
            "register",
            f"""
            import json
            from pathlib import Path
            from stand_in import run
            run("register")
            Path("reports/register.json").write_text(json.dumps({report!r}))
            """,
        )

    def rows(self, name: str, count: int, at: float | None = None) -> Path:
        lines = [
            json.dumps(
                {"input": f"{name} {n}번째 환자입니다. 머리가 아파요.", "output": f"{n} 쉬세요."}, ensure_ascii=False
            )
            for n in range(count)
        ]
        path = self.root / "data/incoming" / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        moment = at or time.time() - 60
        os.utime(path, (moment, moment))
        return path
