"""Unsloth on the same base, samples and lengths, through its own loader and its trainer.

    PYTHONPATH=WHERE_UNSLOTH_IS python -m benchmarks.unsloth_row --base DIR --out DIR --checkpointing unsloth

With --data labels it gets the very samples of the other rows, prompts masked. With --data text it gets the same words
as text, tokenizes them itself and trains on every token: the form for which it picks its padding-free batches. The
adapter has dropout 0, without which Unsloth leaves its fast path.
"""

import argparse
import os
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--checkpointing", choices=["false", "unsloth"], default="false")
    parser.add_argument("--data", choices=["labels", "text"], default="labels")
    parser.add_argument("--batch", type=int, default=8, help="samples that pass at once; accumulated to 8")
    arguments = parser.parse_args()
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", tempfile.mkdtemp(prefix="unsloth-compiled-"))
    os.environ.update(UNSLOTH_DISABLE_STATISTICS="1", TRANSFORMERS_OFFLINE="1", HF_HUB_OFFLINE="1")

    import unsloth  # isort: skip  (before transformers and trl, which it changes)
    import torch
    import trl
    from datasets import load_from_disk

    from benchmarks.clock import FIRST, Clock, ceiling
    from benchmarks.one_run import LORA, write_result

    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        str(arguments.base / "model"), max_seq_length=512, dtype=torch.bfloat16, load_in_4bit=True
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=LORA["r"],
        lora_alpha=LORA["alpha"],
        lora_dropout=0,
        bias="none",
        target_modules=LORA["targets"],
        use_gradient_checkpointing="unsloth" if arguments.checkpointing == "unsloth" else False,
        random_state=42,
    )
    rows = load_from_disk(str(arguments.base / "tokens" / "train")).select_columns(["input_ids", "labels"])
    settings = {}
    if arguments.data == "text":
        words = tokenizer.convert_ids_to_tokens
        rows = rows.map(lambda row: {"text": " ".join(words(row["input_ids"]))}, remove_columns=rows.column_names)
        settings["dataset_text_field"] = "text"
    clock = Clock(arguments.warm)
    trainer = trl.SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=rows,
        callbacks=[clock],
        args=trl.SFTConfig(
            output_dir=str(arguments.out / "checkpoints"),
            max_length=512,
            per_device_train_batch_size=arguments.batch,
            gradient_accumulation_steps=8 // arguments.batch,
            max_steps=arguments.steps,
            learning_rate=2e-4,
            warmup_steps=1,
            optim="paged_adamw_8bit",
            bf16=True,
            logging_steps=FIRST,
            lr_scheduler_type="constant_with_warmup",
            save_strategy="no",
            report_to=[],
            dataset_num_proc=1,
            seed=42,
            data_seed=42,
            **settings,
        ),
    )
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    result = clock.report()
    write_result(
        arguments.out,
        result
        | {
            "ceiling_tflops": ceiling(),
            "device": torch.cuda.get_device_name(),
            "unsloth": unsloth.__version__,
            "trl": trl.__version__,
            "padding_free": bool(getattr(trainer, "padding_free", False)),
        },
    )


if __name__ == "__main__":
    main()
