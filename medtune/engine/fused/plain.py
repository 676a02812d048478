"""The elementwise steps of a fused layer in plain torch: for CPUs, and what the Triton kernels are tested against.

Shapes: T tokens, D hidden size, F feed-forward size, H query heads, K key heads, d head size.
"""

import torch


def add_norm(
    h: torch.Tensor, y: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """h + y (T, D), its RMS norm (T, D), and 1 / rms (T,) in fp32. y None: h as it is."""
    if y is not None:
        h = h + y
    wide = h.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1) + eps)
    return h, (weight * (wide * scale[:, None]).to(h.dtype)), scale


def norm_backward(
    dx: torch.Tensor, h: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, dh: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of h, which is dh (from the residual) plus what comes through the norm; and the norm's output again."""
    unit = h.float() * scale[:, None]
    g = dx.float() * weight.float()
    through = scale[:, None] * (g - unit * (g * unit).mean(-1, keepdim=True))
    return (dh.float() + through).to(h.dtype), weight * unit.to(h.dtype)


def norm_again(h: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The norm's output (T, D) from its saved scale."""
    return weight * (h.float() * scale[:, None]).to(h.dtype)


def rope_(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int, kv_heads: int) -> None:
    """Rotate queries and keys of qkv (T, (H + 2 K) d) in place; cos and sin (T, d), both halves alike."""
    d = cos.shape[-1]
    part = qkv[:, : (heads + kv_heads) * d].view(len(qkv), heads + kv_heads, d)
    part.copy_(part * cos[:, None] + _rotate_half(part) * sin[:, None])


def rope_backward(
    dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """Gradient of qkv (T, (H + 2 K) d) before rotation, from those of rotated q (T, H, d), k and v (T, K, d)."""
    back = [g * cos[:, None] - _rotate_half(g) * sin[:, None] for g in (dq, dk)]
    return torch.cat([*back, dv.to(dq.dtype)], 1).flatten(1)


def swiglu(
    gate_up: torch.Tensor,
    low: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    ranks: tuple[int, int] = (0, 0),
) -> torch.Tensor:
    """silu(gate) * up (T, F) of gate_up (T, 2 F), to which low (T, width) @ b (2 F, width)^T is added on the way.

    ranks: columns of low that are gate's, and up's after them.
    """
    gate, up = _with_adapter(gate_up, low, b).chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def swiglu_backward_(
    dact: torch.Tensor,
    gate_up: torch.Tensor,
    low: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    ranks: tuple[int, int] = (0, 0),
    dlow: torch.Tensor | None = None,
    a: torch.Tensor | None = None,
    rank: int = 0,
) -> None:
    """In place: gate_up (T, 2 F) becomes its gradient, and dact (T, F), the gradient of swiglu, becomes swiglu.

    low, b, ranks: as in swiglu. dlow (T, width) @ a (width, F) is added to dact first: what the adapter above hands
    down through its `rank` first columns.
    """
    gate, up = (part.float() for part in _with_adapter(gate_up, low, b).chunk(2, -1))
    d = (dact if dlow is None else dact + dlow @ a).float()
    s = torch.sigmoid(gate)
    silu = gate * s
    act = silu * up
    gate_up.copy_(torch.cat([d * up * s * (1 + gate * (1 - s)), d * silu], -1))
    dact.copy_(act)


def _with_adapter(gate_up: torch.Tensor, low: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor:
    return gate_up if low is None else gate_up + low @ b.T


def dropout(x: torch.Tensor, p: float, seed: torch.Tensor) -> torch.Tensor:
    """x with a share p of its elements zeroed and the others scaled by 1 / (1 - p); the same for the same seed (1,)."""
    generator = torch.Generator(x.device).manual_seed(int(seed))
    keep = torch.rand(x.shape, generator=generator, device=x.device) >= p
    return torch.where(keep, x / (1 - p), 0)


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)
