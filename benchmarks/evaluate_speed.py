"""Seconds to score and answer a test set by base, adapter and merged model, on a base of random weights.

    python -m benchmarks.random_base --shape kullm3 --out /tmp/base
    python -m benchmarks.evaluate_speed --base /tmp/base --rows 530 --out results

The base is loaded in NF4 and unpacked as stages/evaluate.py does it; base and adapter share its weights (LoRA r=4 on
seven linears), then the adapter is folded in for the merged model, in memory, so that its time has no loading. Each of
the three scores every row by teacher forcing and answers every prompt greedily, through medtune.evaluation.scores and
medtune.engine.generate.

Random weights never say EOS: every answer runs to --max-new-tokens, which is the worst case. Answers of a trained model
end; --ended-lengths stops each row at a length of its own (log-normal, mean about 120 tokens, the same for every model
and seed), which is what a real evaluation costs.

Prints a table and writes evaluate_speed.json.
"""

import argparse
import json
import random
import time
from pathlib import Path
from types import SimpleNamespace

LORA = SimpleNamespace(
    r=4,
    alpha=8,
    dropout=0.0,
    variant="lora",
    init="default",
    targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)
FIRST_WORD, EOS = 5, 2  # of benchmarks.llama's tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="a folder of benchmarks.random_base")
    parser.add_argument("--out", type=Path, default=Path("evaluate_speed"))
    parser.add_argument("--rows", type=int, default=530)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int, help="answers at once; left out, as many as memory holds")
    parser.add_argument("--score-batch", type=int, default=16, help="rows scored at once")
    parser.add_argument("--ended-lengths", action="store_true", help="answers that end, as real ones do")
    parser.add_argument("--prompt-tokens", type=int, default=150, help="median of the prompts")
    parser.add_argument("--packed", action="store_true", help="leave the base in NF4, to see what unpacking brings")
    arguments = parser.parse_args()
    result = measure(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "evaluate_speed.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'model':8} {'score s':>8} {'tok/s':>8} {'answer s':>9} {'tok/s':>8} {'peak GiB':>9}")
    for name, one in result["models"].items():
        print(
            f"{name:8} {one['score_seconds']:8.1f} {one['score_tokens_per_second']:8.0f} {one['answer_seconds']:9.1f} "
            f"{one['answer_tokens_per_second']:8.0f} {one['peak_gib'] or 0:9.1f}"
        )
    print(f"loading {result['load_seconds']:.1f} s, all of it {result['seconds']:.1f} s on {result['device']}")


def measure(arguments: argparse.Namespace) -> dict:
    """All three models in this process; see main for the figures."""
    import torch

    from medtune.corpus.template import dress
    from medtune.engine.device import pick_device, pick_dtype
    from medtune.engine.load import load_model, load_tokenizer
    from medtune.engine.lora import attach
    from medtune.engine.resident import load_resident

    started = time.perf_counter()
    device = pick_device("auto")
    folder = arguments.base / "model"
    load = load_model if arguments.packed else load_resident
    settings = {"quantization": "nf4", "double_quant": True, "quant_storage": "uint8"}
    base = load(folder, **settings, device=device, dtype=pick_dtype("auto", device))
    model = attach(base, LORA, seed=0).eval()
    with torch.no_grad():  # B begins at zero: an adapter that changes nothing would not be one
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.01)
    tokenizer = dress(load_tokenizer(folder), "text", None)
    load_seconds = _clock(device) - started
    prompts, dataset, limits = _rows(arguments)

    models = {}
    with model.disable_adapter():
        models["base"] = _one(model, tokenizer, prompts, dataset, limits, arguments)
    models["adapter"] = _one(model, tokenizer, prompts, dataset, limits, arguments)
    if not arguments.packed:  # a packed base cannot be folded into without rounding
        models["merged"] = _one(model.merge_and_unload(), tokenizer, prompts, dataset, limits, arguments)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {name: __import__(name).__version__ for name in ("torch", "transformers", "peft", "bitsandbytes")},
        "arguments": {key: str(value) for key, value in vars(arguments).items()},
        "prompt_tokens": sum(len(prompt.split()) for prompt in prompts),
        "load_seconds": load_seconds,
        "seconds": _clock(device) - started,
        "models": models,
    }


def _one(model, tokenizer, prompts: list[str], dataset, limits: list[int], arguments: argparse.Namespace) -> dict:
    import torch

    from medtune.engine.generate import answer_all
    from medtune.evaluation.scores import score_rows

    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begun = _clock(device)
    scores = score_rows(model, dataset, arguments.score_batch, tokenizer.pad_token_id)
    scored = _clock(device)
    answers = answer_all(
        model, tokenizer, prompts, arguments.max_new_tokens, batch_size=arguments.batch_size, limits=limits
    )
    answered = _clock(device)
    tokens = sum(answer["tokens"] for answer in answers)
    read = sum(len(ids) for ids in dataset["input_ids"])
    return {
        "score_seconds": scored - begun,
        "score_tokens_per_second": read / (scored - begun),
        "answer_seconds": answered - scored,
        "answer_tokens": tokens,
        "answer_tokens_per_second": tokens / (answered - scored),
        "nll_per_token": sum(score["nll"] for score in scores) / sum(score["tokens"] for score in scores),
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
    }


def _rows(arguments: argparse.Namespace):
    """Prompts of words, the same rows with answers as a dataset to score, and a limit for each answer."""
    from datasets import Dataset

    config = json.loads((arguments.base / "model/config.json").read_text())
    chance = random.Random(0)
    room = config["max_position_embeddings"] - arguments.max_new_tokens
    longest = min(512, room)
    prompts, columns, limits = [], {"input_ids": [], "labels": [], "row_id": [], "cluster": [], "chars": []}, []
    for n in range(arguments.rows):
        size = _length(chance, arguments.prompt_tokens, 0.33, min(24, longest), longest)
        words = [chance.randrange(FIRST_WORD, config["vocab_size"]) for _ in range(size)]
        # the tokenizer's n-th word is called w{n}
        prompts.append(" ".join(f"w{word}" for word in words))
        answer_size = _length(chance, 106, 0.5, 8, arguments.max_new_tokens)
        answer = [chance.randrange(FIRST_WORD, config["vocab_size"]) for _ in range(answer_size - 1)] + [EOS]
        columns["input_ids"].append(words + answer)
        columns["labels"].append([-100] * size + answer)
        columns["row_id"].append(f"{n:064x}")
        columns["cluster"].append(f"{n:064x}")
        columns["chars"].append(2 * answer_size)
        limits.append(answer_size if arguments.ended_lengths else arguments.max_new_tokens)
    return prompts, Dataset.from_dict(columns), limits


def _length(chance: random.Random, median: float, deviation: float, shortest: int, longest: int) -> int:
    return int(min(longest, max(shortest, median * chance.lognormvariate(0, deviation))))


def _clock(device) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
