"""Training: an NF4 (or plain) base, a LoRA adapter, trl's SFTTrainer as the loop.

The same seed on the same machine gives the same adapter, to the bit on a CPU, whether or not it was killed on the way.
"""

import gc
import json
import platform
import resource
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from medtune.engine.batching import PaddingCollator
from medtune.engine.checkpoint import (
    done_figures,
    is_finished,
    last_checkpoint,
    mark_done,
    prune_done,
)
from medtune.engine.choice import (
    Choice,
    choose,
    explain_oom,
    is_oom,
    likely_longest_step,
    limit_bytes,
    longest_step,
)
from medtune.engine.device import pick_dtype, use_expandable_segments
from medtune.engine.fit import check_settings
from medtune.engine.flops import flops_per_token, matmul_ceiling
from medtune.engine.guard import Watched
from medtune.engine.load import load_model, load_tokenizer, vocabulary_fits
from medtune.engine.loop import make_trainer
from medtune.engine.lora import attach, save_adapter
from medtune.engine.memory import fused
from medtune.engine.packing import PackingCollator
from medtune.engine.packs import pack
from medtune.engine.preflight import check_batches, check_space
from medtune.engine.ranks import Ranks, join
from medtune.engine.shapes import read_shape
from medtune.engine.sharded import load_mapped, put_adapter, shard, whole_adapter
from medtune.engine.variants import continue_from
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTTrainer

    from medtune.params.lora import Lora
    from medtune.params.train import Train

# What of a log is the same in every run; speed is not, and would make two equal adapters two versions
HISTORY = ("step", "epoch", "loss", "learning_rate", "grad_norm", "eval_loss", "entropy", "mean_token_accuracy")


@dataclass(frozen=True)
class Job:
    """All that training needs. sidecar goes into the adapter's medtune.json; sidecar["candidate"] names checkpoints."""

    base: Path
    quantization: dict
    tokens: Path
    lora: "Lora"
    train: "Train"
    sidecar: dict
    out: Path
    checkpoints: Path
    init: Path | None = None  # a saved adapter whose weights the training goes on from


