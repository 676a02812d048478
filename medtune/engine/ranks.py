"""The processes that train one adapter together: one a GPU, started by torchrun (engine/launch.py), or one alone.

ranks = join(train)          # the process group, and this process's device
ranks.main                   # whether this is the process that prints, writes and talks to MLflow
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medtune.engine.device import pick_device
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch

    from medtune.params.train import Train

T = TypeVar("T")

SHARDED = ("fsdp", "fsdp_offload")  # values of train.sharding; fsdp_offload keeps the slices in host memory
# A rank that waits for another one that is converting or saving must not give up; a dead one ends the rest by torchrun
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """rank: this process, 0 <= rank < count. device: where it computes. offload: sharded weights in host memory."""

    rank: int
    count: int
    device: "torch.device"
    sharded: bool = False
    offload: bool = False

    @property
    def main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here. A no-op alone."""
        if self.sharded:
            import torch

            # over gloo: NCCL's barrier would need the GPU that it runs on to be named, and waits for the GPU's queue
            torch.distributed.all_reduce(torch.zeros(1))

    def from_main(self, make: "Callable[[], T]") -> "T":
        """What make() gives on rank 0, which alone calls it, on every rank."""
        if not self.sharded:
            return make()
        import torch

        box = [make() if self.main else None]
        torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: "T") -> "list[T]":
        """The value of every rank, in order, on every rank."""
        if not self.sharded:
            return [value]
        import torch

        if self.device.type == "cuda":  # pickled into a tensor of the current device: NCCL carries it
            torch.cuda.set_device(self.device)
        found: list = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found

    def figures(self) -> dict:
        """Peaks of all ranks in bytes, rank by rank: device memory and what is private of host memory now."""
        if not self.sharded:
            return {}
        import torch

        mine = {"host_anonymous_bytes": anonymous_bytes()}
        if self.device.type == "cuda":
            mine |= {
                "allocated_bytes": torch.cuda.max_memory_allocated(self.device),
                "reserved_bytes": torch.cuda.max_memory_reserved(self.device),
            }
        every = self.gather(mine)
        figures = {"ranks": self.count, "per_rank": every}
        if self.device.type == "cuda":
            figures["peak_memory_bytes"] = max(one["allocated_bytes"] for one in every)
        return figures

    def leave(self) -> None:
        """End of the common work; every rank must call it."""
        if self.sharded:
            import torch

            self.barrier()
            torch.distributed.destroy_process_group()


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's rank by its environment, before any process group: 0 alone."""
    return int(os.environ.get("RANK", "0")) if under_torchrun() else 0


def join(train: "Train") -> Ranks:
    """This process among those that train: alone, or in the process group that torchrun's environment describes.

    Ranks but 0 are silent on stdout from here on. Raises EngineError where train.sharding asks for several processes
    and this one was started alone, where there are fewer GPUs than ranks, and where the GPUs are of several kinds.
    """
    if train.sharding not in SHARDED:
        return Ranks(0, 1, pick_device(train.device))
    if not under_torchrun():
        raise EngineError(
            f"train.sharding: {train.sharding} runs as one process a GPU; start it by `python -m stages.train` "
            "(`dvc repro train`), which starts them, or under torchrun, or set train.sharding: none"
        )
    import torch

    device, local = pick_device(train.device), int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise EngineError(
                f"rank {rank()} wants GPU {local} and {torch.cuda.device_count()} are visible; start as many processes "
                "as there are GPUs (MEDTUNE_PROCESSES)"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        # gloo beside NCCL: for what lies on the CPU (objects, barriers, the norm of offloaded gradients)
        backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    ranks = Ranks(rank(), int(os.environ["WORLD_SIZE"]), device, sharded=True, offload=train.sharding == "fsdp_offload")
    if not ranks.main:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    return ranks


def anonymous_bytes() -> int | None:
    """Private memory of this process in bytes: mapped files, which ranks share, do not count. None outside Linux."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))
