"""Which device and which precision, chosen once and said aloud."""

from typing import TYPE_CHECKING

from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch


def pick_device(wanted: str) -> "torch.device":
    """auto: CUDA where there is one. Raises EngineError where CUDA is asked for and missing."""
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EngineError("train.device: cuda, but this machine shows no CUDA device; set train.device: auto or cpu")
    return torch.device(wanted, 0) if wanted == "cuda" else torch.device(wanted)


def pick_dtype(wanted: str, device: "torch.device") -> "torch.dtype":
    """The compute precision. auto: bfloat16 on a GPU that has it, float16 on one that has not, float32 on a CPU.

    A CPU without bf16 instructions emulates bfloat16 some fifty times slower than float32, so it is refused there.
    """
    import torch

    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bfloat16" and not has_bf16:
            name = torch.cuda.get_device_name(device)
            raise EngineError(f"train.dtype: bfloat16, but {name} has none; set train.dtype: float16")
        if wanted == "auto":
            return torch.bfloat16 if has_bf16 else torch.float16
    else:
        if wanted == "float16":
            raise EngineError("train.dtype: float16 does not train on a CPU; set train.dtype: auto")
        if wanted == "bfloat16" and not _cpu_has_bf16():
            raise EngineError(
                "train.dtype: bfloat16, but this CPU has neither avx512_bf16 nor amx_bf16 and would emulate it about "
                "fifty times slower; set train.dtype: auto"
            )
        if wanted == "auto":
            return torch.float32
    return getattr(torch, wanted)


def _cpu_has_bf16() -> bool:
    from pathlib import Path

    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
