"""The elementwise steps of a fused layer in Triton, one pass over memory each. Same names and results as plain.py.

All of them are bound by memory: what counts is how often an element is read and written.
"""

import torch
import triton
import triton.language as tl

ROWS, COLS = 32, 128  # a tile of the feed-forward steps
# Up to this rank of one adapter its part is summed rank by rank: a tl.dot made the forward step 22 % slower and the
# backward one 27 % at rank 4, since it wants its operands laid out otherwise than the rest of the tile
NARROW = tl.constexpr(16)


@triton.jit
def _add_norm(h, y, weight, out, x, scale, D, eps, HAS_Y: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < D
    value = tl.load(h + row * D + at, mask=inside, other=0.0)
    if HAS_Y:
        value = (value.to(tl.float32) + tl.load(y + row * D + at, mask=inside, other=0.0).to(tl.float32)).to(
            out.dtype.element_ty
        )
        tl.store(out + row * D + at, value, mask=inside)
    value = value.to(tl.float32)
    r = tl.rsqrt(tl.sum(value * value, 0) / D + eps)
    tl.store(scale + row, r)
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    unit = (value * r).to(x.dtype.element_ty).to(tl.float32)  # rounded where transformers rounds
    tl.store(x + row * D + at, (unit * w).to(x.dtype.element_ty), mask=inside)


def add_norm(h, y, weight, eps):
    rows, size = h.shape
    out = torch.empty_like(h) if y is not None else h
    x = torch.empty_like(h)
    scale = torch.empty(rows, device=h.device, dtype=torch.float32)
    block = triton.next_power_of_2(size)
    _add_norm[(rows,)](h, y, weight, out, x, scale, size, eps, y is not None, block, num_warps=_warps(block))
    return out, x, scale


@triton.jit
def _norm_backward(dx, h, weight, scale, dh, out, x, D, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < D
    r = tl.load(scale + row)
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    unit = tl.load(h + row * D + at, mask=inside, other=0.0).to(tl.float32) * r
    g = tl.load(dx + row * D + at, mask=inside, other=0.0).to(tl.float32) * w
    mean = tl.sum(g * unit, 0) / D
    before = tl.load(dh + row * D + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * D + at, (before + r * (g - unit * mean)).to(out.dtype.element_ty), mask=inside)
    again = unit.to(x.dtype.element_ty).to(tl.float32) * w
    tl.store(x + row * D + at, again.to(x.dtype.element_ty), mask=inside)


def norm_backward(dx, h, weight, scale, dh):
    rows, size = h.shape
    out, x = torch.empty_like(h), torch.empty_like(h)
    block = triton.next_power_of_2(size)
    _norm_backward[(rows,)](dx, h, weight, scale, dh, out, x, size, block, num_warps=_warps(block))
    return out, x


@triton.jit
def _norm_again(h, weight, scale, x, D, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < D
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    unit = tl.load(h + row * D + at, mask=inside, other=0.0).to(tl.float32) * tl.load(scale + row)
    again = unit.to(x.dtype.element_ty).to(tl.float32) * w
    tl.store(x + row * D + at, again.to(x.dtype.element_ty), mask=inside)


def norm_again(h, weight, scale):
    rows, size = h.shape
    x = torch.empty_like(h)
    block = triton.next_power_of_2(size)
    _norm_again[(rows,)](h, weight, scale, x, size, block, num_warps=_warps(block))
    return x


@triton.jit
def _rope(qkv, cos, sin, width, HALF: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)[:, None]
    at = tl.arange(0, HALF)[None, :]
    inside = (head < HEADS) & (at < HALF)
    c = tl.load(cos + row * 2 * HALF + at).to(tl.float32)
    s = tl.load(sin + row * 2 * HALF + at).to(tl.float32)
    start = qkv + row * width + head * 2 * HALF + at
    a = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(start + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(start, (a * c - b * s).to(qkv.dtype.element_ty), mask=inside)
    tl.store(start + HALF, (b * c + a * s).to(qkv.dtype.element_ty), mask=inside)


def rope_(qkv, cos, sin, heads, kv_heads):
    turned = heads + kv_heads
    _rope[(len(qkv),)](
        qkv, cos, sin, qkv.stride(0), cos.shape[-1] // 2, turned, triton.next_power_of_2(turned), num_warps=4
    )


@triton.jit
def _rope_backward(
    g, cos, sin, out, stride, width, offset, HALF: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
    TURN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)[:, None]
    at = tl.arange(0, HALF)[None, :]
    inside = (head < HEADS) & (at < HALF)
    start = g + row * stride + head * 2 * HALF + at
    a = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(start + HALF, mask=inside, other=0.0).to(tl.float32)
    if TURN:
        c = tl.load(cos + row * 2 * HALF + at).to(tl.float32)
        s = tl.load(sin + row * 2 * HALF + at).to(tl.float32)
        a, b = a * c + b * s, b * c - a * s
    to = out + row * width + offset + head * 2 * HALF + at
    tl.store(to, a.to(out.dtype.element_ty), mask=inside)
    tl.store(to + HALF, b.to(out.dtype.element_ty), mask=inside)


def rope_backward(dq, dk, dv, cos, sin):
    size = cos.shape[-1]
    heads = [g.shape[1] for g in (dq, dk, dv)]
    out = torch.empty(len(dq), sum(heads) * size, device=dq.device, dtype=dq.dtype)
    offset = 0
    for g, count in zip((dq, dk, dv), heads, strict=True):
        g = g if g.stride(1) == size and g.stride(2) == 1 else g.contiguous()
        _rope_backward[(len(g),)](
            g, cos, sin, out, g.stride(0), out.stride(0), offset, size // 2, count, triton.next_power_of_2(count),
            offset < sum(heads[:2]) * size, num_warps=4,
        )  # fmt: skip
        offset += count * size
    return out


@triton.jit
def _add_ranks(sums, low, right, rows, T, F, cols, row_step, col_step, FIRST: tl.constexpr, RANK: tl.constexpr,
               WIDTH: tl.constexpr):  # fmt: skip
    for k in tl.static_range(FIRST, FIRST + RANK):
        a = tl.load(low + rows * WIDTH + k, mask=rows < T, other=0.0).to(tl.float32)
        b = tl.load(right + cols * col_step + k * row_step, mask=cols < F, other=0.0).to(tl.float32)
        sums += a[:, None] * b[None, :]
    return sums


@triton.jit
def _gate_and_up(
    gate_up, low, b, rows, cols, inside, T, F, HAS_LOW: tl.constexpr, WIDTH: tl.constexpr, GATE: tl.constexpr,
    UP: tl.constexpr,
):  # fmt: skip
    start = gate_up + rows[:, None].to(tl.int64) * 2 * F + cols[None, :]
    gate = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + F, mask=inside, other=0.0).to(tl.float32)
    if HAS_LOW:
        if GATE <= NARROW and UP <= NARROW:
            gate = _add_ranks(gate, low, b, rows, T, F, cols, 1, WIDTH, 0, GATE, WIDTH)
            up = _add_ranks(up, low, b + F * WIDTH, rows, T, F, cols, 1, WIDTH, GATE, UP, WIDTH)
        else:
            wide = tl.arange(0, WIDTH)
            here = tl.load(low + rows[:, None] * WIDTH + wide[None, :], mask=(rows < T)[:, None], other=0.0)
            b_at = b + cols[None, :] * WIDTH + wide[:, None]
            gate = tl.dot(here, tl.load(b_at, mask=(cols < F)[None, :], other=0.0), gate)
            up = tl.dot(here, tl.load(b_at + F * WIDTH, mask=(cols < F)[None, :], other=0.0), up)
        kind = gate_up.dtype.element_ty
        gate = gate.to(kind).to(tl.float32)
        up = up.to(kind).to(tl.float32)
    return gate, up, start


@triton.jit
def _swiglu(
    gate_up, low, b, act, T, F, HAS_LOW: tl.constexpr, WIDTH: tl.constexpr, GATE: tl.constexpr, UP: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = (rows < T)[:, None] & (cols < F)[None, :]
    gate, up, _ = _gate_and_up(gate_up, low, b, rows, cols, inside, T, F, HAS_LOW, WIDTH, GATE, UP)
    silu = (gate * tl.sigmoid(gate)).to(act.dtype.element_ty).to(tl.float32)
    tl.store(act + rows[:, None].to(tl.int64) * F + cols[None, :], (silu * up).to(act.dtype.element_ty), mask=inside)


def swiglu(gate_up, low=None, b=None, ranks=(0, 0)):
    rows, size = len(gate_up), gate_up.shape[1] // 2
    act = torch.empty(rows, size, device=gate_up.device, dtype=gate_up.dtype)
    has = low is not None
    _swiglu[(triton.cdiv(size, COLS), triton.cdiv(rows, ROWS))](
        gate_up, low if has else gate_up, b if has else gate_up, act, rows, size, has, low.shape[1] if has else 16,
        *ranks, ROWS, COLS, num_warps=4,
    )  # fmt: skip
    return act


@triton.jit
def _swiglu_backward(
    dact, gate_up, low, b, dlow, a, T, F, HAS_LOW: tl.constexpr, WIDTH: tl.constexpr, GATE: tl.constexpr,
    UP: tl.constexpr, HAS_DLOW: tl.constexpr, DWIDTH: tl.constexpr, DOWN: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = (rows < T)[:, None] & (cols < F)[None, :]
    gate, up, start = _gate_and_up(gate_up, low, b, rows, cols, inside, T, F, HAS_LOW, WIDTH, GATE, UP)
    d_at = dact + rows[:, None].to(tl.int64) * F + cols[None, :]
    d = tl.load(d_at, mask=inside, other=0.0).to(tl.float32)
    if HAS_DLOW:
        if DOWN <= NARROW:
            d = _add_ranks(d, dlow, a, rows, T, F, cols, F, 1, 0, DOWN, DWIDTH)
        else:
            wide = tl.arange(0, DWIDTH)
            here = tl.load(dlow + rows[:, None] * DWIDTH + wide[None, :], mask=(rows < T)[:, None], other=0.0)
            d = tl.dot(here, tl.load(a + wide[:, None] * F + cols[None, :], mask=(cols < F)[None, :], other=0.0), d)
    s = tl.sigmoid(gate)
    silu = gate * s
    kind = gate_up.dtype.element_ty
    tl.store(start, (d * up * s * (1 + gate * (1 - s))).to(kind), mask=inside)
    tl.store(start + F, (d * silu).to(kind), mask=inside)
    tl.store(d_at, (silu.to(kind).to(tl.float32) * up).to(kind), mask=inside)


def swiglu_backward_(dact, gate_up, low=None, b=None, ranks=(0, 0), dlow=None, a=None, rank=0):
    rows, size = dact.shape
    has, has_d = low is not None, dlow is not None
    _swiglu_backward[(triton.cdiv(size, COLS), triton.cdiv(rows, ROWS))](
        dact, gate_up, low if has else dact, b if has else dact, dlow if has_d else dact, a if has_d else dact, rows,
        size, has, low.shape[1] if has else 16, *ranks, has_d, dlow.shape[1] if has_d else 16, rank, ROWS, COLS,
        num_warps=4,
    )  # fmt: skip


@triton.jit
def _dropout(x, out, count, p, scale, seed, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    keep = tl.rand(tl.load(seed), at) >= p
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, tl.where(keep, value * scale, 0.0).to(out.dtype.element_ty), mask=inside)


def dropout(x, p, seed):
    x = x.contiguous()
    out = torch.empty_like(x)
    _dropout[(triton.cdiv(x.numel(), 4096),)](x, out, x.numel(), p, 1 / (1 - p), seed, 4096, num_warps=8)
    return out


def _warps(block):
    return max(1, min(16, block // 512))
