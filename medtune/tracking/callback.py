"""Training, live in MLflow: a transformers callback that never holds training up and never stops it.

Points go to a queue that a thread empties into the store. What it cannot deliver is no loss: register completes the
curve from data/adapter/history.jsonl.
"""

import logging
import queue
import threading
import time
from typing import Any

from transformers import TrainerCallback

from medtune.tracking.runs import CURVE
from medtune.tracking.secrets import redact
from medtune.tracking.store import connect

log = logging.getLogger(__name__)

# beside the curve, what the machine made of it: live only, since it is no property of the candidate
LIVE = (*CURVE, "tflops", "matmul_share", "peak_memory_gib", "padding_share")
PATIENCE = 30.0  # seconds that the end of training waits for the last points


class MlflowCallback(TrainerCallback):
    """Sends loss, eval_loss, learning_rate, grad_norm, tokens_per_second and the rest of LIVE to one run.

    tokens_per_second is taken from the trainer's log, or else from the growth of TRL's num_tokens between two logs.
    A run that is taken up from a checkpoint repeats steps; those the run has already are not sent twice.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id
        self._points: queue.Queue[tuple[str, float, int, int] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._last: tuple[float, float] | None = None  # clock, num_tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = (time.monotonic(), 0.0) if state.global_step == 0 else None
        if state.is_world_process_zero and self._thread is None:
            self._thread = threading.Thread(target=self._deliver, name="mlflow", daemon=True)
            self._thread.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._thread is None or not logs:
            return
        logs = self._with_speed(logs)
        now = time.time_ns() // 1_000_000
        for key in LIVE:
            if logs.get(key) is not None:  # a number, or a tensor with one
                self._points.put((key, float(logs[key]), now, state.global_step))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._thread is not None:
            self._points.put(None)
            self._thread.join(PATIENCE)
            self._thread = None

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
        """The thread: waits for points, sends what has gathered, gives up for good at the first failure."""
        try:
            from mlflow.entities import Metric

            client = connect(self.uri)
            sent = {key: {m.step for m in client.get_metric_history(self.run_id, key)} for key in LIVE}
            ended = False
            while not ended:
                batch = [self._points.get()]
                while len(batch) < 1000:
                    try:
                        batch.append(self._points.get_nowait())
                    except queue.Empty:
                        break
                ended = None in batch
                fresh = [p for p in batch if p is not None and p[3] not in sent[p[0]]]
                for key, _, _, step in fresh:
                    sent[key].add(step)
                if fresh:
                    client.log_batch(self.run_id, metrics=[Metric(*point) for point in fresh])
        except Exception as error:  # whatever the store does, training goes on
            log.warning(
                "MLflow does not take the curve (%s: %s); training goes on, register completes it from history.jsonl",
                type(error).__name__,
                redact(error),
            )
