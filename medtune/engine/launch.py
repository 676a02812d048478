"""Starts one process a GPU by torchrun, with the same command for two, four or eight GPUs, and says why they ended.

    if started_here(recipe.train):        # sharded, and not itself one of the ranks
        launch("stages.train", recipe.train)

MEDTUNE_PROCESSES=N takes N processes instead of one a visible GPU (on a CPU there is no other way to say how many).
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.engine.device import pick_device
from medtune.engine.ranks import SHARDED, rank, under_torchrun
from medtune.params.errors import EngineError, UserError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from medtune.params.train import Train

WANTED = "MEDTUNE_PROCESSES"
SENTENCES = "MEDTUNE_SENTENCES"  # a folder where a rank that fails leaves its sentence for the process that started it


def started_here(train: "Train") -> bool:
    """Whether this process must start the ranks: the recipe is sharded, and torchrun has not started this one."""
    return train.sharding in SHARDED and not under_torchrun()


def process_count(train: "Train") -> int:
    """How many processes train.sharding takes on this machine.

    EngineError, with the mend, where there are too few GPUs or GPUs of several models.
    """
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"])
    import torch

    wanted = os.environ.get(WANTED)
    if wanted is not None and not (wanted.isdigit() and int(wanted) > 1):
        raise EngineError(f"{WANTED} is '{wanted}' and must be a number of processes, 2 or more")
    if pick_device(train.device).type == "cpu":  # it refuses GPUs of several kinds by their names
        if wanted is None:
            raise EngineError(
                f"train.sharding: {train.sharding} cuts the base into slices over several GPUs, and this machine shows "
                f"none; set train.sharding: none, or {WANTED}=2 to try it on the CPU"
            )
        return int(wanted)
    visible = torch.cuda.device_count()
    count = int(wanted or visible)
    if count > visible:
        raise EngineError(f"{WANTED} asks for {count} processes and {visible} GPUs are visible; lower it")
    if count < 2:
        raise EngineError(
            f"train.sharding: {train.sharding} cuts the base into slices over several GPUs, and there is one; set "
            "train.sharding: none, or make more visible (CUDA_VISIBLE_DEVICES)"
        )
    return count


def launch(module: str, train: "Train", arguments: Sequence[str] = ()) -> None:
    """Run `python -m module arguments` in every rank and wait for all.

    The environment goes on to the ranks as it is, NCCL's variables among it (NCCL_NVLS_ENABLE=0 turns multicast off).
    When a rank ends otherwise than well, torchrun ends the others within seconds; EngineError then, with the sentence
    of the rank that failed first, or with the signal that ended it.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    count = process_count(train)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a page that says less than our sentence
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    with tempfile.TemporaryDirectory(prefix="medtune-ranks-") as sentences:
        os.environ[SENTENCES] = sentences
        command = ["--standalone", f"--nproc-per-node={count}", "--module", module, *arguments]
        try:
            torchrun.run(torchrun.get_args_parser().parse_args(command))
        except ChildFailedError as error:
            raise EngineError(_reason(Path(sentences), error)) from None
        except SignalException as error:  # this process was told to end, and has ended its ranks
            sys.exit(f"ended by {signal.Signals(error.sigval).name}; run again to go on")
        finally:
            del os.environ[SENTENCES]


def leave_sentence(sentence: str) -> bool:
    """In a rank: why it ends, for the process that started it. False where that is nobody."""
    folder = os.environ.get(SENTENCES)
    if folder and under_torchrun():
        Path(folder, f"{rank():04d}").write_text(sentence, encoding="utf-8")
        return True
    return False


def _reason(sentences: Path, error: "ChildFailedError") -> str:
    """One sentence: what the ranks said, each thing once, or who ended by what."""
    said: dict[str, int] = {}
    for file in sorted(sentences.iterdir()):
        said.setdefault(file.read_text(encoding="utf-8"), int(file.name))
    if said:
        return "; ".join(text if len(said) == 1 else f"rank {n}: {text}" for text, n in said.items())
    number, failure = error.get_first_failure()
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = " (as the kernel does when host memory runs out)" if name == "SIGKILL" else ""
        return f"rank {number} was ended by {name}{hint}, and the other ranks with it; run again to go on"
    return (
        f"rank {number} failed with exit status {failure.exitcode} (its traceback is above), and the other ranks were "
        "ended with it"
    )


@contextmanager
def rank_sentences() -> Iterator[None]:
    """In a rank: a UserError ends it by way of `leave_sentence`, so that the process that started it says it, once."""
    try:
        yield
    except UserError as error:
        if leave_sentence(str(error)):
            sys.exit(1)
        raise


def check_sharding(train: "Train") -> None:
    """EngineError for settings that cannot be had with train.sharding, before a weight is loaded."""
    if "8bit" in train.optimizer:
        raise EngineError(
            f"train.optimizer: {train.optimizer} keeps its moments in blocks that cannot be cut into slices; with "
            f"train.sharding: {train.sharding} set train.optimizer: adamw_torch"
        )
    if train.dtype == "float16":
        raise EngineError(f"train.dtype: float16 has no loss scaling under train.sharding: {train.sharding}; set auto")
