"""The seed's own recipe, as it was written: what the engine is measured against.

    python -m benchmarks.seed_row --base DIR --out DIR --steps 10 --warm 5

NF4 with double quantisation, peft's prepare_model_for_kbit_training (norms, embeddings and head in fp32, so that the
activations between the layers are fp32 too; recomputation on), LoRA r=4 alpha=8 dropout=0.05 on seven projections,
2 samples x 4 padded to the longest, bf16 off, paged_adamw_8bit, the Trainer of transformers. Two things differ, and
neither changes the speed: the labels are masked (the seed trained on prompt and padding too), so that its loss can be
compared, and the data order is that of the other rows.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm", type=int, default=4)
    arguments = parser.parse_args()

    import torch
    from datasets import load_from_disk
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments, set_seed

    from benchmarks.clock import FIRST, Clock, ceiling
    from benchmarks.one_run import LORA, write_result
    from medtune.engine.batching import PaddingCollator
    from medtune.engine.load import load_tokenizer

    on_gpu = torch.cuda.is_available()
    compute = torch.bfloat16 if on_gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        arguments.base / "model",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        ),
        dtype=compute,
        device_map={"": 0 if on_gpu else "cpu"},
        local_files_only=True,
    )
    set_seed(42)
    model = prepare_model_for_kbit_training(model)
    model.config.use_cache = False
    model = get_peft_model(
        model,
        LoraConfig(
            r=LORA["r"],
            lora_alpha=LORA["alpha"],
            lora_dropout=0.05,
            target_modules=LORA["targets"],
            bias="none",
            task_type="CAUSAL_LM",
        ),
    )
    clock = Clock(arguments.warm)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(arguments.out / "checkpoints"),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            warmup_steps=1,
            max_steps=arguments.steps,
            learning_rate=2e-4,
            bf16=False,
            optim="paged_adamw_8bit",
            logging_steps=FIRST,
            lr_scheduler_type="constant_with_warmup",
            save_strategy="no",
            remove_unused_columns=False,
            report_to=[],
            seed=42,
            data_seed=42,
            use_cpu=not on_gpu,
        ),
        train_dataset=load_from_disk(arguments.base / "tokens" / "train"),
        data_collator=PaddingCollator(load_tokenizer(arguments.base / "model").pad_token_id),
        callbacks=[clock],
    )
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    result = clock.report()
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    write_result(arguments.out, result | {"ceiling_tflops": ceiling(), "device": name})


if __name__ == "__main__":
    main()
