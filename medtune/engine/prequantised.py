"""An NF4 checkpoint on disk, so that several processes can map one copy of the base instead of quantising one each.

A folder of safetensors as bitsandbytes and transformers save a model in 4 bits: packed words and their scales, and
config.json with a quantization_config. Written file by file, each rank its share; no process holds more than one file.
The words are those that medtune.engine.load.load_model makes from the same weights on the same kind of device.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.cache import cache_dir
from medtune.engine.preflight import check_space
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch

    from medtune.engine.ranks import Ranks

INDEX = "model.safetensors.index.json"
BLOCK = 64  # weights a scale, bitsandbytes' default


def quantised_settings(path: Path) -> dict | None:
    """The quantization_config of a checkpoint that is quantised already; None where it is not."""
    return json.loads((path / "config.json").read_text(encoding="utf-8")).get("quantization_config")


def settings(double_quant: bool, quant_storage: str, dtype: "torch.dtype") -> dict:
    """The quantization_config that goes into config.json."""
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double_quant,
        "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch."),
        "bnb_4bit_quant_storage": quant_storage,
    }


def quantise(name: str, weight: "torch.Tensor", double_quant: bool, quant_storage: str) -> dict[str, "torch.Tensor"]:
    """The entries of a checkpoint for one linear weight, on the weight's device: packed words and what unpacks them."""
    import torch
    from bitsandbytes.functional import quantize_4bit

    words, state = quantize_4bit(
        weight.contiguous(),
        blocksize=BLOCK,
        compress_statistics=double_quant,
        quant_type="nf4",
        quant_storage=getattr(torch, quant_storage),
    )
    return {name: words, **{f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}}


def mapped_base(
    base: Path, key: str, ranks: "Ranks", *, quantization: str, double_quant: bool, quant_storage: str, dtype
) -> Path:
    """A folder from which every rank can map the base: the base itself where nothing is to be quantised, else its NF4
    copy in the user's cache under `key`, which the ranks write together the first time. Every rank must call it."""
    if quantization != "nf4" or quantised_settings(base):
        return base
    ready = cache_dir() / "nf4" / f"{key}-{str(dtype).removeprefix('torch.')}"
    if ranks.from_main(ready.is_dir):
        return ready
    part = ready.with_name(ready.name + ".part")
    linears, files = _plan(base)
    if ranks.main:
        shutil.rmtree(part, ignore_errors=True)
        whole = sum(file.stat().st_size for file in files)
        check_space(part, int(0.35 * whole), "the NF4 copy of the base")
        print(f"quantising {len(files)} files of the base once, into {ready}", flush=True)
    ranks.barrier()
    index: dict[str, str] = {}
    for number, file in enumerate(files):
        if number % ranks.count == ranks.rank:
            index |= _convert(file, part, linears, double_quant, quant_storage, dtype, ranks.device)
    every = ranks.gather(index)
    if ranks.main:
        weight_map = {name: file for one in every for name, file in one.items()}
        (part / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        config["quantization_config"] = settings(double_quant, quant_storage, dtype)
        (part / "config.json").write_text(json.dumps(config, indent=2))
        if (base / "generation_config.json").exists():
            shutil.copy(base / "generation_config.json", part)
        part.rename(ready)
    ranks.barrier()
    return ready


def _plan(base: Path) -> tuple[set[str], list[Path]]:
    """Names of the weights that are quantised, and the files of the base in order."""
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, local_files_only=True))
    head = model.get_output_embeddings()
    linears = {
        f"{name}.weight" for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head
    }
    index = base / INDEX
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else None
    files = sorted(file for file in base.glob("*.safetensors") if names is None or file.name in names)
    held: set[str] = set()
    for file in files:
        with safe_open(file, "pt") as opened:
            held |= set(opened.keys())
    missing = sorted(linears - held)
    if missing or not linears:
        raise EngineError(
            f"{base} names its weights otherwise than {type(model).__name__} does (no "
            f"{missing[0] if missing else '*.weight'}), so that it cannot be quantised file by file; save it anew with "
            "save_pretrained, or set train.sharding: none"
        )
    return linears, files


def _convert(file: Path, out: Path, linears: set[str], double_quant, quant_storage, dtype, device) -> dict[str, str]:
    """One file of the base as NF4 under the same name in `out`. Returns entry name -> file name."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    entries = {}
    with safe_open(file, "pt") as source:
        for name in source.keys():  # noqa: SIM118 - no mapping
            weight = source.get_tensor(name)
            weight = weight.to(device, dtype) if weight.is_floating_point() else weight
            made = quantise(name, weight, double_quant, quant_storage) if name in linears else {name: weight}
            entries |= {key: value.cpu().contiguous() for key, value in made.items()}
    save_file(entries, out / file.name, metadata={"format": "pt"})
    return dict.fromkeys(entries, file.name)
