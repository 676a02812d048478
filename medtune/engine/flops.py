"""How fast training could be, and how much of that it is.

A step of LoRA on a frozen base of N parameters costs 4N floating-point operations a token: 2N forward, 2N for the
gradients of the activations, and next to nothing for those of the adapters; recomputing all layers costs 2N more
(after Kaplan et al. 2020, arXiv:2001.08361, whose 6N has the weights' gradients in it). Attention between tokens is
left out, as is usual: at 512 tokens it is a hundredth.
"""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def base_parameters(model: "nn.Module") -> int:
    """Parameters of the frozen base: packed 4-bit weights counted by what they stand for, a tied head once."""
    seen, total = set(), 0
    for weight in model.parameters():
        if not weight.requires_grad and id(weight) not in seen:
            seen.add(id(weight))
            state = getattr(weight, "quant_state", None)
            total += state.shape.numel() if state is not None else weight.numel()
    return total


def flops_per_token(parameters: int, recomputed: float = 0.0) -> float:
    """Floating-point operations of training on one token. recomputed: share of the layers, 0 to 1."""
    return (4 + 2 * recomputed) * parameters


def matmul_ceiling(device: "torch.device", dtype: "torch.dtype") -> float:
    """TFLOP/s of a large matrix product, measured: what the hardware gives at best here. Less than a second."""
    import torch

    cuda = device.type == "cuda"
    size, rounds = (8192, 12) if cuda else (1024, 4)
    generator = torch.Generator(device).manual_seed(0)  # the seed of the training stays as it is
    a = torch.randn(size, size, device=device, generator=generator).to(dtype)
    b = torch.randn(size, size, device=device, generator=generator).to(dtype)
    out = torch.empty_like(a)
    best = float("inf")
    for n in range(rounds):
        if cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            torch.mm(a, b, out=out)
            end.record()
            end.synchronize()
            seconds = start.elapsed_time(end) / 1000
        else:
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            seconds = time.perf_counter() - began
        best = min(best, seconds) if n else best  # the first one warms up
    del a, b, out
    if cuda:
        torch.cuda.empty_cache()
    return 2 * size**3 / best / 1e12
