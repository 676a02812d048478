"""A checkout on the tiny base beside the whole stack of compose.yaml, worker and all, and rows that somebody drops.

The services are started once for every test of the module that uses them. The rows are dropped before the first test,
so that the retrain they lead to works while the others look at the doors.
"""

import base64
import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from e2e.project import Project, copy_checkout
from servers.processes import Postgres
from servers.stack import Stack, start_stack

from stages import download

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SECONDS = 420.0
WATCH = "medtune-watch/every-minute"
OVERRIDES = ["retrain.min_new_rows=20", "retrain.quiet_seconds=1"]


@dataclass
class Team:
    project: Project
    stack: Stack
    deployed: str  # what the service `deploy` said

    def prefect(self, path: str, body: dict | None = None):
        return self._ask(f"{self.stack.prefect}{path}", self.stack.secret("prefect_auth"), body)

    def mlflow(self, path: str) -> dict:
        return self._ask(self.stack.mlflow + path, f"admin:{self.stack.secret('mlflow_admin_password')}")

    def runs(self, flow: str) -> list[dict]:
        return self.prefect("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"})

    def looked(self) -> int:
        """Looks of the watcher that came to their end: the schedule has made runs far ahead as well."""
        return sum(run["state_type"] == "COMPLETED" for run in self.runs("medtune-watch"))

    def look_again(self) -> None:
        """One further look of the watcher, now and not at the next minute."""
        before, deadline = self.looked(), time.monotonic() + 200
        watcher = self.prefect(f"/deployments/name/{WATCH}")["id"]
        self.prefect(f"/deployments/{watcher}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        while self.looked() <= before:  # its own, or the minute's, which cancels a second one beside it
            assert time.monotonic() < deadline, self.stack.log("worker")[-3000:]
            time.sleep(0.5)

    def drop_rows(self) -> None:
        rows = [
            {"input": f"{number}일째 {place} 아파요.", "output": "푹 쉬고 물을 드세요. 낫지 않으면 병원에 가세요."}
            for place in ("머리가", "배가", "허리가", "무릎이", "어깨가")
            for number in range(1, 6)
        ]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path = self.project.root / "data/incoming/march.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _ask(self, url: str, login: str, body: dict | None = None):
        request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def team(postgres: Postgres, store, tiny_base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    own = Postgres(postgres.binaries, postgres.user)  # the names of its databases are compose's
    project = copy_checkout(tmp_path_factory.mktemp("team") / "checkout", tiny_base, *OVERRIDES)
    try:
        with start_stack(tmp_path_factory.mktemp("stack"), project.root, own, store.endpoint) as stack:
            project.env |= stack.client()
            remote = "[core]\n    remote = store\n['remote \"store\"']\n    url = s3://medtune-dvc/team\n"
            (project.root / ".dvc/config.local").write_text(remote)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(project.root)
                download.main()  # the corpus that the recipe names is no news
            made = Team(project, stack, stack.run("deploy"))
            stack.start("worker")
            made.drop_rows()
            yield made
    finally:
        own.stop()


@pytest.fixture(scope="module")
def stack(team: Team) -> Stack:
    return team.stack


@pytest.fixture(scope="module")
def retrained(team: Team) -> dict:
    """The run of medtune-retrain that the rows led to, once it has ended."""
    deadline = time.monotonic() + SECONDS
    while True:
        ended = [run for run in team.runs("medtune-retrain") if run["state_type"] in FINAL - {"CANCELLED"}]
        if ended:
            return ended[0]
        assert time.monotonic() < deadline, team.stack.log("worker")[-6000:]
        time.sleep(1)
