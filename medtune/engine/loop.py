"""trl's SFTTrainer as our loop: its settings from the recipe, and what is added to it for both engines."""

from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED
from medtune.engine.checkpoint import mark_complete
from medtune.engine.guard import Guarded
from medtune.engine.lora import fp32_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback
    from trl import SFTTrainer

    from medtune.engine.ranks import Ranks
    from medtune.params.train import Train


class ExactValidation:
    """Mixin before trl's SFTTrainer: the validation loss is the mean over target tokens, however rows were batched.

    The Trainer takes the mean of its batches' means, which moves with the batch size and with the engine. Over several
    ranks, rows that fill up the last batch count twice, as they do in the Trainer.
    """

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        targets = (inputs["labels"][..., 1:] != IGNORED).sum().to(loss.device)
        self._validated.append((loss.detach().double() * targets, targets))
        return loss, logits, labels

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        import torch

        self._validated: list[tuple[torch.Tensor, torch.Tensor]] = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._validated:
            sums = torch.stack([torch.stack([loss, n.double()]) for loss, n in self._validated]).sum(0)
            loss, targets = self.accelerator.reduce(sums, "sum").tolist()
            output.metrics[f"{metric_key_prefix}_loss"] = loss / max(targets, 1)
        return output


def make_trainer(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    collator: "Callable[[list[dict]], dict]",
    splits: "dict[str, Dataset]",
    train: "Train",
    folder: Path,
    ranks: "Ranks",
    dtype: "torch.dtype",
    callbacks: "Sequence[TrainerCallback]",
    *,
    batch: int,
    accumulation: int,
    checkpointing: bool,
    mixins: tuple[type, ...] = (),
) -> "SFTTrainer":
    """The trainer, ready for train(). batch: samples of one pass on one device; accumulation: passes of a step."""
    import torch
    from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback
    from trl import SFTConfig

    from medtune.engine.sharded import trainer_class

    evaluating = bool(train.eval_steps)
    config = SFTConfig(
        output_dir=str(folder),
        seed=train.seed,
        data_seed=train.seed,
        use_cpu=ranks.device.type == "cpu",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=train.max_steps or -1,
        num_train_epochs=train.epochs or 1,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.scheduler,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
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
        dataloader_pin_memory=ranks.device.type == "cuda",
        # batches are copied while the GPU still computes; by default each copy waits for all that is queued
        accelerator_config={"non_blocking": ranks.device.type == "cuda"},
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},  # rows are tokenized and labelled already
        max_length=None,
        report_to=[],
        disable_tqdm=True,
    )
    cls = type("Trainer", (Guarded, ExactValidation, *mixins, trainer_class(ranks)), {})
    if checkpointing and not ranks.sharded:  # a sharded model has it from shard()
        # here, since the Trainer's argument for it changed its name between versions
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    extra = [EarlyStoppingCallback(train.early_stopping_patience)] if train.early_stopping_patience else []
    # Adapter weights are fp32, computed with in the model's precision: in bf16 most updates of a small learning rate
    # would round to nothing
    with fp32_adapter(model):
        trainer = cls(
            model=model,
            args=config,
            data_collator=collator,
            train_dataset=splits["train"],
            eval_dataset=splits["validation"] if evaluating else None,
            processing_class=tokenizer,
            callbacks=[_mark_checkpoints(ranks), *extra, *callbacks],
        )
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)  # ours prints
    return trainer


def _mark_checkpoints(ranks: "Ranks") -> "TrainerCallback":
    from transformers import TrainerCallback

    class MarkCheckpoints(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            ranks.barrier()  # every rank has written its part
            if ranks.main:
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return MarkCheckpoints()
