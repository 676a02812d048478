"""What the flow costs around a graph that is up to date: seven stages that have nothing to do.

    python -m benchmarks.flow_overhead            # five runs each; the median counts
    python -m benchmarks.flow_overhead --runs 1

fresh: no Prefect database yet; cold: a database, no server (Prefect starts one for the run); server: PREFECT_API_URL of
a server that is up; dvc: `dvc status --json` alone, which is in all of them. Wall seconds of a new Python process from
start to end, and the processor seconds of it and its children: the second says how busy the machine was meanwhile.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.flows.live_server import LiveServer, project_with_flows
from tests.flows.small_project import ROOT

FLOW = "from flows.pipeline import pipeline; state = pipeline(return_state=True); assert state.is_completed(), state"


def timed(command: list[str], cwd: Path, environment: dict[str, str]) -> tuple[float, float]:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="What the flow costs around an up-to-date graph.")
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        project = project_with_flows(Path(folder) / "project")
        project.dvc("repro")
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        plain |= {"PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1"}
        flow = [sys.executable, "-c", FLOW]
        timed(flow, project.root, plain | {"PREFECT_HOME": f"{folder}/home"})  # bytecode, and the database of `cold`
        home = Path(folder) / "server"
        home.mkdir()
        server = LiveServer(home)
        try:
            kinds = {
                "fresh": lambda n: timed(flow, project.root, plain | {"PREFECT_HOME": f"{folder}/fresh{n}"}),
                "cold": lambda n: timed(flow, project.root, plain | {"PREFECT_HOME": f"{folder}/home"}),
                "server": lambda n: timed(flow, project.root, server.environment()),
                "dvc": lambda n: timed([sys.executable, "-m", "dvc", "status", "--json"], project.root, plain),
            }
            for name, run in kinds.items():
                pairs = [run(n) for n in range(runs)]
                walls, cpus = zip(*pairs, strict=True)
                print(
                    f"{name:8} median {statistics.median(walls):6.2f} s  "
                    f"({min(walls):.2f} to {max(walls):.2f}), processor {statistics.median(cpus):.2f} s",
                    flush=True,
                )
        finally:
            server.close()


if __name__ == "__main__":
    main()
