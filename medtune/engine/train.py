"""Training: an NF4 (or plain) base, a LoRA adapter, trl's SFTTrainer as the loop.

The same seed on the same machine gives the same adapter, to the bit on a CPU, whether or not it was killed on the way.
"""

import json
import platform
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.engine.batching import PaddingCollator
from medtune.engine.checkpoint import (
    done_figures,
    is_finished,
    last_checkpoint,
    mark_complete,
    mark_done,
    prune_done,
)
from medtune.engine.device import pick_device, pick_dtype
from medtune.engine.fit import check_settings
from medtune.engine.load import load_model, load_tokenizer, vocabulary_fits
from medtune.engine.lora import attach, save_adapter
from medtune.engine.preflight import check_batches, check_space
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def run(job: Job, callbacks: "Sequence[TrainerCallback]" = ()) -> dict:
    """Train the job's adapter into job.out, which appears whole or not at all. Returns the figures of the run.

    Goes on from the last complete checkpoint of the same candidate. Raises EngineError before any work where the
    recipe does not fit the machine, the base or the data.
    """
    from datasets import load_from_disk

    started = time.perf_counter()
    train = job.train
    device = pick_device(train.device)
    dtype = pick_dtype(train.dtype, device)
    splits = {name: load_from_disk(job.tokens / name) for name in ("train", "validation")}
    if not len(splits["train"]):
        raise EngineError("the train split is empty; lower validate.split.validation and validate.split.test")
    if train.eval_steps and not len(splits["validation"]):
        raise EngineError("train.eval_steps asks for a validation loss, but no row fell into validation; add rows or "
                          "raise validate.split.validation, or set eval_steps: null")  # fmt: skip
    tokenizer = load_tokenizer(job.base)
    collator = PaddingCollator(tokenizer.pad_token_id)
    from transformers import AutoConfig

    longest = max(len(ids) for split in splits.values() for ids in split["input_ids"])
    check_settings(train, longest, AutoConfig.from_pretrained(job.base, local_files_only=True))
    for split in splits.values():
        check_batches(split, collator, train.batch_size)

    print(f"loading {job.sidecar['base']['id']} ({job.quantization['quantization']}) on {device}, computing in {dtype}")
    model = load_model(job.base, **job.quantization, device=device, dtype=dtype)
    vocabulary_fits(model, tokenizer)
    model = attach(model, job.lora, train.seed)
    trainable, total = model.get_nb_trainable_parameters()
    print(f"trainable parameters: {trainable:,} of {total:,} ({trainable / total:.3%})")
    # An adapter, two Adam moments and their scales, three times (two checkpoints are kept and one is being written)
    folder = job.checkpoints / job.sidecar["candidate"]
    check_space(folder, 3 * trainable * 12, "checkpoints")

    from medtune.engine.telemetry import Progress

    progress = Progress()
    trainer = _trainer(model, tokenizer, collator, splits, train, folder, device, dtype, [progress, *callbacks])
    resumed = last_checkpoint(folder)
    if resumed:
        print(f"going on from {resumed.name}")
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    if resumed and is_finished(resumed):
        print("this candidate is trained to the end already; its adapter is taken from there")
        _restore(trainer, resumed, train.keep)
    else:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)

    building = job.out.with_name(job.out.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    save_adapter(trainer.model, building, job.sidecar)
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
        "trainable_parameters": trainable,
        "total_parameters": total,
        **measured,
    }
    mark_done(folder, figures)
    prune_done(job.checkpoints, job.sidecar["candidate"])
    return figures


def _restore(trainer: "SFTTrainer", last: Path, keep: str) -> None:
    """State and adapter weights of a finished run: those of its last checkpoint, or of its best where that is kept."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    # by name: the recorded path is that of the checkout where it was trained
    kept = last.with_name(f"checkpoint-{trainer.state.best_global_step}") if keep == "best" else last
    set_peft_model_state_dict(trainer.model, load_file(kept / "adapter_model.safetensors"))


def _trainer(model, tokenizer, collator, splits, train, folder, device, dtype, callbacks) -> "SFTTrainer":
    import torch
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback
    from trl import SFTConfig, SFTTrainer

    evaluating = bool(train.eval_steps)
    config = SFTConfig(
        output_dir=str(folder),
        seed=train.seed,
        data_seed=train.seed,
        use_cpu=device.type == "cpu",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        max_steps=train.max_steps or -1,
        num_train_epochs=train.epochs or 1,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.scheduler,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        activation_checkpointing=train.activation_checkpointing,
        logging_steps=train.logging_steps,
        logging_nan_inf_filter=False,  # a NaN must be seen, not replaced by the last good loss
        eval_strategy="steps" if evaluating else "no",
        eval_steps=train.eval_steps,
        save_strategy="steps",
        save_steps=train.save_steps,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,  # patience goes on counting where it was
        load_best_model_at_end=train.keep == "best",
        metric_for_best_model="eval_loss" if evaluating else None,
        greater_is_better=False if evaluating else None,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},  # rows are tokenized and labelled already
        max_length=None,
        report_to=[],
        disable_tqdm=True,
    )
    extra = [EarlyStoppingCallback(train.early_stopping_patience)] if train.early_stopping_patience else []
    trainer = SFTTrainer(
        model=model,
        args=config,
        data_collator=collator,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"] if evaluating else None,
        processing_class=tokenizer,
        callbacks=[_mark_checkpoints(), *extra, *callbacks],
    )
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)  # ours prints
    if dtype != torch.bfloat16:
        # trl casts the adapter of a quantised model to bf16. A CPU computes twice as fast in fp32, and more exactly; on
        # a GPU without bf16 the gradient scaler wants fp32 weights
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
    return trainer


def _mark_checkpoints() -> "TrainerCallback":
    from transformers import TrainerCallback

    class MarkCheckpoints(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return MarkCheckpoints()


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
