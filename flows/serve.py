"""All deployments in one process, without work pool and worker: for one machine, or for trying.

    export PREFECT_API_URL=http://127.0.0.1:4200/api
    python -m flows.serve          # until Ctrl-C; runs that are at work then are ended, and the next one goes on

The same deployments, schedules and limits as `python -m flows.deploy` makes (prefect.yaml). Schedules stay as they are
when it ends: what falls due meanwhile is late, and of that one run of each deployment is done when it is back.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.deploy import find, server, settle, share_limit
from flows.deployments import read_deployments
from flows.missed import forget_missed
from flows.target import with_target
from medtune.params.errors import UserError

if TYPE_CHECKING:
    from prefect.runner import Runner


def make_runner(root: Path, say: Callable[[str], None] = print) -> "Runner":
    """Register everything, and return what runs it. UserError where prefect.yaml or the server is not in order."""
    from prefect.runner import Runner

    from flows.automations import ensure_automations

    items = read_deployments(root)
    with server() as client:
        # no limit of its own: prefect.yaml's are enough, and the watcher must not wait for a training
        runner = Runner(name="medtune", limit=None, pause_on_shutdown=False)
        for item in items:
            runner.add_deployment(item.runner(find(client, item.full_name), served=True, folder=None))
            say(f"serving {item.full_name}")
        settle(client, items)
        share_limit(client, items)
        for sentence in ensure_automations(client):
            say(sentence)
        if missed := forget_missed(client):
            say(f"{missed:,} ticks of the watcher that nobody ran in time: deleted")
    return runner


def main() -> None:
    with_target("flows.serve")
    parser = argparse.ArgumentParser(description="Serve the deployments of prefect.yaml from this process.")
    parser.parse_args()
    try:
        runner = make_runner(Path())
        print("waiting for work; Ctrl-C ends it", flush=True)
        asyncio.run(runner.start(webserver=False))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass
    print("ended")


if __name__ == "__main__":
    main()
