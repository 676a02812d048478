"""A Llama of a named shape with random weights, its tokenizer and tokenized samples: a base that needs no hub.

    python -m benchmarks.random_base --shape kullm3 --out /tmp/base      # writes /tmp/base/model and /tmp/base/tokens

The weights are bf16, normal with deviation 0.02 (o_proj and down_proj divided by sqrt(2 layers), as GPT-2 does, so that
the residual stream does not grow with depth), in safetensors shards written side by side. Speed and memory of training
do not depend on what the weights hold.

Samples have log-normal lengths (mean 301, at most 512 tokens; a corpus of doctors' answers looks so). The first third
of each, BOS included, is the prompt and is not trained; the rest, EOS included, is. Words follow a fixed random table
of likely successors, so that there is something to learn and a loss curve has a shape.
"""

import argparse
import json
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.llama import BOS, EOS, FIRST_WORD, Shape, config, deviation, linears, write_tokenizer

WORDS = 1024  # distinct words in the samples; few enough that 200 steps learn something about each

SHAPES = {
    "kullm3": Shape(4096, 48, 32, 8, 14336, 32000, 4096, (285, 0.33, 64, 512)),  # 10.7 B, that of SOLAR-10.7B
    "small": Shape(1024, 16, 8, 2, 3584, 32000, 4096, (285, 0.33, 64, 512)),  # 0.28 B, the same head size and ratios
    "tiny": Shape(64, 2, 4, 2, 128, 512, 1024, (40, 0.33, 16, 96)),  # for a CPU
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="kullm3")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2048, help="samples to train on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    size = write_model(SHAPES[arguments.shape], arguments.out / "model", arguments.seed)
    written = time.perf_counter() - started
    write_tokens(SHAPES[arguments.shape], arguments.out / "tokens", arguments.rows, arguments.seed)
    print(f"{arguments.shape}: {size / 2**30:.1f} GiB of weights in {written:.0f} s, {arguments.rows} samples")


def write_model(shape: Shape, folder: Path, seed: int = 0, workers: int = 8) -> int:
    """config.json, safetensors shards and tokenizer. Returns the bytes of the weights."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    groups = _shards(shape)
    names = [f"model-{n + 1:05d}-of-{len(groups):05d}.safetensors" for n in range(len(groups))]
    with ThreadPoolExecutor(workers) as pool:
        sizes = list(
            pool.map(
                lambda n: _write_shard(folder / names[n], groups[n], shape.layers, seed * 1000 + n, device),
                range(len(groups)),
            )
        )
    weight_map = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    config(shape).save_pretrained(folder)
    write_tokenizer(shape.vocab, folder)
    return sum(sizes)


def parameters(folder: Path) -> int:
    """Weights of a model that write_model wrote (2 bytes each)."""
    return json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"] // 2


def _shards(shape: Shape) -> list[dict[str, tuple[int, ...]]]:
    """Names and sizes of the tensors of each file: a layer a file, embeddings and head in one of their own."""
    d = shape.hidden
    each = linears(shape) | {"input_layernorm": (d,), "post_attention_layernorm": (d,)}
    layers = [{f"model.layers.{n}.{k}.weight": v for k, v in each.items()} for n in range(shape.layers)]
    ends = {
        "model.embed_tokens.weight": (shape.vocab, d),
        "lm_head.weight": (shape.vocab, d),
        "model.norm.weight": (d,),
    }
    return [*layers, ends]


def _write_shard(path: Path, tensors: dict[str, tuple[int, ...]], layers: int, seed: int, device) -> int:
    """One safetensors file, straight from the tensors' memory: safetensors.torch.save_file would copy each first."""
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [offset, offset + 2 * math.prod(size)]}
        offset += 2 * math.prod(size)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, size in tensors.items():
            if len(size) == 1:
                weight = torch.ones(size, dtype=torch.bfloat16)
            else:
                weight = torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16)
                weight *= deviation(name, layers)
            file.write(memoryview(weight.cpu().view(torch.uint8).numpy()).cast("B"))
    return offset


def sample_lengths(shape: Shape, count: int) -> list[int]:
    """Tokens of each sample, BOS and EOS included; always the same ones."""
    chance = random.Random(0)
    median, deviation, shortest, longest = shape.lengths
    return [int(min(longest, max(shortest, chance.lognormvariate(math.log(median), deviation)))) for _ in range(count)]


def write_tokens(shape: Shape, folder: Path, rows: int, seed: int = 0, held_out: int = 16) -> None:
    """Splits train, validation and test on disk, in the schema of medtune/corpus/tokens.py."""
    import numpy as np
    from datasets import Dataset, Features, Sequence, Value

    lengths = sample_lengths(shape, rows + 2 * held_out)
    ids = _walks(np.random.default_rng(seed), len(lengths), max(lengths), min(WORDS, shape.vocab - FIRST_WORD))
    ints, text = Sequence(Value("int32")), Value("string")
    schema = Features({"input_ids": ints, "labels": ints, "row_id": text, "cluster": text, "chars": Value("int32")})
    for name, start, end in (
        ("train", 0, rows),
        ("validation", rows, rows + held_out),
        ("test", rows + held_out, rows + 2 * held_out),
    ):
        columns: dict[str, list] = {key: [] for key in schema}
        for n in range(start, end):
            sample = [BOS, *ids[n, : lengths[n] - 2].tolist(), EOS]
            prompt = max(1, len(sample) // 3)
            columns["input_ids"].append(sample)
            columns["labels"].append([-100] * prompt + sample[prompt:])
            columns["row_id"].append(f"{n:064x}")
            columns["cluster"].append(f"{n:064x}")
            columns["chars"].append(4 * len(sample))
        Dataset.from_dict(columns, features=schema).save_to_disk(folder / name)


def _walks(chance, rows: int, length: int, words: int):
    """Word ids (rows, length): from each word to one of its four successors, the first of them most often."""
    import numpy as np

    successors = chance.integers(0, words, (words, 4))
    walks = np.empty((rows, length), dtype=np.int64)
    walks[:, 0] = chance.integers(0, words, rows)
    for n in range(1, length):
        walks[:, n] = successors[walks[:, n - 1], chance.choice(4, rows, p=(0.55, 0.25, 0.15, 0.05))]
    return walks + FIRST_WORD


if __name__ == "__main__":
    main()
