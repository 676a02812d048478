"""A year of ticks: clocks that jump, schedules that fire twice, events lost and doubled, runs killed at any place.

The watcher, the claims in a real ledger and the retrain's own code; what is left out is the training between them, and
the event goes over a worse line than Prefect's. What must hold: every data version that was due was trained on once.
"""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.states import Completed
from registry_checkout import fresh_store

from flows import retrain, watch
from flows.lock import pipeline_lock
from medtune.corpus import newcomers
from medtune.corpus.arrivals import JOURNAL, in_order, read_journal, write_journal
from medtune.corpus.newcomers import Newcomers, look
from medtune.corpus.sources import gather
from medtune.params.recipe import load_recipe
from medtune.registry.data_claims import claims
from medtune.registry.ledger import open_ledger

__all__ = ["fresh_store"]

ROOT = Path(__file__).resolve().parents[2]
log = logging.getLogger("year")
# the whole year by the hour takes minutes: `make soak`
HOURS = 1 if os.environ.get("MEDTUNE_SOAK") else 8


class Killed(BaseException):
    """kill -9: nothing after it is run."""


class Year:
    """A checkout, a clock, a line that events go over, and what was trained on."""

    def __init__(self, root: Path, dead: dict, seed: int) -> None:
        self.root, self.dead, self.chance = root, dead, random.Random(seed)
        self.recipe = load_recipe(root / "params.yaml")
        # a DST change by its local time, and a clock that was wrong by days
        self.now = datetime.now(UTC) + timedelta(hours=1)
        self.line: list[dict] = []
        self.trained: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()
        self.rows = 0
        self.kills = 0
        self.dies = False

    def rows_come(self, count: int, name: str) -> None:
        lines = [
            json.dumps({"input": f"{name} {number}번째 환자입니다. 머리가 아파요.", "output": f"{number} 물을 드세요."})
            for number in range(count)
        ]
        path = self.root / f"data/incoming/{name}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.utime(path, (self.now.timestamp(), self.now.timestamp()))
        self.rows += count

    def tick(self) -> str:
        return watch.tick(self.root, log, self.now.timestamp())[0]

    def look(self) -> Newcomers:
        return look(self.root, self.recipe.download, self.recipe.retrain, self.now.timestamp())

    def emit(self, model: str, here: Newcomers, reason: str) -> None:
        for _ in range(self.chance.choice((0, 1, 1, 1, 2, 3))):  # lost, or delivered more than once
            late = timedelta(hours=self.chance.choice((0, 0, 2, 30)))
            self.line.append({"data": here.data, "reason": reason, "at": self.now + late})

    def deliver(self) -> None:
        due = [event for event in self.line if event["at"] <= self.now]
        self.line = [event for event in self.line if event["at"] > self.now]
        self.chance.shuffle(due)
        for event in due:
            self.run(event["data"], event["reason"])

    def run(self, data: str | None, reason: str) -> None:
        """flows.retrain's own code; one run in five is killed at a place of chance."""
        self.dies = self.chance.random() < 0.2
        try:
            with pipeline_lock(self.root) as lock:
                retrain._retrain(self.root, lock, log, retrain.Wanted(data, reason, False, False))
        except Killed:
            self.kills += 1

    def stages(self, root, recipe, lock, log, incoming, data=None, between=None, **_) -> None:
        """What run_stages leaves of the download stage; then it is trained, or killed before or after."""
        if data is None:
            return  # done before: nothing is due
        self.begun[data] += 1
        place = self.chance.choice(("download", "train")) if self.dies else None
        if place == "download":
            raise Killed
        gathered = gather(recipe.download, root)
        journal = read_journal(root / JOURNAL)
        rows, new = in_order(gathered.rows, journal)
        raw = root / "data/raw"
        raw.mkdir(exist_ok=True)
        section = recipe.download
        dataset = {"id": section.path, "revision": None, "files": gathered.files, "rows": len(rows)}
        (raw / "dataset.json").write_text(json.dumps(dataset))
        write_journal(root / JOURNAL, journal + new)
        if place == "train":
            raise Killed
        self.trained[data] += 1
        report = {"decision": self.chance.choice(("approved", "rejected")), "version": data}
        (root / "reports/register.json").write_text(json.dumps(report))