def run(job: Job, callbacks: "Sequence[TrainerCallback]" = ()) -> dict:
    """Train the job's adapter into job.out, which appears whole or not at all. Returns the figures of the run.

    Goes on from the last complete checkpoint of the same candidate. Raises EngineError before any work where the
    recipe does not fit the machine, the base or the data. Under torchrun every rank calls it; rank 0 writes.
    """
    import torch
    from transformers import AutoConfig

    from medtune.engine import fast
    from medtune.engine.telemetry import Progress

    started = time.perf_counter()
    train = job.train
    ranks = join(train)
    device = ranks.device
    if device.type == "cuda":
        use_expandable_segments()
    dtype = pick_dtype(train.dtype, device)
    splits = _splits(job)
    tokenizer = load_tokenizer(job.base)
    config = AutoConfig.from_pretrained(job.base, local_files_only=True)
    lengths = [len(ids) for ids in splits["train"]["input_ids"]]
    check_settings(train, max(lengths + [len(ids) for ids in splits["validation"]["input_ids"]]), config)
    way = _way(job, config, splits["train"], ranks)
    print(way.choice.reason)
    ceiling = matmul_ceiling(device, dtype)  # before the weights: it takes some room of its own for a moment

    print(f"loading {job.sidecar['base']['id']} ({job.quantization['quantization']}) on {device}, computing in {dtype}")
    with _memory_told(job, way.choice, config, lengths):
        if ranks.sharded:
            model = load_mapped(job.base, job.sidecar["base"]["fingerprint"], ranks, dtype, **job.quantization)
        else:
            model = load_model(job.base, **job.quantization, device=device, dtype=dtype)
    vocabulary_fits(model, tokenizer)
    model = attach(model, job.lora, train.seed, job.base)
    if job.init:
        continue_from(model, job.init, job.sidecar["base"]["fingerprint"])
    trainable, total = model.get_nb_trainable_parameters()
    print(f"trainable parameters: {trainable:,} of {total:,} ({trainable / total:.3%})")
    if way.fast and (reason := fast.why_not(model, dtype)):
        print(f"the reference engine trains this one: {reason}")
        way = _way(job, config, splits["train"], ranks, reference=True)
        print(way.choice.reason)
    if way.fast:
        with _memory_told(job, way.choice, config, lengths):  # on CUDA it records the longest step
            fast.prepare(model, dtype, way.choice)
    collator = Watched(PackingCollator() if way.fast else PaddingCollator(tokenizer.pad_token_id))
    for split in splits.values():
        check_batches(split, collator.collator, way.batch)
    # An adapter, two Adam moments and their scales, three times (two checkpoints are kept and one is being written)
    folder = job.checkpoints / job.sidecar["candidate"]
    check_space(folder, 3 * trainable * 12, "checkpoints")

    share = way.choice.recomputed_layers / config.num_hidden_layers
    progress = Progress(collator, flops_per_token(read_shape(config).parameters, share), ceiling)
    trainer = make_trainer(
        model, tokenizer, collator, splits, train, folder, ranks, dtype, [progress, *(callbacks if ranks.main else ())],
        batch=way.batch, accumulation=way.accumulation, checkpointing=way.checkpointing,
        mixins=(fast.UnwaitedLoss, fast.FlatOptimizer) if way.fast else (),
    )  # fmt: skip
    if ranks.sharded:
        shard(trainer, ranks, way.checkpointing)
    resumed = ranks.from_main(lambda: last_checkpoint(folder))
    if resumed:
        print(f"going on from {resumed.name}")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if resumed and is_finished(resumed):
        print("this candidate is trained to the end already; its adapter is taken from there")
        _restore(trainer, resumed, train.keep, ranks)
    else:
        # The model and the libraries stay to the end: Python's collector need not walk over them again and again
        gc.collect()
        gc.freeze()
        try:
            with _memory_told(job, way.choice, config, lengths):
                trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        finally:
            gc.unfreeze()

    building = job.out.with_name(job.out.name + ".tmp")
    state = whole_adapter(trainer.model) if ranks.sharded else None
    figures = {}
    if ranks.main:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        save_adapter(trainer.model, building, job.sidecar, state)
        history = [{k: entry[k] for k in HISTORY if k in entry} for entry in trainer.state.log_history]
        history = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
        (building / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
        shutil.rmtree(job.out, ignore_errors=True)
        building.rename(job.out)
        measured = {
            "tokens_per_second": progress.tokens_per_second(),
            "seconds": round(time.perf_counter() - started, 1),
        }
        if progress.tokens_per_second() is None:  # nothing was trained now: speed is that of the run that did
            known = done_figures(folder) or {}
            measured = {key: known.get(key, value) for key, value in measured.items()}
        figures = {
            **_figures(trainer, history, resumed, device, dtype),
            "engine": "fast" if way.fast else "reference",
            "base_residency": way.choice.residency,
            "recomputed_layers": way.choice.recomputed_layers,
            "trainable_parameters": trainable,
            "total_parameters": total,
            **measured,
        }
    figures |= ranks.figures()
    if ranks.main:
        mark_done(folder, figures)
        prune_done(job.checkpoints, job.sidecar["candidate"])
    ranks.leave()
    return figures


@contextmanager
def _memory_told(job: Job, choice: Choice, config, lengths: list[int]) -> "Iterator[None]":
    """Memory that runs out in the block ends it with an EngineError that says what to change."""
    try:
        yield
    except Exception as error:
        if not is_oom(error):
            raise
        base = SimpleNamespace(**job.quantization)
        raise explain_oom(error, choice, config, job.train, base, max(lengths)) from error


@dataclass(frozen=True)
class Way:
    """How the recipe is computed here: engine, samples of a pass, passes of a step, recomputation by torch."""

    fast: bool
    choice: Choice
    batch: int
    accumulation: int
    checkpointing: bool


def _splits(job: Job) -> dict:
    """The splits train and validation; EngineError where one that is needed has no row."""
    from datasets import load_from_disk

    splits = {name: load_from_disk(job.tokens / name) for name in ("train", "validation")}
    if not len(splits["train"]):
        raise EngineError("the train split is empty; lower validate.split.validation and validate.split.test")
    if job.train.eval_steps and not len(splits["validation"]):
        raise EngineError("train.eval_steps asks for a validation loss, but no row fell into validation; add rows or "
                          "raise validate.split.validation, or set eval_steps: null")  # fmt: skip
    if job.train.packing:
        rows = len(splits["train"])
        splits["train"] = pack(splits["train"], job.sidecar["max_length"], job.train.seed)
        print(f"packed {rows} rows into {len(splits['train'])} samples of up to {job.sidecar['max_length']} tokens")
    return splits


def _way(job: Job, config, rows: "Dataset", ranks: Ranks, reference: bool = False) -> Way:
    """The engine, and what of the recipe's `auto` fits this machine. EngineError where nothing does."""
    import torch

    train, device = job.train, ranks.device
    if reference or ranks.sharded or job.lora.variant == "dora":
        train = train.model_copy(update={"engine": "reference", "base_residency": "auto"})
    shape = read_shape(config)
    quick = fused(shape, train)
    if job.train.engine == "fast" and not quick and not reference and not ranks.sharded:
        dora = job.lora.variant == "dora"
        why = "it has no fused DoRA" if dora else f"{config.model_type} has other layers than Llama's, or other biases"
        print(f"the reference engine trains this one: {why}")
    samples = train.batch_size * train.gradient_accumulation
    limit = limit_bytes(device, train)
    if device.type == "cuda" and train.memory_limit_gib:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    lengths = [len(ids) for ids in rows["input_ids"]]
    if quick:
        tokens = likely_longest_step(lengths, samples)
    else:
        passes = train.batch_size
        if "seq_lengths" in rows.column_names:  # it takes bins apart again and pads their rows
            passes *= max(map(len, rows["seq_lengths"]))
            lengths = [length for one in rows["seq_lengths"] for length in one]
        tokens = longest_step(lengths, passes, padded=True)
    choice = choose(
        shape, job.lora, train, SimpleNamespace(**job.quantization), tokens, limit,
        lengths=lengths, longest=max(lengths), cuda=device.type == "cuda", shards=ranks.count,
    )  # fmt: skip
    if quick:
        return Way(True, choice, samples // choice.split, choice.split, False)
    return Way(False, choice, train.batch_size, train.gradient_accumulation, choice.recomputed_layers > 0)


def _restore(trainer: "SFTTrainer", last: Path, keep: str, ranks: Ranks) -> None:
    """State and adapter weights of a finished run: those of its last checkpoint, or of its best where that is kept."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    # by name: the recorded path is that of the checkout where it was trained
    kept = last.with_name(f"checkpoint-{trainer.state.best_global_step}") if keep == "best" else last
    if ranks.sharded:
        put_adapter(trainer.model, kept)
    else:
        set_peft_model_state_dict(trainer.model, load_file(kept / "adapter_model.safetensors"))


def _figures(trainer, history, resumed, device, dtype) -> dict:
    import torch

    losses = [entry["loss"] for entry in history if "loss" in entry]
    validation = [(entry["eval_loss"], entry["step"]) for entry in history if "eval_loss" in entry]
    best = min(validation, default=(None, None))
    kept = best if trainer.args.load_best_model_at_end else (validation[-1] if validation else (None, None))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_rss()
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "resumed_from_step": int(resumed.name.rsplit("-", 1)[1]) if resumed else None,
        "train_loss": sum(losses[-5:]) / len(losses[-5:]) if losses else None,
        "first_loss": losses[0] if losses else None,
        "validation_loss": kept[0],
        "best_validation_loss": best[0],
        "kept_step": kept[1] if trainer.args.load_best_model_at_end else trainer.state.global_step,
        "peak_memory_bytes": peak,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        "dtype": str(dtype).removeprefix("torch."),
    }


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
