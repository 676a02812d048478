"""Merging: the adapter folded into a base, saved, loaded again and compared with what was trained.

The model that was trained and evaluated is "NF4 base + adapter". Folding the adapter into the dequantised NF4 weights
gives that very model (but for one rounding to the stored precision); into the original weights it gives another one,
and merging into 4-bit rounds the update away (the seed did that). The certificate says how far the result is from the
model that was trained; it is always written, and only the gate judges it.
"""

import gc
import json
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED
from medtune.corpus.template import dress
from medtune.engine.device import pick_device, pick_dtype
from medtune.engine.load import load_model, load_tokenizer
from medtune.engine.lora import SIDECAR, load_adapter, read_sidecar, write_json
from medtune.engine.preflight import check_space

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel

    from medtune.params.merge import Merge

POSITIONS = 128  # target positions of a row that the certificate compares: bounds its memory on a large vocabulary


@dataclass(frozen=True)
class MergeJob:
    """All that merging needs. held_out: rows that the adapter never learned from."""

    base: Path
    fingerprint: str
    quantization: dict
    adapter: Path
    held_out: "Dataset"
    merge: "Merge"
    device: str
    version: str
    out: Path


def run(job: MergeJob) -> dict:
    """Write job.out (whole or not at all) and return the certificate with bytes, seconds and peak_memory_bytes.

    One model is in memory at a time, and while NF4 becomes the merged one, the one shrinks as the other grows: the peak
    is the merged model in the compute precision and one layer in fp32 (10.7 B in bfloat16: about 22 GB).
    peak_memory_bytes is what torch held on the GPU; without one, the process's largest resident memory.
    """
    import torch

    started = time.perf_counter()
    device = pick_device(job.device)
    compute = pick_dtype("auto", device)
    stored = getattr(torch, job.merge.dtype)
    sidecar = read_sidecar(job.adapter)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    live = load_adapter(
        load_model(job.base, **job.quantization, device=device, dtype=compute), job.adapter, job.fingerprint
    )
    parameters = sum(p.numel() * (2 * p.itemsize if _packed(p) else 1) for p in live.get_base_model().parameters())
    check_space(job.out.parent, parameters * stored.itemsize, "the merged model")
    rows = job.held_out.select(range(min(job.merge.certificate_rows, len(job.held_out))))
    print(f"answers of base + adapter on {len(rows)} held-out rows")
    expected = [target_logits(live, row, device) for row in rows]

    if job.merge.into == "quantised":
        merged = dequantise(live.merge_and_unload())
    elif job.merge.into == "dequantised":
        merged = fold(dequantise(live.unload()), job.adapter, job.fingerprint, compute)
    else:
        del live  # before the base comes a second time: two of them would not fit
        _free(device)
        merged = fold(load_model(job.base, device=device, dtype=compute), job.adapter, job.fingerprint, compute)
    live = None
    building = job.out.with_name(job.out.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    save_merged(merged, building, job, sidecar, stored)
    del merged
    _free(device)

    print("loading the merged model again to compare it")
    again = load_model(building, device=device, dtype=compute)
    certificate = {
        "version": job.version,
        "candidate": sidecar["candidate"],
        "into": job.merge.into,
        "stored_dtype": job.merge.dtype,
        **compare(expected, [target_logits(again, row, device) for row in rows]),
    }
    write_json(building / "certificate.json", certificate)
    size = sum(f.stat().st_size for f in building.rglob("*") if f.is_file())
    shutil.rmtree(job.out, ignore_errors=True)
    building.rename(job.out)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_rss()
    measured = {"bytes": size, "seconds": round(time.perf_counter() - started, 1), "peak_memory_bytes": peak}
    return certificate | measured


def dequantise(model: "PreTrainedModel") -> "PreTrainedModel":
    """The NF4 model's layers as plain ones, in place, in the precision that it computes in; others stay as they are.

    Layer by layer, each NF4 weight freed before the next: transformers' own dequantize() walks the model by a generator
    that keeps every replaced layer until the end, so that both models stand in memory at once.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name in [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]:
        packed = model.get_submodule(name)
        with torch.device("meta"):
            plain = torch.nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None)
        weight = dequantize_4bit(packed.weight.data, packed.weight.quant_state).to(model.dtype)
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        if packed.bias is not None:
            plain.bias = packed.bias
        model.set_submodule(name, plain)
        packed.weight = packed.quant_state = None  # layer and weight name each other: freed now, not when gc comes by
        del packed, weight, plain
    quantiser = getattr(model, "hf_quantizer", None)
    if quantiser is not None:
        quantiser.remove_quantization_config(model)
    return model


def fold(base: "PreTrainedModel", adapter: Path, fingerprint: str, compute: "torch.dtype") -> "PreTrainedModel":
    """The plain model with the adapter's update (LoRA, rsLoRA or DoRA) in its weights. `base` is used up."""
    base.to(compute)
    model = load_adapter(base, adapter, fingerprint)
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            # One layer at a time in fp32, so that the sum is rounded once and the whole model never stands in fp32
            weights = module.get_base_layer()
            before = weights.weight.dtype
            weights.float()
            module.merge(safe_merge=True)
            weights.to(before)
    return model.unload()


def _packed(weight: "torch.nn.Parameter") -> bool:
    """Whether a parameter holds NF4 words, two a byte whatever type they are stored as."""
    return hasattr(weight, "quant_state")


def _free(device: "torch.device") -> None:
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def save_merged(model: "PreTrainedModel", path: Path, job: MergeJob, sidecar: dict, stored: "torch.dtype") -> None:
    """Sharded safetensors, config, generation config, tokenizer with the training template, medtune.json."""
    from transformers import GenerationConfig

    tokenizer = dress(load_tokenizer(job.base), sidecar["template"], sidecar["system"])
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        do_sample=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **job.merge.generation.model_dump(),
    )
    model.to(stored).save_pretrained(path, max_shard_size=job.merge.max_shard_size, safe_serialization=True)
    tokenizer.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    config.pop("_name_or_path", None)
    write_json(path / "config.json", config)
    write_json(path / SIDECAR, sidecar | {"version": job.version, "merge": job.merge.model_dump()})


def target_logits(model: "PreTrainedModel | PeftModel", row: dict, device: "torch.device") -> "torch.Tensor":
    """Logits that predict the first POSITIONS trained tokens of a sample: (positions, vocabulary), fp32, on the CPU."""
    import torch

    targets = [i for i, label in enumerate(row["labels"]) if label != IGNORED][:POSITIONS]
    ids = torch.tensor([row["input_ids"][: targets[-1] + 1]], device=device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits[torch.tensor(targets, device=device) - 1].float().cpu()


def compare(expected: "list[torch.Tensor]", found: "list[torch.Tensor]") -> dict:
    """KL(expected || found) per position in nats (mean and largest), largest logit difference, share of equal top-1."""
    import torch
    import torch.nn.functional as F

    kls, same, largest = [], [], 0.0
    for a, b in zip(expected, found, strict=True):
        # in fp64: the differences that matter lie below what fp32 sums can tell
        a, b = a.double(), b.double()
        kls.append(F.kl_div(F.log_softmax(b, -1), F.log_softmax(a, -1), log_target=True, reduction="none").sum(-1))
        same.append((a.argmax(-1) == b.argmax(-1)).float())
        largest = max(largest, float((a - b).abs().max()))
    kl = torch.cat(kls)
    return {
        "kl_mean": float(kl.mean()),
        "kl_max": float(kl.max()),
        "max_logit_difference": largest,
        "top1_agreement": float(torch.cat(same).mean()),
        "rows": len(expected),
        "tokens": len(kl),
    }
