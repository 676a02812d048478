"""One decoder layer of the Llama family, forward and backward by hand: a frozen base, LoRA on any of its seven linears.

Only what backward cannot cheaply make again is kept: the two residual streams, q k v after rotation, the attention's
output and gate and up: 2 (2 D + 2 Q + 2 K + 2 F) bytes a token in 16 bit. Norms and silu * up are made again in the
passes that read their inputs anyway. The residual sum of a layer is taken by the next one's first pass, so that layers
hand on two tensors, h and y, with h + y the hidden state.
"""

from dataclasses import dataclass

import torch
from torch import nn

from medtune.engine.fused import attention
from medtune.engine.fused.attention import Segments
from medtune.engine.fused.weights import Group, Scratch

WIDEST = 128  # summed rank up to which the feed-forward steps add the adapters themselves
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


@dataclass(frozen=True)
class Batch:
    """What all layers of one step share: rotation (T, d) each, boundaries, and the seed of the step's dropout."""

    cos: torch.Tensor
    sin: torch.Tensor
    segments: Segments
    seed: torch.Tensor | None  # (1,) int32


class Layer:
    """The weights of a transformers LlamaDecoderLayer, grouped, and the elementwise steps for its device."""

    def __init__(self, decoder: nn.Module, index: int, scratch: Scratch, steps):
        attn, mlp = decoder.self_attn, decoder.mlp
        self.index = index
        self.steps = steps
        self.eps = decoder.input_layernorm.variance_epsilon
        self.norms = (decoder.input_layernorm, decoder.post_attention_layernorm)
        self.groups = [
            Group([(attn if hasattr(attn, name) else mlp, name) for name in names], scratch) for names in GROUPS
        ]
        self.head_size = attn.head_dim
        self.kv_heads = self.groups[0].out_sizes[1] // self.head_size
        self.heads = self.groups[0].out_sizes[0] // self.head_size
        self.recompute = False
        self.store = None  # where a recomputed layer's input waits, see Store

    def parameters(self) -> list[nn.Parameter]:
        return [weight for group in self.groups for weight in group.parameters()]

    def forward(self, h: torch.Tensor, y: torch.Tensor | None, batch: Batch, keep: bool, again: bool = False):
        """The next h and y (T, D) of h and y, and what backward needs (None unless keep). again: y is not wanted."""
        qkv_group, o_group, gate_up_group, down_group = self.groups
        h, x, first_scale = self.steps.add_norm(h, y, self.norms[0].weight, self.eps)
        qkv, low_qkv = self._linear(qkv_group, x, batch)
        self.steps.rope_(qkv, batch.cos, batch.sin, self.heads, self.kv_heads)
        out, kept = attention.forward(*self._split(qkv), batch.segments)
        out = out.flatten(1)
        y, low_o = self._linear(o_group, out, batch)
        middle, x, second_scale = self.steps.add_norm(h, y, self.norms[1].weight, self.eps)
        gate_up, low_gate_up = self._linear(gate_up_group, x, batch, add=not self._adds_inside(gate_up_group))
        act = self.steps.swiglu(gate_up, *self._inside(gate_up_group, low_gate_up))
        if again:
            y, low_down = None, self._low(down_group, act, batch)
        else:
            y, low_down = self._linear(down_group, act, batch)
        saved = None
        if keep:
            attended = (h, first_scale, low_qkv, qkv, out, kept, low_o)
            saved = (*attended, middle, second_scale, low_gate_up, gate_up, low_down)
        return middle, y, saved

    def backward(
        self, dh: torch.Tensor, saved: tuple, batch: Batch, input_needed: bool, into: list[torch.Tensor] | None = None
    ):
        """Gradient of the layer's input (None unless needed) and of parameters(), from that of its output h + y.

        into: where the latter are written, in their order; None for new tensors. Overwrites what is saved.
        """
        places, taken = [], 0
        for group in self.groups:
            count = 2 * sum(rank > 0 for rank in group.ranks)
            places.append(None if into is None else into[taken : taken + count])
            taken += count
        qkv_group, o_group, gate_up_group, down_group = self.groups
        h, first_scale, low_qkv, qkv, out, kept, low_o, middle, second_scale, low_gate_up, gate_up, low_down = saved
        within = self._adds_inside(down_group) and (batch.seed is None or not down_group.dropout)
        dact, upstream = self._linear_backward(down_group, dh, low_down, batch, add=not within)
        self.steps.swiglu_backward_(
            dact,
            gate_up,
            *self._inside(gate_up_group, low_gate_up),
            *((upstream[0], down_group.a, down_group.rank) if within else (None, None, 0)),
        )  # gate_up is now its gradient, dact is silu * up again
        down = self._adapter_gradients(down_group, dact, upstream, batch, places[3])
        del dact
        dx, upstream = self._linear_backward(gate_up_group, gate_up, low_gate_up, batch)
        dh, x = self.steps.norm_backward(dx, middle, self.norms[1].weight, second_scale, dh)
        wide = self._adapter_gradients(gate_up_group, x, upstream, batch, places[2])
        dout, upstream = self._linear_backward(o_group, dh, low_o, batch)
        o = self._adapter_gradients(o_group, out, upstream, batch, places[1])
        dq, dk, dv = attention.backward(
            dout.view(len(dout), self.heads, self.head_size), *self._split(qkv), kept, batch.segments
        )
        dqkv = self.steps.rope_backward(dq, dk, dv, batch.cos, batch.sin)
        if input_needed:
            dx, upstream = self._linear_backward(qkv_group, dqkv, low_qkv, batch)
            dh, x = self.steps.norm_backward(dx, h, self.norms[0].weight, first_scale, dh)
        else:
            upstream = self._low_backward(qkv_group, dqkv, low_qkv)
            x, dh = self.steps.norm_again(h, self.norms[0].weight, first_scale), None
        return dh, [*self._adapter_gradients(qkv_group, x, upstream, batch, places[0]), *o, *wide, *down]

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heads = (self.heads, self.kv_heads, self.kv_heads)
        parts = qkv.split([count * self.head_size for count in heads], -1)
        return tuple(part.unflatten(-1, (n, self.head_size)) for part, n in zip(parts, heads, strict=True))

    def _adds_inside(self, group: Group) -> bool:
        """Whether the feed-forward steps add this group's adapter, and save a pass over their widest tensors."""
        return 0 < group.width <= WIDEST

    def _inside(self, group: Group, low: torch.Tensor | None) -> tuple:
        return (low, group.b, tuple(group.ranks)) if self._adds_inside(group) else (None, None, (0, 0))

    def _linear(self, group: Group, x: torch.Tensor, batch: Batch, add: bool = True):
        """Output (T, out) and x A^T (T, width), None without adapter. add: the adapter's part is in the output."""
        low = self._low(group, x, batch)
        y = x @ group.weight().T
        if low is not None and add:
            y.addmm_(low, group.b.T)
        return y, low

    def _low(self, group: Group, x: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        """x A^T (T, width), each adapter with a dropout of its own."""
        if not group.rank:
            return None
        if batch.seed is None or not group.dropout:
            return x @ group.a.T
        low = x.new_zeros(len(x), group.width)
        for columns, seed in self._dropped(group, batch):
            low[:, columns] = self.steps.dropout(x, group.dropout, seed) @ group.a[columns].T
        return low

    def _linear_backward(
        self, group: Group, dy: torch.Tensor, low: torch.Tensor | None, batch: Batch, add: bool = True
    ):
        """Gradient of the group's input; and (gradient of low, gradient of b), which the adapters' gradients need."""
        upstream = self._low_backward(group, dy, low)
        dx = dy @ group.weight()
        if upstream is not None and add:
            if batch.seed is None or not group.dropout:
                dx.addmm_(upstream[0], group.a)
            else:
                for columns, seed in self._dropped(group, batch):
                    dx += self.steps.dropout(upstream[0][:, columns] @ group.a[columns], group.dropout, seed)
        return dx, upstream

    def _low_backward(self, group: Group, dy: torch.Tensor, low: torch.Tensor | None):
        if low is None:
            return None
        return dy @ group.b, _product(dy.T, low)

    def _adapter_gradients(
        self, group: Group, x: torch.Tensor, upstream: tuple | None, batch: Batch, into: list[torch.Tensor] | None
    ) -> list[torch.Tensor]:
        if upstream is None:
            return []
        dlow, db = upstream
        if batch.seed is None or not group.dropout:
            da = _product(dlow.T, x)
        else:
            da = torch.zeros(group.width, group.in_size, device=x.device, dtype=torch.float32)
            for columns, seed in self._dropped(group, batch):
                da[columns] = _product(dlow[:, columns].T, self.steps.dropout(x, group.dropout, seed))
        return group.gradients(da, db, into)

    def _dropped(self, group: Group, batch: Batch):
        """(columns of low, seed) of each adapter: peft draws a mask for each, so q, k and v see different inputs."""
        column = 0
        for number, rank in enumerate(group.ranks):
            if rank:
                # a stream of its own for each adapter; tensors, so that a recorded graph draws anew every step
                stream = 16 * self.index + 4 * self.groups.index(group) + number
                yield slice(column, column + rank), batch.seed + 1_000_003 * stream
                column += rank


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right in fp32, as gradients of fp32 weights are."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()


class Run(torch.autograd.Function):
    """A layer in autograd: (h, y, layer, batch, *parameters) to (h, y). Their sum is the hidden state, so their
    gradients are one and the same."""

    @staticmethod
    def forward(ctx, h, y, layer: Layer, batch: Batch, *parameters):
        ctx.layer, ctx.batch = layer, batch
        ctx.input_needed = ctx.needs_input_grad[0]
        ctx.no_y = y is None
        if layer.recompute:
            middle, out, _ = layer.forward(h, y, batch, keep=False)
            kept = h if y is None else h + y
            ctx.saved = layer.store.put(layer.index, kept) if layer.store else kept
        else:
            middle, out, ctx.saved = layer.forward(h, y, batch, keep=True)
            # detached: an output kept on its own node would be a cycle, and memory would wait for the collector
            ctx.saved = tuple(x.detach() if x is middle else x for x in ctx.saved)
        return middle, out

    @staticmethod
    def backward(ctx, dh, dy):
        layer, saved, ctx.saved = ctx.layer, ctx.saved, None
        if saved is None:
            raise RuntimeError("the backward of a fused layer runs once; its activations are overwritten by it")
        if layer.recompute:
            h = layer.store.get(saved) if layer.store else saved
            saved = layer.forward(h, None, ctx.batch, keep=True, again=True)[2]
        dh, grads = layer.backward(dh.contiguous(), saved, ctx.batch, ctx.input_needed)
        return dh, None if ctx.no_y else dh, None, None, *grads
