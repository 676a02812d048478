"""All layers of a step as two CUDA graphs, forward and backward.

A layer is some twenty launches forward and forty back. A host that needs 2.5 ms for each keeps an H100 waiting, which
is done with a layer in 1.7 ms and 2.5 ms.

A graph has fixed shapes, so that rows are filled up to a multiple of 64 tokens with a sample of their own that no label
and no gradient touches, about 1 % of 2,400 tokens. There is a pair of graphs a length, made when the length first
comes; all share one pool of memory, since no two are in flight at once.
"""

import gc
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import torch

from medtune.engine.fused.attention import Segments
from medtune.engine.fused.layer import Batch
from medtune.engine.memory import GRAPHED_LENGTHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from medtune.engine.fused.weights import Adapters

T = TypeVar("T")

STEP = 64  # tokens between two lengths
SAMPLES = 16  # samples between two sizes of the table of boundaries
REACH = 256  # tokens between two longest samples


class Graphs:
    """Graphs of all lengths that have come; gradients land in one flat fp32 buffer in the order of the parameters."""

    def __init__(self, layers: list, adapters: "Adapters", tokens: int):
        self.layers = layers
        self.tokens = tokens  # of the longest step to expect
        self.streams: list[torch.Tensor] = []  # what goes in, comes out, and the gradient of that: for all lengths
        self.parameters = adapters.parameters
        device = self.parameters[0].device
        self.flat = torch.zeros(sum(p.numel() for p in self.parameters), device=device, dtype=torch.float32)
        self.sizes = [p.numel() for p in self.parameters]
        self.shapes = [p.shape for p in self.parameters]
        pieces = [piece.view(s) for piece, s in zip(self.flat.split(self.sizes), self.shapes, strict=True)]
        self.places, taken = [], 0
        for layer in layers:
            count = len(layer.parameters())
            self.places.append(pieces[taken : taken + count])
            taken += count
        self.pool = torch.cuda.graph_pool_handle()  # one for all: no two lengths are in flight at once
        self.stream = torch.cuda.Stream(device)  # one for all: memory is used again on the stream that had it
        self.made: dict[tuple, Pair] = {}
        self.flights = 0  # forward passes so far; the activations are those of the last one

    def pair(self, h: torch.Tensor, batch: Batch) -> "Pair":
        tokens = -(-len(h) // STEP) * STEP
        samples = -(-len(batch.segments.starts) // SAMPLES) * SAMPLES
        longest = -(-max(batch.segments.longest, STEP) // REACH) * REACH
        key = (tokens, samples, longest, batch.seed is not None)
        if not self.made:
            # The longest first: a pool of graphs grows by whole tensors, and shorter ones fit into those that are free
            most = max(tokens, -(-self.tokens // STEP) * STEP)
            self.streams = [h.new_zeros(most, h.shape[1]) for _ in range(3)]
            self.made[(most, *key[1:])] = Pair(self, (most, *key[1:]), h, batch)
        if key not in self.made and len(self.made) >= GRAPHED_LENGTHS:
            # Each pair costs the driver some memory: a rare length takes the next longer one that is there
            longer = [made for made in self.made if all(a >= b for a, b in zip(made[:3], key[:3], strict=True))]
            key = min((made for made in longer if made[3] == key[3]), default=key)
        if key not in self.made:
            self.made[key] = Pair(self, key, h, batch)
        return self.made[key]

    def record(self, graph: torch.cuda.CUDAGraph, run: "Callable[[], T]") -> "T":
        """What run() gives, and its launches in the graph. Not by torch.cuda.graph: that collects garbage each time."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # while a graph is recorded, the allocator cannot give back what it holds
        self.stream.wait_stream(torch.cuda.current_stream())
        collecting = gc.isenabled()
        gc.disable()  # a tensor that dies meanwhile would free memory in the middle of the recording
        try:
            with torch.cuda.stream(self.stream):
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    result = run()
                except BaseException:
                    with suppress(RuntimeError):  # the recording is broken; what broke it is the error to tell
                        graph.capture_end()
                    raise
                graph.capture_end()
        finally:
            if collecting:
                gc.enable()
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def rows(self, tokens: int, like: torch.Tensor) -> list[torch.Tensor]:
        """The first `tokens` rows of input, output and its gradient. Longer ones than expected get new memory."""
        if len(self.streams[0]) < tokens:
            self.streams = [like.new_zeros(tokens, like.shape[1]) for _ in range(3)]
        return [stream[:tokens] for stream in self.streams]

    def gradients(self) -> list[torch.Tensor]:
        """Fresh tensors, one a parameter: autograd keeps what it gets, and the next step writes into flat again."""
        parts = self.flat.clone().split(self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


class Pair:
    """Forward and backward of one length, recorded."""

    def __init__(self, graphs: Graphs, key: tuple, h: torch.Tensor, batch: Batch):
        tokens, samples, longest, dropping = key
        device = h.device
        self.graphs = graphs
        self.h, self.out, self.dout = graphs.rows(tokens, h)
        cos, sin = (torch.zeros(tokens, x.shape[1], device=device, dtype=x.dtype) for x in (batch.cos, batch.sin))
        starts = torch.zeros(samples + 1, device=device, dtype=torch.int32)
        seed = torch.zeros(1, device=device, dtype=torch.int32) if dropping else None
        self.batch = Batch(cos, sin, Segments(starts, (), longest), seed)
        self._fill(h, batch)
        if not graphs.made:  # kernels are compiled and libraries loaded before anything is recorded
            self._backward(self._forward())
            gc.collect()
            torch.cuda.empty_cache()  # what that run took is not the pool's
        self.forward_graph, self.backward_graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        saved = graphs.record(self.forward_graph, self._forward)
        graphs.record(self.backward_graph, lambda: self._backward(saved))

    def forward(self, h: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The last layer's hidden state (T, D)."""
        self._fill(h, batch)
        self.forward_graph.replay()
        return self.out[: len(h)].clone()

    def backward(self, dout: torch.Tensor) -> None:
        """Gradients into graphs.flat, from that of the hidden state (T, D)."""
        self.dout[: len(dout)].copy_(dout)
        self.dout[len(dout) :].zero_()
        self.backward_graph.replay()

    def _fill(self, h: torch.Tensor, batch: Batch) -> None:
        tokens = len(h)
        for to, x in ((self.h, h), (self.batch.cos, batch.cos), (self.batch.sin, batch.sin)):
            to[:tokens].copy_(x)
        self.h[tokens:].zero_()
        starts = self.batch.segments.starts
        starts.fill_(len(self.h))  # the filling is one more sample, and those after it are empty
        starts[: len(batch.segments.starts)].copy_(batch.segments.starts)
        if batch.seed is not None:
            self.batch.seed.copy_(batch.seed)

    def _forward(self):
        h, y, kept = self.h, None, []
        for layer in self.graphs.layers:
            before = h, y
            h, y, saved = layer.forward(h, y, self.batch, keep=not layer.recompute)
            kept.append(_sum(*before) if layer.recompute else saved)
        torch.add(h, y, out=self.out)
        return kept

    def _backward(self, kept: list) -> None:
        dh = self.dout
        for layer, place in zip(reversed(self.graphs.layers), reversed(self.graphs.places), strict=True):
            saved = kept.pop()
            if layer.recompute:
                saved = layer.forward(saved, None, self.batch, keep=True, again=True)[2]
            dh, _ = layer.backward(dh, saved, self.batch, input_needed=layer.index > 0, into=place)
            del saved


class Stack(torch.autograd.Function):
    """All layers in autograd: (h, batch, graphs, *parameters) to the hidden state."""

    @staticmethod
    def forward(ctx, h, batch: Batch, graphs: Graphs, *parameters):
        ctx.graphs, ctx.pair = graphs, graphs.pair(h, batch)
        out = ctx.pair.forward(h, batch)
        graphs.flights += 1
        ctx.flight = graphs.flights
        return out

    @staticmethod
    def backward(ctx, dout):
        if ctx.flight != ctx.graphs.flights:
            raise RuntimeError("another forward pass has overwritten the activations of this one: backward comes first")
        ctx.pair.backward(dout)
        return None, None, None, *ctx.graphs.gradients()


def _sum(h: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    return h if y is None else h + y
