"""One MLflow run per candidate digest, complete whether the stages ran or came from DVC's cache.

The train stage opens the run and sends its curve live; register writes everything else from the reports. Both may be
killed or repeated: what is there already is not written again.
"""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medtune.params.errors import RegistryError
from medtune.tracking.holder import ENDED, TRAINED, this_process
from medtune.tracking.store import HOME, artifact_root, connect, lock, store_errors

CANDIDATE = "medtune.candidate"  # the tag that makes the run findable
ARTIFACTS = "medtune.artifacts"  # digest of what was uploaded last
TOLD = "medtune.curve"  # where its curve came from, told where that is not the training itself
CURVE = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second")
UNSENT = HOME / "unsent"  # points that the store was not there to take, a file a candidate
FROM_HISTORY = "from history.jsonl: train came from a cache or a remote, times of the points are those of register"


@dataclass(frozen=True)
class Candidate:
    """A candidate's run before there is one: digest has 64 hexadecimal digits."""

    uri: str
    experiment: str
    digest: str
    name: str

    def open(self) -> str:
        """The id of its run, made or taken up by this process."""
        return candidate_run(self.uri, self.experiment, self.digest, self.name)

    def open_soon(self, attempts: int = 3, wait: float = 5.0) -> str | None:
        """As `open`, asking a store that does not answer again; None, and a sentence is printed, where it stays away.

        Training needs no store to learn: what it would have sent is kept and sent later. A store that answers and
        refuses us (RegistryError) is a setting to mend, and mended best before a GPU has worked for hours.
        """
        for attempt in range(attempts):
            try:
                with briefly():
                    return self.open()
            except RegistryError as error:
                if "does not answer" not in str(error):
                    raise
                if attempt + 1 == attempts:
                    print(error)
                    print(f"training goes on without it; its figures are kept in {UNSENT} and sent once it is back")
                else:
                    time.sleep(wait)
        return None


def unsent_file(root: Path, candidate: str) -> Path:
    """Where the points of a candidate wait for a store that was away."""
    return root / UNSENT / f"{candidate}.jsonl"


@contextmanager
def briefly() -> Iterator[None]:
    """MLflow's client asks a dead server for minutes: not where we ask again ourselves, and somebody waits for it."""
    few = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    mine = [name for name in few if name not in os.environ]
    os.environ.update({name: few[name] for name in mine})
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


def _speaking(function: Callable[..., Any]) -> Callable[..., Any]:
    """A store that is away or refuses us is a sentence; the first argument is its URI."""

    @wraps(function)
    def speaks(uri: str, *args: Any, **kwargs: Any) -> Any:
        with store_errors(uri):
            return function(uri, *args, **kwargs)

    return speaks


@_speaking
def candidate_run(uri: str, experiment: str, candidate: str, name: str, tags: Mapping[str, str] | None = None) -> str:
    """The id of the one run of this candidate (64 hex), made if there is none.

    A run that a kill left RUNNING, or that failed or was ended by the reaper, is taken up again and is RUNNING on
    return, with this process in its tags (medtune/tracking/holder.py); a finished one stays finished and keeps its
    tags, so that registering once more changes nothing. Of `tags`, those that the run lacks are added.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", candidate):
        raise RegistryError(f"a candidate digest is 64 hexadecimal digits, not {candidate!r}; run `dvc repro` anew")
    client = connect(uri)
    with lock(uri):
        experiment_id = _experiment(client, uri, experiment)
        found = _runs_of(client, experiment_id, candidate)
        if not found:
            made = client.create_run(experiment_id, run_name=name, tags={**(tags or {}), CANDIDATE: candidate}).info
            # The lock is this host's. Where another host made a run in the same moment both see two, agree on the
            # first and leave one; its curve, if the other run has shown any, comes at register from history.jsonl.
            found = _runs_of(client, experiment_id, candidate)
            if found and found[0].info.run_id != made.run_id:
                client.delete_run(made.run_id)
        info = found[0].info
        for key, value in (tags or {}).items():
            if key not in found[0].data.tags:
                client.set_tag(info.run_id, key, value)
        if info.status != "FINISHED":
            take_up(client, info.run_id)
        return info.run_id


def take_up(client: Any, run_id: str) -> None:
    """The run is RUNNING, by this process, whatever ended it before."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in this_process().tags().items()])
    run = client.get_run(run_id)  # after the tags: a reaper that looked before them leaves the run alone now
    if run.info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    if ENDED in run.data.tags:
        client.delete_tag(run_id, ENDED)


