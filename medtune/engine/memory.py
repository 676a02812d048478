"""How much memory training takes, by arithmetic: before a weight is loaded, and when there was not enough.

    shape = read_shape(config)
    estimate(shape, lora, train, base, tokens=2560, longest=512).peak / GIB

Counts what torch's allocator holds at its fullest. Checked against real tensors: weights and optimizer to the byte,
activations against what autograd keeps, peaks on a GPU within 15%.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medtune.engine.shapes import Linear, Shape

if TYPE_CHECKING:
    from medtune.params.base import Base
    from medtune.params.lora import Lora
    from medtune.params.train import Train

GIB = 2**30
CONTEXT = GIB // 2  # CUDA's context and the libraries' kernels: outside torch's allocator
WORKSPACE = 64 * 2**20  # cuBLAS, and tensors too small to be worth a line here
PROCESS = 3 * GIB // 2  # python, torch and the libraries on a CPU, where there is no allocator to ask

BLOCK, NESTED_BLOCK = 64, 256  # bitsandbytes: weights that share a scale, scales that share a scale of scales
PAGED_FROM = 100_000  # bitsandbytes pages the optimizer state of larger tensors only
EIGHT_BIT_FROM = 4096  # and keeps that of smaller ones in fp32
HEAD_TOKENS, HEAD_WORDS = 4096, 32768  # trl's tile of logits (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
GRAPHED_LENGTHS = 24  # lengths of a step that are recorded as CUDA graphs at most; others take the next longer one
GRAPH_BYTES = 700_000  # of the driver, a layer of one length: 0.6 GiB for 18 lengths of 48 layers on an H100
RANK_ROUND = 16  # the fused layers pad a group's rank to this


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device when it is fullest. tokens: what one pass computes, padding counted."""

    weights: int
    adapters: int  # fp32 weights, their copies in the compute precision, and gradients
    optimizer: int
    paged: int  # optimizer state in managed memory: not torch's, but it needs its room
    activations: int  # kept for backward
    transient: int  # of the layer, or the head, that is at work; and dequantised weights
    fixed: int  # workspace, and what CUDA graphs hold for good
    outside: int  # CUDA's context; and the head's work, which a graph's pool of memory cannot lend its room to
    per_token: int  # activations of one token, all layers
    tokens: int

    @property
    def peak(self) -> int:
        """What torch.cuda.max_memory_allocated would tell."""
        return self.weights + self.adapters + self.optimizer + self.activations + self.transient + self.fixed

    @property
    def total(self) -> int:
        """What the device must have."""
        return self.peak + self.paged + self.outside


