"""The MLflow run of a published version: the candidate's run of this registry, brought up to what its own run said."""

from itertools import groupby
from typing import Any

from medtune.registry.publish_bundle import Bundle
from medtune.tracking.runs import CANDIDATE, candidate_run, finish, log_record
from medtune.tracking.store import connect

BATCH = 1000  # points that MLflow takes at once
SOURCE_RUN, STARTED, FINISHED = "medtune.published_run", "medtune.published_started", "medtune.published_finished"


def bring_run(uri: str, bundle: Bundle) -> str:
    """The run's id, finished and complete. What came with the version, and whence, is in its artifacts, publish/.

    Points that are there are not written again, so that a rerun goes on where a kill fell. MLflow gives a run the time
    at which it is made: when training really was is in the tags STARTED and FINISHED, milliseconds since 1970.
    """
    told = bundle.run
    # the times as well: a run that is made is found by its candidate, and never without its origin
    origin = {
        "medtune.published_from": bundle.publish["from"],
        SOURCE_RUN: told["run_id"],
        STARTED: str(told["started"]),
        FINISHED: str(told["finished"]),
    }
    run_id = candidate_run(uri, told["experiment"], told["candidate"], told["name"], origin)
    client = connect(uri)
    _points(client, run_id, bundle)
    kept = {key: value for key, value in told["tags"].items() if key != CANDIDATE}
    there = client.get_run(run_id).data.tags
    log_record(uri, run_id, told["params"], {}, bundle.artifacts(), {k: v for k, v in kept.items() if k not in there})
    finish(uri, run_id)
    return run_id


def _points(client: Any, run_id: str, bundle: Bundle) -> None:
    from mlflow.entities import Metric

    missing = []
    for name, points in groupby(sorted(bundle.points, key=lambda point: point[0]), key=lambda point: point[0]):
        known = {(point.step, point.timestamp) for point in client.get_metric_history(run_id, name)}
        missing += [Metric(name, value, at, step) for _, value, step, at in points if (step, at) not in known]
    for start in range(0, len(missing), BATCH):
        client.log_batch(run_id, metrics=missing[start : start + BATCH])
