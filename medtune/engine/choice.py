"""What of a recipe's `auto` is chosen for this machine: residency of the base, recomputation, offload, micro-batches.

    chosen = choose(config, lora, train, base, longest_step(lengths, samples), limit_bytes(device, train))
    print(chosen.reason)

Fastest first: a base resident in 16 bit where everything fits beside it; NF4; NF4 with as many layers recomputed as
memory asks; all of them with their inputs on the host; and then the step in micro-batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from medtune.engine.memory import CONTEXT, GIB, Estimate, estimate, fused
from medtune.engine.shapes import Shape, read_shape
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from medtune.params.base import Base
    from medtune.params.lora import Lora
    from medtune.params.train import Train

SLACK = 0.04  # of the memory: what the allocator holds in pieces too small for the next tensor


@dataclass(frozen=True)
class Choice:
    """How a recipe runs here. split: micro-batches of an optimizer step; reason: a sentence for the log."""

    residency: str  # "nf4" or "bf16"
    recomputed_layers: int
    offload_inputs: bool
    split: int
    reason: str
    estimate: Estimate
    limit: int


def longest_step(lengths: Sequence[int], samples: int, padded: bool = False) -> int:
    """The most positions that a batch of so many samples can have: all of its longest samples at once.

    padded: each row as long as the longest, as the reference engine computes it.
    """
    if not len(lengths):
        return 0
    largest = nlargest(min(samples, len(lengths)), lengths)
    return samples * largest[0] if padded else sum(largest)


def likely_longest_step(lengths: Sequence[int], samples: int, draws: int = 50_000) -> int:
    """The most positions in so many steps drawn at random, packed: what a run of some thousand steps stays below.

    The sum of the longest samples is a bound that no shuffled run meets: of 300 tokens a sample and 512 at most, eight
    make 2,400 on average, 3,500 at the worst in 50,000 steps, and 4,096 by that bound. Drawn from a seed of its own.
    """
    if not len(lengths) or samples >= len(lengths):
        return longest_step(lengths, samples)
    drawn = Random(0).choices(lengths, k=samples * draws)
    return min(max(map(sum, zip(*[iter(drawn)] * samples, strict=True))), longest_step(lengths, samples))


def limit_bytes(device: "torch.device", train: "Train") -> int:
    """Memory that training may use: what is free on the device, or train.memory_limit_gib where that is less."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # asking has made the context, which the estimate counts
        free += CONTEXT + torch.cuda.memory_reserved(device)
    else:
        free = available_ram()
    return min(free, int(train.memory_limit_gib * GIB)) if train.memory_limit_gib else free


