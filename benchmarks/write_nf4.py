"""An NF4 checkpoint of a Llama shape with random weights, and a tokenizer of random words: a base that needs no hub.

    torchrun --nproc-per-node 10 -m benchmarks.write_nf4 --shape 70b --out /tmp/base
    python -m benchmarks.write_nf4 --shape tiny --out /tmp/base

Written layer by layer, each rank its share of the files, on the GPU where there is one (several ranks may share it):
the model is never whole anywhere but on the disk. The words are stored as bfloat16, which FSDP can cut into slices, and
medtune.engine.load.load_model loads the folder as any other base. Weights are normal with deviation 0.02 (o_proj and
down_proj divided by sqrt(2 layers)): speed and memory of training do not depend on what they hold.
"""

import argparse
import json
import os
import time
from pathlib import Path

from benchmarks.llama import Shape, config, deviation, linears, write_tokenizer
from medtune.engine.prequantised import INDEX, quantise, settings

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
LAYERS_A_FILE = 4


SHAPES = {
    "70b": Shape(8192, 80, 64, 8, 28672, 128256),  # Llama-3-70B: 38 GiB in NF4
    "10.7b": Shape(4096, 48, 32, 8, 14336, 32000),  # SOLAR-10.7B, KULLM3
    "tiny": Shape(256, 4, 4, 2, 512, 1024),
}


def write(shape: Shape, out: Path, double_quant: bool = True) -> int:
    """This rank's share of the checkpoint; rank 0 writes the small files too. Returns the bytes of weights written."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    groups = [range(n, min(n + LAYERS_A_FILE, shape.layers)) for n in range(0, shape.layers, LAYERS_A_FILE)]
    files = [f"model-{n + 1:05d}-of-{len(groups) + 1:05d}.safetensors" for n in range(len(groups) + 1)]
    index, size = {}, 0
    for number, file in enumerate(files):
        layers = groups[number] if number < len(groups) else None
        index |= dict.fromkeys(_names(shape, layers, double_quant), file)
        if number % WORLD != RANK:
            continue
        generator = torch.Generator(device).manual_seed(number)
        entries = {key: value.cpu() for key, value in _weights(shape, layers, generator, device, double_quant)}
        assert sorted(entries) == sorted(key for key, where in index.items() if where == file)
        save_file(entries, out / file, metadata={"format": "pt"})
        size += sum(value.nbytes for value in entries.values())
    if RANK == 0:
        (out / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
        config(shape, quantization_config=settings(double_quant, "bfloat16", torch.bfloat16)).save_pretrained(out)
        write_tokenizer(shape.vocab, out)
    return size


def _names(shape: Shape, layers: "range | None", double_quant: bool) -> list[str]:
    """Entries of a file: those of its layers, or of what is outside all layers."""
    if layers is None:
        return ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"]
    parts = ["", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4"]
    parts += [".nested_absmax", ".nested_quant_map"] if double_quant else []
    each = [f"{name}.weight{part}" for name in linears(shape) for part in parts]
    each += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    return [f"model.layers.{layer}.{name}" for layer in layers for name in each]


def _weights(shape: Shape, layers: "range | None", generator, device, double_quant: bool):
    """(name, tensor) one after another, so that one unquantised weight is in memory at a time."""
    import torch

    def normal(name: str, *size: int) -> "tuple[str, torch.Tensor]":
        weight = torch.randn(*size, generator=generator, device=device, dtype=torch.bfloat16)
        return f"{name}.weight", weight * deviation(name, shape.layers)

    if layers is None:
        yield normal("model.embed_tokens", shape.vocab, shape.hidden)
        yield normal("lm_head", shape.vocab, shape.hidden)
        yield "model.norm.weight", torch.ones(shape.hidden, dtype=torch.bfloat16)
        return
    for layer in layers:
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{name}.weight", torch.ones(shape.hidden, dtype=torch.bfloat16)
        for name, size in linears(shape).items():
            key, weight = normal(f"model.layers.{layer}.{name}", *size)
            yield from quantise(key, weight, double_quant, "bfloat16").items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    arguments = parser.parse_args()
    started = time.perf_counter()
    size = write(SHAPES[arguments.shape], arguments.out)
    line = {"phase": "write", "rank": RANK, "gib": round(size / 2**30, 3), "seconds": time.perf_counter() - started}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