def estimate(
    shape: Shape,
    lora: "Lora",
    train: "Train",
    base: "Base",
    tokens: int,
    longest: int,
    *,
    residency: str = "nf4",
    recomputed: int = 0,
    offload: bool = False,
    targets: int | None = None,
    cuda: bool = True,
    shards: int = 1,
) -> Estimate:
    """The memory of one training step.

    tokens: positions of the largest pass (for the reference engine: batch x longest row). longest: the longest sample.
    residency: "nf4" or "bf16", of a base whose quantization is nf4. recomputed: layers whose activations are made again
    in backward. offload: their inputs wait on the host. targets: positions with a label (all, where not known).
    shards: GPUs over which the base is sharded (FSDP).
    """
    unit = 2 if cuda else 4
    fast = fused(shape, train) and shards == 1
    packed = base.quantization == "nf4" and not (fast and residency == "bf16")
    layer = nf4_bytes(shape.linears, base.double_quant) if packed else unit * shape.quantised // shape.layers
    gathered = 0
    weights = shape.layers * layer + unit * shape.plain
    if shards > 1:  # a layer and the next one that is fetched, and the larger of embedding and head, whole
        gathered = 2 * layer + unit * max(shape.embedding, shape.head)
        weights //= shards
    per_layer = (fast_activations if fast else reference_activations)(shape, lora, base, longest, unit)
    entry = unit * shape.hidden  # a layer's input
    moved = recomputed if offload else 0
    kept = (shape.layers - recomputed) * per_layer + (recomputed - moved) * entry
    held = 3 * entry * (2 if moved else 1)  # the streams between layers; inputs on their way in and out
    work = _layer_work(shape, fast, unit) + held
    fullest = max(
        (kept * tokens, _head_work(shape, tokens, targets, unit, cuda) + held * tokens),
        # backward begins with the last layer, which is recomputed only if all are
        (kept * tokens, (work + (per_layer if recomputed == shape.layers else 0)) * tokens),
        # and ends with those that are: by then the others' activations are gone
        ((recomputed - moved) * entry * tokens, (work + per_layer) * tokens if recomputed else 0),
        key=sum,
    )
    scratch = 0
    if packed:
        groups = [[shape.largest]]
        if fast:
            groups = [[linear.weights for linear in shape.linears if linear.name in names] for names in GROUPS]
        largest = max(map(sum, groups))
        scratch = unit * largest + 4 * largest // BLOCK  # and its scales in fp32
    if lora.variant == "dora":  # the norm of W + BA, column by column, from both in whole
        scratch += 2 * 4 * shape.largest
    adapter = _adapter(shape, lora, fast, unit)
    state, paged = _optimizer(shape, lora, train, fast, cuda)
    graphed = fast and cuda and not offload
    graphs = 3 * entry * tokens if graphed else 0  # input, output and its gradient, fixed places for all lengths
    head = _head_work(shape, tokens, targets, unit, cuda) if graphed else 0
    recorded = GRAPHED_LENGTHS * shape.layers * GRAPH_BYTES if graphed else 0
    return Estimate(
        weights=weights,
        adapters=adapter // shards,
        optimizer=state // shards,
        paged=paged // shards,
        activations=fullest[0],
        transient=fullest[1] + scratch + gathered,
        fixed=WORKSPACE + graphs if cuda else 0,
        outside=CONTEXT + head + recorded if cuda else PROCESS,
        per_token=kept,
        tokens=tokens,
    )


def fused(shape: Shape, train: "Train") -> bool:
    """Whether the fused layers run: asked for, a Llama, and not sharded. (DoRA has train.engine set to reference.)"""
    return train.engine == "fast" and shape.llama and train.sharding == "none"