@pytest.fixture
def year(tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> Year:
    root = tmp_path / "project"
    for folder in ("mlruns", "data/incoming", "reports"):
        (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(ROOT / "data/sample", root / "data/sample")
    shutil.copy(ROOT / "data/first_seen.txt", root / "data")
    shutil.copy(fresh_store, root / "mlruns/mlflow.db")
    # of another checkout: this one's own claims are known to be dead as soon as nobody runs its stages
    code = (
        "import json; from pathlib import Path; from medtune.registry.data_claims import holder; "
        f"print(json.dumps(holder(Path({str(tmp_path / 'another')!r}))))"
    )
    dead = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    year = Year(root, dead, seed=11)
    monkeypatch.setattr(watch, "emit", year.emit)
    for module in (watch, retrain):
        monkeypatch.setattr(module, "load_recipe", lambda path: year.recipe)  # 3,000 times the same file
    living = retrain.holder
    monkeypatch.setattr(retrain, "holder", lambda root, **more: (year.dead if year.dies else living(root)) | more)
    monkeypatch.setattr(retrain, "_stopped", lambda work: None)  # a kill tells nobody
    monkeypatch.setattr(retrain, "settled", lambda *a: None)
    monkeypatch.setattr(newcomers, "look", lambda *a, **k: year.look())  # by the clock of the year
    monkeypatch.setattr(retrain, "run_stages", year.stages)
    monkeypatch.setattr(retrain, "decision_state", lambda *a: Completed())
    monkeypatch.setattr(watch, "has_server", lambda: True)
    monkeypatch.setattr(retrain, "push_data", lambda *a: None)
    monkeypatch.setattr(retrain, "ask", lambda *a: "")
    monkeypatch.setattr(retrain.messages, "message", lambda *a: ("", ""))
    monkeypatch.setattr(retrain, "tell", lambda *a: None)
    return year


@pytest.mark.slow
def test_every_data_version_is_trained_on_once(year):
    ledger = open_ledger(year.root)
    end, file = year.now + timedelta(days=365), 0
    states: Counter[str] = Counter()
    day = 0
    while year.now < end:
        if year.chance.random() < HOURS / 24 * 0.25:  # every fourth day, some rows: enough, or a few
            file += 1
            year.rows_come(year.chance.choice((5, 12, 30, 60, 80)), f"rows-{file:03}")
        for _ in range(year.chance.choice((1, 1, 1, 2))):  # a schedule that fires twice, two watchers
            states[year.tick()] += 1
        year.deliver()
        weekly = year.now.weekday() == 0 and year.now.hour < HOURS
        for _ in range(2 if weekly and year.chance.random() < 0.3 else int(weekly)):
            year.run(None, "the weekly run")
        step = timedelta(hours=HOURS)
        day += HOURS / 24
        if year.chance.random() < 0.02:  # the clock is put right: an hour either way, or days
            step += year.chance.choice((-1, 1)) * year.chance.choice((timedelta(hours=1), timedelta(days=3)))
        year.now += step
        if day > 400:
            break
    for _ in range(40):  # what is still on its way comes to its end, without further harm
        year.now += timedelta(hours=12)
        year.dies = False
        year.tick()
        year.deliver()

    found = claims(ledger, year.recipe.register_.model)
    assert len(year.trained) > 25
    assert year.kills > 3
    assert max(year.trained.values()) == 1, year.trained.most_common(3)
    assert {data for data, item in found.items() if item.state == "done"} == set(year.trained)
    assert [item for item in found.values() if item.state == "claimed"] == []
    assert states["Told"] > 10
    assert states["Nothing"] > 100
    known = set(read_journal(year.root / JOURNAL))
    left = watch.claims(ledger, year.recipe.register_.model)
    # the last rows may be fewer than a retrain wants; all others were read
    assert len(known) >= 360 + year.rows - 5 * 80, (len(known), year.rows, left)
    ledger.verify()
