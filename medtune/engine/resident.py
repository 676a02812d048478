"""A base as evaluation wants it: NF4 unpacked where memory allows, which is the same numbers and faster.

bitsandbytes computes with dequantise(NF4(W)) in the compute precision, anew in every step; a decode step of a few rows
spends most of its time on it. Kept unpacked, the weights are those very numbers.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from medtune.engine.load import load_model
from medtune.engine.merge import dequantise

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SPARE = 0.75  # of the memory: what is left is for keys and values, and for what a step makes on the way


def load_resident(
    path: Path, *, quantization: str, double_quant: bool, quant_storage: str, device: "torch.device", dtype
) -> "PreTrainedModel":
    """load_model, with an NF4 base unpacked into `dtype` where that leaves a quarter of the memory free."""
    model = load_model(
        path,
        quantization=quantization,
        double_quant=double_quant,
        quant_storage=quant_storage,
        device=device,
        dtype=dtype,
    )
    if quantization != "nf4":
        return model
    unpacked = unpacked_bytes(model, dtype)
    if unpacked > SPARE * _memory(device):
        print(f"the base stays packed in NF4: unpacked it would be {unpacked / 2**30:.0f} GiB")
        return model
    return dequantise(model)


def unpacked_bytes(model: "PreTrainedModel", dtype: "torch.dtype") -> int:
    """Bytes of a model's weights once its NF4 words are numbers of `dtype`."""
    total = 0
    for weight in model.parameters():
        state = getattr(weight, "quant_state", None)
        total += state.shape.numel() * dtype.itemsize if state is not None else weight.numel() * weight.itemsize
    return total


def _memory(device: "torch.device") -> int:
    """Bytes of the device's memory that this process can have: free, and held already."""
    import os

    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
