"""Which device and which precision, chosen once and said aloud."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Gpu:
    """A visible CUDA device. index: its number among the visible ones; capability: such as (9, 0)."""

    index: int
    name: str
    capability: tuple[int, int]

    @property
    def has_bf16(self) -> bool:
        """Whether its tensor cores take bfloat16: from Ampere (8.0) on."""
        return self.capability >= (8, 0)


def visible_gpus() -> list[Gpu]:
    """The CUDA devices that this process sees."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        Gpu(n, torch.cuda.get_device_name(n), torch.cuda.get_device_capability(n))
        for n in range(torch.cuda.device_count())
    ]


def refuse_mixed(gpus: list[Gpu], visible: str | None = None) -> None:
    """EngineError where the visible GPUs are of different kinds: the slowest would set the pace, or the precision.

    visible: what CUDA_VISIBLE_DEVICES holds, whose entries are what has to be written to name the same devices again.
    """
    kinds: dict[tuple, list[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault((gpu.name, gpu.capability), []).append(gpu)
    if len(kinds) < 2:
        return
    entries = [entry.strip() for entry in (visible or "").split(",") if entry.strip()]
    if len(entries) < len(gpus):
        entries = [str(gpu.index) for gpu in gpus]
    named = ", ".join(f"{gpu.index}: {gpu.name} ({'.'.join(map(str, gpu.capability))})" for gpu in gpus)
    best = max(kinds.values(), key=lambda same: (same[0].capability, len(same)))
    raise EngineError(
        f"the visible GPUs are of different kinds ({named}); choose those of one kind, for example "
        f"CUDA_VISIBLE_DEVICES={','.join(entries[gpu.index] for gpu in best)}"
    )


def pick_device(wanted: str) -> "torch.device":
    """auto: CUDA where there is one. Raises EngineError where CUDA is asked for and missing, or GPUs differ in kind."""
    import os

    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EngineError("train.device: cuda, but this machine shows no CUDA device; set train.device: auto or cpu")
    if wanted == "cpu":
        return torch.device("cpu")
    refuse_mixed(visible_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return torch.device("cuda", 0)


def pick_dtype(wanted: str, device: "torch.device") -> "torch.dtype":
    """The compute precision. auto: bfloat16 on a GPU that has it, float16 on one that has not, float32 on a CPU.

    A CPU without bf16 instructions emulates bfloat16 some fifty times slower than float32, so it is refused there.
    """
    import torch

    if device.type == "cuda":
        return getattr(torch, gpu_dtype(wanted, visible_gpus()[device.index or 0]))
    if wanted == "float16":
        raise EngineError("train.dtype: float16 does not train on a CPU; set train.dtype: auto")
    if wanted == "bfloat16" and not _cpu_has_bf16():
        raise EngineError(
            "train.dtype: bfloat16, but this CPU has neither avx512_bf16 nor amx_bf16 and would emulate it about "
            "fifty times slower; set train.dtype: auto"
        )
    return torch.float32 if wanted == "auto" else getattr(torch, wanted)


def gpu_dtype(wanted: str, gpu: Gpu) -> str:
    """The name of the precision on a GPU; EngineError for bfloat16 where it has none."""
    if wanted == "bfloat16" and not gpu.has_bf16:
        raise EngineError(f"train.dtype: bfloat16, but {gpu.name} has none; set train.dtype: auto or float16")
    if wanted == "auto":
        return "bfloat16" if gpu.has_bf16 else "float16"
    return wanted


def use_expandable_segments() -> None:
    """Let torch's CUDA allocator grow its memory in place.

    Samples differ in length from step to step, and in fixed pieces the allocator comes to hold twice what is in use.
    Where the user has set the allocator up by its environment variable, that stands.
    """
    import os

    import torch

    if any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        return
    torch.cuda.memory._set_allocator_settings("expandable_segments:True")


def _cpu_has_bf16() -> bool:
    from pathlib import Path

    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
