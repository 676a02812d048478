"""Training, live in MLflow: a transformers callback that never holds training up and never stops it.

Points go to a queue that a thread empties into the store. A store that is away is asked again, less and less often;
meanwhile what was not taken lies in mlruns/unsent/, where a kill of this process leaves it and register finds it, so
that neither memory nor the record suffers. The same thread says once a minute that this process is alive.
"""

import json
import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from medtune.tracking.holder import SEEN, TRAINED, moment
from medtune.tracking.runs import CURVE, Candidate, briefly, read_points, take_up, unsent_file
from medtune.tracking.secrets import redact
from medtune.tracking.store import connect

log = logging.getLogger(__name__)

# beside the curve, what the machine made of it: live only, since it is no property of the candidate
LIVE = (*CURVE, "tflops", "matmul_share", "peak_memory_gib", "padding_share")
PATIENCE = 30.0  # seconds that the end of training waits for the last points
BEAT = 60.0  # seconds between two signs of life
BACKOFF = (1.0, 60.0)  # seconds until a store that is away is asked again: first, and at most
BATCH = 1000  # points that MLflow takes at once
KEPT = 100_000  # points held in memory where the disk takes none either; the oldest go first

Point = tuple[str, float, int, int]  # key, value, milliseconds since 1970, step


class MlflowCallback(TrainerCallback):
    """Sends loss, eval_loss, learning_rate, grad_norm, tokens_per_second and the rest of LIVE to a candidate's run.

    `run`: the candidate, whose run is opened where `run_id` is None and again where it was lost; or a run's id in the
    store `run.uri`. tokens_per_second is taken from the trainer's log, or else from the growth of TRL's num_tokens
    between two logs. A run that is taken up from a checkpoint repeats steps; those it has already are not sent twice.
    """

    def __init__(
        self, uri: str, run_id: str | None, candidate: Candidate | None = None, root: Path = Path(".")
    ) -> None:
        self.uri, self.run_id, self.candidate = uri, run_id, candidate
        self.unsent = unsent_file(root, candidate.digest if candidate else str(run_id)).resolve()
        self._points: deque[Point] = deque()
        self._lock = threading.Lock()  # of the queue and the file
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._last: tuple[float, float] | None = None  # clock, num_tokens
        self._sent: dict[str, set[int]] | None = None  # steps that the run has; None until it was asked
        self._away = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = (time.monotonic(), 0.0) if state.global_step == 0 else None
        if state.is_world_process_zero and self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._deliver, name="mlflow", daemon=True)
            self._thread.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._thread is None or not logs:
            return
        logs = self._with_speed(logs)
        now = time.time_ns() // 1_000_000
        with self._lock:
            for key in LIVE:
                if logs.get(key) is not None:  # a number, or a tensor with one
                    self._points.append((key, float(logs[key]), now, state.global_step))
        self._wake.set()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._wake.set()
        self._thread.join(PATIENCE)
        self._thread = None
        if self._points:  # the thread may still be asking: what it delivers now is known as sent at register
            self._park()
        if self.unsent.exists():
            log.warning(
                "MLflow has not taken all figures of the training; register sends the rest (%s)", self.unsent.name
            )

    def _with_speed(self, logs: dict[str, Any]) -> dict[str, Any]:
        tokens = logs.get("num_tokens")
        if "tokens_per_second" in logs or not isinstance(tokens, int | float):
            return logs
        clock, last = time.monotonic(), self._last
        self._last = (clock, tokens)
        if last is None or tokens <= last[1] or clock <= last[0]:
            return logs
        return {**logs, "tokens_per_second": (tokens - last[1]) / (clock - last[0])}

    def _deliver(self) -> None:
        """The thread: sends what has gathered and says that we live; asks again where the store does not answer."""
        wait, until = BACKOFF[0], time.monotonic()  # the first sign of life at once
        while True:
            ended = self._ended.is_set()  # before sending: what comes later is for another round
            try:
                with briefly():
                    self._send()
                    if time.monotonic() >= until or ended:
                        self._live(ended)
                        until = time.monotonic() + BEAT
            except Exception as error:  # whatever the store does, training goes on
                self._told(error)
                self._park()
                self.run_id, self._sent = (None if self.candidate else self.run_id), None
                if ended and not self._patient(wait):
                    return
                self._ended.wait(wait)
                wait = min(2 * wait, BACKOFF[1])
                continue
            if self._away:
                log.warning("MLflow answers again and has all figures so far")
                self._away, wait = False, BACKOFF[0]
            if ended:
                return
            self._wake.wait(max(0.0, until - time.monotonic()))
            self._wake.clear()

    def _patient(self, wait: float) -> bool:
        """At the end: sleep a moment and try again, until on_train_end has lost its patience."""
        time.sleep(min(wait, 2.0))
        return self._thread is not None

    def _send(self) -> None:
        """First what lies in the file, then the queue; a point leaves either only once the store has it."""
        from mlflow.entities import Metric

        with self._lock:
            size = self.unsent.stat().st_size if self.unsent.exists() else 0
            parked = list(read_points(self.unsent)) if size else []
        client = connect(self.uri)
        if self.run_id is None:
            self.run_id = self.candidate.open()
        if self._sent is None:
            self._sent = {key: {m.step for m in client.get_metric_history(self.run_id, key)} for key in LIVE}

        def put(points: list[Point]) -> None:
            # a step is sent once, also where a point lies both in the file and in the queue
            fresh = {(p[0], p[3]): p for p in points if p[3] not in self._sent.get(p[0], ())}
            if fresh:
                client.log_batch(self.run_id, metrics=[Metric(*point) for point in fresh.values()])
            for key, step in fresh:
                self._sent.setdefault(key, set()).add(step)

        rest = iter(parked)
        while part := list(islice(rest, BATCH)):
            put(part)
        if parked:
            with self._lock:
                if self.unsent.stat().st_size == size:  # else the end gave up waiting and added to it: register's
                    self.unsent.unlink()
        while self._points:
            with self._lock:
                part = list(islice(self._points, BATCH))
            put(part)
            with self._lock:
                for _ in range(min(len(part), len(self._points))):
                    self._points.popleft()

    def _live(self, ended: bool) -> None:
        """A sign of life. A run that was ended meanwhile, since nothing was heard of us for long, is ours again."""
        client, now = connect(self.uri), moment(datetime.now(UTC))
        run = client.get_run(self.run_id)
        if run.info.status not in ("RUNNING", "FINISHED"):
            take_up(client, self.run_id)
        client.set_tag(self.run_id, SEEN, now)
        if ended:
            client.set_tag(self.run_id, TRAINED, now)

    def _park(self) -> None:
        """What waits in memory goes to the file: a kill leaves it there, and memory stays bounded."""
        with self._lock:
            points = list(self._points)
            try:
                self.unsent.parent.mkdir(parents=True, exist_ok=True)
                with self.unsent.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(point) + "\n" for point in points)
            except OSError:  # the curve itself is safe in history.jsonl
                while len(self._points) > KEPT:
                    self._points.popleft()
                return
            self._points.clear()

    def _told(self, error: Exception) -> None:
        if not self._away:
            log.warning(
                "MLflow does not take the figures (%s: %s); training goes on, they are kept and sent later",
                type(error).__name__,
                str(redact(error)).partition("\n")[0][:300],
            )
        self._away = True