def nf4_bytes(linears: tuple[Linear, ...], double_quant: bool) -> int:
    """Bytes of linears as bitsandbytes stores them: words, scales, and the two code books that each carries."""
    total = 0
    for linear in linears:
        blocks = -(-linear.weights // BLOCK)
        total += -(-linear.weights // 2) + 16 * 4
        if double_quant:
            total += blocks + 4 * -(-blocks // NESTED_BLOCK) + 4 + 256 * 4
        else:
            total += 4 * blocks
    return total


def fast_activations(shape: Shape, lora: "Lora", base: "Base", longest: int, unit: int) -> int:
    """Bytes that a fused layer keeps for one token: both residual streams, q k v, attention's output, gate and up."""
    wide = 2 * shape.hidden + 2 * shape.query + 2 * shape.key + 2 * shape.ffn
    low = sum(_widths(shape, lora))
    return unit * (wide + low) + 4 * (shape.heads + 2)  # log-sum-exp of each head, two norms' scales


def reference_activations(shape: Shape, lora: "Lora", base: "Base", longest: int, unit: int) -> int:
    """Bytes that autograd keeps for one token of a layer of transformers' own with peft's adapters.

    Norms keep their input in fp32; attention keeps q, k, v (key heads repeated) and its output; the gate keeps itself,
    its activation and up. A linear with an adapter keeps its input: for an NF4 base the linears that read one tensor
    share it, for a plain one peft casts a copy for each; dropout makes a copy for each too, and keeps its mask.
    """
    adapted = shape.adapted(lora)
    inner = [linear for linear in shape.linears if linear.inputs == shape.ffn]
    kept = 2 * 4 * shape.hidden + 4 * 2  # two norms
    kept += unit * 4 * shape.query  # q, k, v, out
    kept += unit * (3 if len(shape.linears) > 6 else 2) * shape.ffn  # gate, its activation, up
    inputs = sum(linear.inputs for linear in adapted)
    if lora.dropout:
        kept += (unit + (1 if unit == 2 else unit)) * inputs  # a mask of bytes on a GPU, of numbers on a CPU
    elif base.quantization == "nf4" or unit == 4:
        readers = {("ffn" if linear in inner else _reads(linear.name)): linear.inputs for linear in adapted}
        kept += unit * sum(readers.values())
    else:
        kept += unit * inputs
    kept += unit * lora.r * len(adapted)
    if lora.variant == "dora":
        kept += unit * 2 * sum(linear.outputs for linear in adapted)
    # attention by matrix keeps scores and weights of every head against every earlier token
    kept += 0 if shape.flash else shape.heads * longest * (4 + unit)
    return kept + 4 * shape.heads


def _reads(name: str) -> str:
    """Which tensor of a layer a linear reads, by the names of Llama and GPT-Neo; others each count for themselves."""
    if name in ("q_proj", "k_proj", "v_proj"):
        return "attention"
    return "feed-forward" if name in ("gate_proj", "up_proj") else name


def _widths(shape: Shape, lora: "Lora") -> list[int]:
    """The padded rank of each group of the fused layers."""
    names = {linear.name for linear in shape.adapted(lora)}
    ranks = [lora.r * sum(name in names for name in group) for group in GROUPS]
    return [-(-rank // RANK_ROUND) * RANK_ROUND for rank in ranks]


def _layer_work(shape: Shape, fast: bool, unit: int) -> int:
    """Bytes a token that a layer's backward holds at its fullest beside what was kept."""
    attention = unit * (4 * shape.query + 4 * shape.key) + 4 * shape.query  # dout, dq dk dv, joined; dq summed in fp32
    wide = unit * ((shape.ffn + shape.hidden) if fast else 3 * shape.ffn)
    return max(attention, wide) + unit * 2 * shape.hidden


def _head_work(shape: Shape, tokens: int, targets: int | None, unit: int, cuda: bool) -> int:
    """Bytes of the last norm and of trl's fused head: the targets' hidden states, their gradients, a tile of logits."""
    targets = tokens if targets is None else targets
    tile = min(targets, HEAD_TOKENS) * min(shape.vocabulary, HEAD_WORDS)
    norm = tokens * shape.hidden * (4 + 2 * unit)
    states = targets * shape.hidden * (2 * unit + 4)
    # without Triton the tile is folded by torch's operations, in fp32 copies
    return norm + states + tile * (unit if cuda else 3 * unit) + 10 * 4 * targets


def adapter_sizes(shape: Shape, lora: "Lora") -> list[int]:
    """Elements of every adapter weight: A and B of each adapted linear, in all layers; DoRA's magnitudes too."""
    one = []
    for linear in shape.adapted(lora):
        one += [lora.r * linear.inputs, lora.r * linear.outputs]
        one += [linear.outputs] if lora.variant == "dora" else []
    return one * shape.layers


def _adapter(shape: Shape, lora: "Lora", fast: bool, unit: int) -> int:
    count = sum(adapter_sizes(shape, lora))
    if not fast:
        return (4 + 4 + unit) * count  # fp32 weight and gradient, and autocast's copy
    ends = {linear.name: linear for linear in shape.linears}
    padded = sum(
        width * (ends[group[0]].inputs + sum(ends[name].outputs for name in group))
        for width, group in zip(_widths(shape, lora), GROUPS, strict=True)
    )
    # the fused layers copy all adapters into one buffer and from there (by 8-byte places) into padded matrices; their
    # gradients gather in one buffer and are handed on as a copy
    return (4 + 4 + 4 + unit + 8) * count + unit * padded * shape.layers


def _optimizer(shape: Shape, lora: "Lora", train: "Train", fast: bool, cuda: bool) -> tuple[int, int]:
    """(bytes in torch's allocator, bytes in managed memory) of the optimizer's state."""
    sizes = adapter_sizes(shape, lora)
    sizes = [sum(sizes)] if fast else sizes  # the fast engine's optimizer sees one flat weight
    if "8bit" not in train.optimizer:
        return 8 * sum(sizes), 0
    own = paged = 0
    for size in sizes:
        # two moments of a byte each; two scales of a block of 256; two code books are shared
        moments = 2 * size if size >= EIGHT_BIT_FROM else 8 * size
        scales = 2 * 4 * -(-size // 256) if size >= EIGHT_BIT_FROM else 0
        if train.optimizer.startswith("paged") and size >= PAGED_FROM and cuda:
            paged += moments
            own += scales
        else:
            own += moments + scales
    return own, paged