@_speaking
def log_record(
    uri: str,
    run_id: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    artifacts: Mapping[Path, str],
    tags: Mapping[str, str],
) -> None:
    """Bring a run up to this record, writing only what differs from what the run has.

    `metrics` are single figures (the curve goes through `log_curve`); `artifacts` maps a file to its folder in the
    run ("" for the top). MLflow's params are for ever: one that the run has with another value keeps the first, and
    the artifact params.yaml tells the newest.
    """
    from mlflow.entities import Metric, Param, RunTag

    client = connect(uri)
    data = client.get_run(run_id).data
    now = time.time_ns() // 1_000_000
    new_params = [Param(_key(k), str(v)) for k, v in params.items() if _key(k) not in data.params]
    new_metrics = [
        Metric(_key(k), float(v), now, 0) for k, v in metrics.items() if not _same(data.metrics.get(_key(k)), float(v))
    ]
    new_tags = [RunTag(_key(k), str(v)) for k, v in tags.items() if data.tags.get(_key(k)) != str(v)]
    for part in _chunks(new_params, 100):
        client.log_batch(run_id, params=part)
    for part in _chunks(new_metrics, 1000):
        client.log_batch(run_id, metrics=part)
    for part in _chunks(new_tags, 100):
        client.log_batch(run_id, tags=part)

    digest = hashlib.sha256()
    for file, folder in sorted(artifacts.items()):
        digest.update(f"{folder}/{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    if artifacts and data.tags.get(ARTIFACTS) != digest.hexdigest():
        for file, folder in artifacts.items():
            client.log_artifact(run_id, str(file), folder or None)
        client.set_tag(run_id, ARTIFACTS, digest.hexdigest())  # last: a kill before it uploads once more


@_speaking
def log_curve(uri: str, run_id: str, history: Iterable[Mapping[str, Any]]) -> int:
    """Add those points of the training curve that the run lacks; returns how many there were.

    `history` holds the trainer's log lines, each with "step" and any of CURVE. It is the record: the live callback
    may have missed points (a kill, a server that was away) or, where train came from a cache, all of them.
    """
    from mlflow.entities import Metric

    client = connect(uri)
    now = time.time_ns() // 1_000_000
    history = list(history)
    points, sent = [], 0
    for key in CURVE:
        known = {metric.step for metric in client.get_metric_history(run_id, key)}
        sent += len(known)
        wanted = {int(line["step"]): line[key] for line in history if _number(line.get(key)) and "step" in line}
        points += [Metric(key, float(v), now, step) for step, v in sorted(wanted.items()) if step not in known]
    for part in _chunks(points, 1000):
        client.log_batch(run_id, metrics=part)
    if points and not sent and TRAINED not in client.get_run(run_id).data.tags:
        client.set_tag(run_id, TOLD, FROM_HISTORY)
    return len(points)


@_speaking
def send_unsent(uri: str, run_id: str, file: Path) -> int:
    """Send the points that training kept in `file` while the store was away, with their own times, and remove it.

    Returns how many the run had not. Points that it has are not sent again; a line that a kill cut short is left out.
    """
    from mlflow.entities import Metric

    if not file.exists():
        return 0
    points = {(point[0], point[3]): point for point in read_points(file)}
    client = connect(uri)
    known = {key: {m.step for m in client.get_metric_history(run_id, key)} for key in {key for key, _ in points}}
    fresh = [Metric(*point) for (key, step), point in points.items() if step not in known[key]]
    for part in _chunks(fresh, 1000):
        client.log_batch(run_id, metrics=part)
    file.unlink(missing_ok=True)
    return len(fresh)


def read_points(file: Path) -> Iterator[tuple[str, float, int, int]]:
    """Key, value, milliseconds since 1970 and step of each line of an unsent file."""
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            key, value, at, step = json.loads(line)
            yield str(key), float(value), int(at), int(step)
        except (ValueError, TypeError):
            continue


@_speaking
def finish(uri: str, run_id: str, status: str = "FINISHED") -> None:
    """End the run; one that has ended so before keeps its end time."""
    client = connect(uri)
    run = client.get_run(run_id)
    if run.info.status != status:
        client.set_terminated(run_id, status)
    if ENDED in run.data.tags:  # a reaper on another host that had not heard of us for long
        client.delete_tag(run_id, ENDED)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists become their text."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def figures(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a report by dotted key: what MLflow can draw. Booleans and texts are left out."""
    return {key: float(value) for key, value in flatten(tree, prefix).items() if _number(value)}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(old: float | None, new: float) -> bool:
    return old is not None and (old == new or (math.isnan(old) and math.isnan(new)))


def _key(name: str) -> str:
    """MLflow takes word characters and / . - : and space in names, at most 250 of them."""
    return re.sub(r"[^\w/.\-: ]", "_", name)[:250]


def _chunks(items: list, size: int) -> Iterator[list]:
    """MLflow bounds a batch: 100 params or tags, 1,000 metrics."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _runs_of(client: Any, experiment_id: str, candidate: str) -> list[Any]:
    """Runs of a candidate, in an order that every host sees alike."""
    runs = client.search_runs([experiment_id], f"tags.`{CANDIDATE}` = '{candidate}'", max_results=100)
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def _experiment(client: Any, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        root = artifact_root(uri)
        try:
            return client.create_experiment(name, f"{root.rstrip('/')}/runs/{quote(name)}" if root else None)
        except MlflowException as error:  # names are unique: another host was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or (found := client.get_experiment_by_name(name)) is None:
                raise
    if found.lifecycle_stage == "deleted":  # someone cleared it away in the UI; its name cannot be taken anew
        client.restore_experiment(found.experiment_id)
    return found.experiment_id