def available_ram(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that the kernel would give a new process; physical memory where it does not tell."""
    import os

    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def choose(
    config: "PretrainedConfig | Shape",
    lora: "Lora",
    train: "Train",
    base: "Base",
    tokens: int,
    limit: int,
    *,
    lengths: Sequence[int] | None = None,
    longest: int | None = None,
    cuda: bool = True,
    shards: int = 1,
) -> Choice:
    """The fastest way that fits `limit` bytes. Raises EngineError with the mend where none does.

    tokens: positions of the largest step (reference engine: of its largest batch). lengths: the samples' lengths, where
    known: then micro-batches are counted exactly. longest: the longest sample. What the recipe fixes is kept.
    """
    shape = config if isinstance(config, Shape) else read_shape(config)
    samples = train.batch_size * train.gradient_accumulation
    longest = longest or (max(lengths) if lengths is not None and len(lengths) else -(-tokens // samples))
    room = int(limit * (1 - SLACK))
    best = None
    for residency, recomputed, offload, split in _ways(shape, train, base, samples, cuda):
        part = tokens
        if split > 1:
            part = longest_step(lengths, -(-samples // split)) if lengths is not None else -(-tokens // split)
            part = max(part, longest)
        found = estimate(
            shape, lora, train, base, part, longest,
            residency=residency, recomputed=recomputed, offload=offload, cuda=cuda, shards=shards,
        )  # fmt: skip
        chosen = Choice(residency, recomputed, offload, split, "", found, limit)
        if found.total <= room:
            return replace(chosen, reason=_reason(chosen, shape, train, base, cuda))
        best = chosen if best is None or found.total < best.estimate.total else best
    raise EngineError(_does_not_fit(best, shape, train, base, longest, cuda))


def _ways(shape: Shape, train: "Train", base: "Base", samples: int, cuda: bool) -> Iterator[tuple[str, int, bool, int]]:
    """(residency, recomputed layers, offload, micro-batches), fastest first."""
    every = shape.layers
    wanted = train.activation_checkpointing
    if not fused(shape, train):
        kept = "nf4" if base.quantization == "nf4" else "bf16"
        if wanted is not True:
            yield kept, 0, False, 1
        if wanted is not False:
            yield kept, every, False, 1
        return
    residencies = ["bf16", "nf4"] if train.base_residency == "auto" else [train.base_residency]
    if base.quantization == "none":
        residencies = ["bf16"]
    least = every if wanted is True else 0
    if len(residencies) > 1:
        yield residencies[0], least, False, 1
    last = residencies[-1]
    most = 0 if wanted is False else every
    for layers in range(least, most + 1):
        yield last, layers, False, 1
    if cuda and most:
        yield last, every, True, 1
    for split in _splits(samples):
        yield last, most, bool(cuda and most), split


def _splits(samples: int) -> list[int]:
    """Counts of equal micro-batches: with unequal ones a step would hold more samples than the recipe says."""
    return [split for split in range(2, samples + 1) if samples % split == 0]


def _reason(chosen: Choice, shape: Shape, train: "Train", base: "Base", cuda: bool) -> str:
    weights = "base in NF4" if chosen.residency == "nf4" else f"base resident in {'16' if cuda else '32'} bit"
    if chosen.recomputed_layers == 0:
        layers = "no layer recomputed"
    elif chosen.recomputed_layers == shape.layers:
        layers = "all layers recomputed"
    else:
        layers = f"{chosen.recomputed_layers} of {shape.layers} layers recomputed"
    parts = [weights, layers]
    if chosen.offload_inputs:
        parts.append("their inputs on the host")
    if chosen.split > 1:
        parts.append(f"each step in {chosen.split} micro-batches")
    found = chosen.estimate
    said = (
        f"memory: {', '.join(parts)}: {found.total / GIB:.1f} of {chosen.limit / GIB:.1f} GiB at the longest step "
        f"({found.tokens} tokens)"
    )
    resident_asked = base.quantization == "nf4" and train.base_residency == "auto" and fused(shape, train)
    if resident_asked and chosen.residency == "nf4":
        more = (2 if cuda else 4) * shape.quantised - found.weights
        said += f"; the base in {'16' if cuda else '32'} bit would take {more / GIB:.1f} GiB more"
    return said


def _does_not_fit(least: Choice, shape: Shape, train: "Train", base: "Base", longest: int, cuda: bool) -> str:
    need = least.estimate.total / (1 - SLACK) / GIB
    return (
        f"this recipe needs at least {need:.1f} GiB for its longest step ({least.estimate.tokens} tokens at once) and "
        f"{'the GPU' if cuda else 'this machine'} has {least.limit / GIB:.1f}: "
        f"{', or '.join(mends(least, shape, train, base, longest))}; `medtune plan` shows what fits"
    )


def mends(chosen: Choice, shape: Shape, train: "Train", base: "Base", longest: int) -> list[str]:
    """What to change in the recipe so that it takes less, most useful first, with the saving where it is known."""
    found, told = chosen.estimate, []
    if train.base_residency == "bf16" and base.quantization == "nf4" and chosen.residency == "bf16":
        told.append("set train.base_residency: auto")
    if chosen.recomputed_layers < shape.layers:
        spared = found.activations - shape.layers * 2 * shape.hidden * found.tokens
        told.append(f"set train.activation_checkpointing: true (up to {max(spared, 0) / GIB:.1f} GiB less)")
    if base.quantization == "none":
        told.append(f"set base.quantization: nf4 (about {1.48 * shape.quantised / GIB:.1f} GiB less)")
    samples = train.batch_size * train.gradient_accumulation
    if not fused(shape, train) and train.batch_size > 1:
        told.append(
            f"lower train.batch_size from {train.batch_size} to {train.batch_size // 2} and raise "
            "train.gradient_accumulation likewise (the same learning)"
        )
    elif train.batch_size > 1 and chosen.split < samples and chosen.recomputed_layers == shape.layers:
        told.append(f"lower train.batch_size from {train.batch_size}")
    if longest > 64:
        told.append(f"lower tokenize.max_length (the longest sample has {longest} tokens)")
    if train.sharding == "none" and found.weights > chosen.limit / 2:
        told.append("take a smaller base, or several GPUs with train.sharding: fsdp")
    return told or ["take a smaller base"]


def is_oom(error: BaseException) -> bool:
    """Whether an error is that of memory that ran out, on a GPU or a CPU."""
    import torch

    text = str(error).lower()
    mine = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(mark in text for mark in ("out of memory", "can't allocate memory"))
    )
    return mine or (error.__context__ is not None and is_oom(error.__context__))


def explain_oom(
    error: BaseException, chosen: Choice, config: "PretrainedConfig | Shape", train: "Train", base: "Base",
    longest: int,
) -> EngineError:  # fmt: skip
    """The sentence for a training that ran out of memory although it was chosen to fit: what it had, what to change."""
    import torch

    shape = config if isinstance(config, Shape) else read_shape(config)
    held = ""
    if torch.cuda.is_available() and isinstance(error, torch.OutOfMemoryError):
        free, whole = torch.cuda.mem_get_info()
        mine = torch.cuda.max_memory_allocated()
        others = max(whole - free - torch.cuda.memory_reserved() - CONTEXT, 0)
        held = f" (training held {mine / GIB:.1f} GiB of {whole / GIB:.1f}"
        held += f", other programs {others / GIB:.1f})" if others > GIB // 2 else ")"
    need = chosen.estimate.total / GIB
    told = mends(chosen, shape, train, base, longest)
    if chosen.recomputed_layers < shape.layers:  # there is something left that a smaller limit makes it do
        told = [
            f"set train.memory_limit_gib: {0.85 * chosen.limit / GIB:.1f}, which chooses as if it had so much",
            *told,
        ]
    return EngineError(
        f"out of memory{held}; {need:.1f} GiB were estimated for the longest step ({chosen.estimate.tokens} tokens): "
        f"{', or '.join(told)}"
    )
