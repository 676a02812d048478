"""Merging: the adapter folded into a base, saved, loaded again and compared with what was trained.

The model that was trained and evaluated is "NF4 base + adapter". Folding the adapter into the dequantised NF4 weights
gives that very model (but for one rounding to the stored precision); into the original weights it gives another one,
and merging into 4-bit rounds the update away (the seed did that). The certificate says how far the result is from the
model that was trained; it is always written, and only the gate judges it.
"""

import json
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
    """Write job.out (whole or not at all) and return the certificate with bytes and seconds."""
    import torch

    started = time.perf_counter()
    device = pick_device(job.device)
    compute = pick_dtype("auto", device)
    stored = getattr(torch, job.merge.dtype)
    sidecar = read_sidecar(job.adapter)

    live = load_adapter(
        load_model(job.base, **job.quantization, device=device, dtype=compute), job.adapter, job.fingerprint
    )
    parameters = sum(p.numel() for p in live.get_base_model().parameters() if p.dtype != torch.uint8)
    parameters += sum(p.numel() * 2 for p in live.get_base_model().parameters() if p.dtype == torch.uint8)
    check_space(job.out.parent, parameters * stored.itemsize, "the merged model")
    rows = job.held_out.select(range(min(job.merge.certificate_rows, len(job.held_out))))
    print(f"answers of base + adapter on {len(rows)} held-out rows")
    expected = [target_logits(live, row, device) for row in rows]

    merged = fold(live, job.merge.into, job, device, compute)
    building = job.out.with_name(job.out.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    save_merged(merged, building, job, sidecar, stored)
    del live, merged
    if device.type == "cuda":
        torch.cuda.empty_cache()

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
    return certificate | {"bytes": size, "seconds": round(time.perf_counter() - started, 1)}


def fold(
    live: "PeftModel", into: str, job: MergeJob, device: "torch.device", compute: "torch.dtype"
) -> "PreTrainedModel":
    """The plain model with the adapter's update in its weights. `live` is used up."""
    if into == "quantised":
        return live.merge_and_unload().dequantize()
    if into == "dequantised":
        base = live.unload()  # the NF4 base without the adapter
        base = base.dequantize()
    else:
        base = load_model(job.base, device=device, dtype=compute)
    base.to(compute)
    model = load_adapter(base, job.adapter, job.fingerprint)
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
