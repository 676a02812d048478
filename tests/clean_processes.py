"""Processes for races, which start clean as spawned ones do, but import torch and MLflow once for all of them.

A server process imports what is heavy at the first call and forks for every process asked of it. A test process must
not fork itself: it has threads (Prefect's, where a test file ran a flow), and a child of it ends badly in its exit
handlers.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

# the same for everybody: the server is started once, with the list of whoever comes first
HEAVY = (
    "pytest",
    "torch",
    "transformers",
    "peft",
    "pyarrow.parquet",
    "scipy.stats",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "stages.register",
)


def context() -> ForkServerContext:
    """For queues, events and barriers that such processes share."""
    server = get_context("forkserver")
    server.set_forkserver_preload(list(HEAVY))
    return server


def pool(count: int) -> ProcessPoolExecutor:
    """`count` processes that begin together: none takes a task before all are there."""
    there = context().Barrier(count)
    return ProcessPoolExecutor(count, mp_context=context(), initializer=_begin, initargs=(dict(os.environ), there))


def process(target: Callable[..., Any], *args: Any) -> BaseProcess:
    """A process to be started, which runs target(*args)."""
    return context().Process(target=_run, args=(dict(os.environ), target, args))


def _begin(environment: Mapping[str, str], there: Any) -> None:
    _as_here(environment)
    there.wait(300)


def _run(environment: Mapping[str, str], target: Callable[..., Any], args: tuple) -> None:
    _as_here(environment)
    target(*args)


def _as_here(environment: Mapping[str, str]) -> None:
    """The server keeps the environment of the moment it began; the directory follows by itself."""
    os.environ.clear()
    os.environ.update(environment)
