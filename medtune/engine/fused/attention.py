"""Causal attention inside the samples of one row, forward and backward, by their boundaries.

On CUDA the variable-length flash kernels behind torch.nn.attention.varlen (called directly, since a fused layer runs
its own backward, and with fewer key heads than query heads, which they take as they are). Elsewhere one sample after
another: the blocks of a block mask, without the mask.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Segments:
    """Samples in a row: their starts and the end, int32 (samples + 1,), on the device and as numbers; the longest."""

    starts: torch.Tensor
    bounds: tuple[int, ...]
    longest: int


def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> tuple[torch.Tensor, tuple]:
    """Attention output (T, H, d) of q (T, H, d), k and v (T, K, d), and what backward needs."""
    if q.is_cuda:
        out, lse, rng, unused, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, segments.starts, segments.starts, segments.longest, segments.longest, 0.0, True, False,
            scale=q.shape[-1] ** -0.5,
        )  # fmt: skip
        return out, (out, lse, rng, unused)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for start, end in zip(segments.bounds, segments.bounds[1:], strict=False):
        out[start:end] = _one(q[start:end], k[start:end], v[start:end])
    return out, ()


def backward(
    dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, saved: tuple, segments: Segments
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q (T, H, d), k and v (T, K, d)."""
    if q.is_cuda:
        out, lse, rng, unused = saved
        return torch.ops.aten._flash_attention_backward(
            dout, q, k, v, out, lse, segments.starts, segments.starts, segments.longest, segments.longest, 0.0, True,
            rng, unused, scale=q.shape[-1] ** -0.5,
        )  # fmt: skip
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    for start, end in zip(segments.bounds, segments.bounds[1:], strict=False):
        parts = [x[start:end].detach().requires_grad_() for x in (q, k, v)]
        with torch.enable_grad():
            out = _one(*parts)
        for grad, found in zip(grads, torch.autograd.grad(out, parts, dout[start:end]), strict=True):
            grad[start:end] = found
    return tuple(grads)


def _one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
