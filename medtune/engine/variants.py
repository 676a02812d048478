"""Where an adapter begins: LoftQ, PiSSA, or the weights of an earlier version. The base of the recipe is never saved
anew, so that every adapter fits the untouched base of its fingerprint.

LoftQ (Li et al. 2023, arXiv:2310.08659), one step, as peft.replace_lora_weights_loftq does it: the adapter begins as
the best low-rank answer to the quantisation error W - NF4(W). The NF4 base stays as it is. peft's own function computes
on CUDA only and leaves the scaling out, so that with alpha / r = 2 it adds the error twice.

PiSSA (Meng et al. 2024, arXiv:2404.02948): the adapter begins as the principal part P of W, and the base in memory
becomes W - P. Trained, that model is W + (adapter - P), which is a plain LoRA of twice the rank on W: so it is saved.
peft's own initialisation rounds the factors to the base's precision; here they stay in fp32, so that what is subtracted
when the adapter is saved is what was subtracted from the base, but for the base's own rounding.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"  # peft's name for the only adapter that a model here ever has
OVERSAMPLED, ITERATIONS = 8, 16  # of the randomised SVD: within 1e-3 of the exact product, at a hundredth of its time
START = "_pissa_start"


def start_from_quantisation_error(model: "PeftModel", base: Path) -> None:
    """LoftQ: have every NF4 layer's adapter begin at its quantisation error. `base`: folder of the original weights."""
    import torch

    weights = _Weights(base)
    with torch.no_grad():
        for name, layer in _lora_layers(model):
            frozen = layer.get_base_layer().weight
            if not hasattr(frozen, "quant_state"):
                raise EngineError(
                    f"lora.init: loftq, but {name} is not quantised, so that there is no error to begin from; "
                    "set base.quantization: nf4, or lora.init: default"
                )
            whole, near = weights.read(name, frozen.device), _dequantised(frozen)
            if whole.shape != near.shape:
                raise EngineError(
                    f"lora.init: loftq needs the weights from before the quantisation, and {base} holds {name} "
                    "quantised already; name the unquantised model in base.id, or set lora.init: default"
                )
            _begin(layer, whole.float() - near)


def start_from_principal_part(model: "PeftModel") -> None:
    """PiSSA: have every layer's adapter begin at the principal part of its weight, and take that from the weight."""
    import torch

    start = {}
    with torch.no_grad():
        for name, layer in _lora_layers(model):
            weight = layer.get_base_layer().weight
            if hasattr(weight, "quant_state"):
                raise EngineError(
                    f"lora.init: pissa takes a part out of the base's weights, and {name} is NF4, which would be "
                    "rounded anew and be another base; set base.quantization: none, or lora.init: loftq"
                )
            turned = layer.fan_in_fan_out  # transformers' Conv1D keeps weights as (in, out)
            a, b = _begin(layer, (weight.T if turned else weight).float())
            part = layer.scaling[ADAPTER] * (b @ a)
            weight.copy_(weight.float() - (part.T if turned else part))
            start[name] = (a.cpu().clone(), b.cpu().clone())
    setattr(model, START, start)


def as_plain_lora(model: "PeftModel", folder: Path) -> None:
    """Rewrite a saved PiSSA adapter as a LoRA of twice the rank on the untouched base; any other stays as it is.

    scaling * (B A - B0 A0) = scaling * [B, -B0] [A; A0]; the scaling is kept by a lora_alpha that fits the new rank.
    """
    start = getattr(model, START, None)
    if start is None:
        return
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    saved = load_file(file)
    for name, (a, b) in start.items():
        keys = [f"base_model.model.{name}.lora_{side}.weight" for side in "AB"]
        saved[keys[0]] = torch.cat([saved[keys[0]].float(), a], dim=0).contiguous()
        saved[keys[1]] = torch.cat([saved[keys[1]].float(), -b], dim=1).contiguous()
    save_file(saved, file, metadata={"format": "pt"})
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text())
    rank = config["r"]
    alpha = _scaling(config["lora_alpha"], rank, config["use_rslora"]) * 2 * rank
    config |= {"r": 2 * rank, "lora_alpha": int(alpha) if alpha == int(alpha) else alpha, "use_rslora": False}
    config_file.write_text(json.dumps(config))


def continue_from(model: "PeftModel", folder: Path, fingerprint: str) -> None:
    """Put the weights of a saved adapter into a fresh one. EngineError where base, rank, targets or scaling differ."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    made_for = json.loads((folder / "medtune.json").read_text(encoding="utf-8"))["base"]
    if made_for["fingerprint"] != fingerprint:
        raise EngineError(
            f"train.init: the adapter in {folder} was trained on {made_for['id']} at {made_for['revision']} "
            f"(fingerprint {made_for['fingerprint'][:12]}), and the recipe's base has {fingerprint[:12]}; set base to "
            "that one, quantisation included, or train.init: base"
        )
    found = json.loads((folder / "adapter_config.json").read_text())
    wanted = model.peft_config[ADAPTER]
    if found["r"] != wanted.r:
        raise EngineError(
            f"train.init: the adapter in {folder} has rank {found['r']} and lora.r is {wanted.r}; set lora.r: "
            f"{found['r']} and lora.alpha: {found['lora_alpha']} (PiSSA is saved as a LoRA of twice the rank)"
        )
    scaled, scaling = (
        _scaling(found["lora_alpha"], found["r"], found["use_rslora"]),
        _scaling(wanted.lora_alpha, wanted.r, wanted.use_rslora),
    )
    if abs(scaled - scaling) > 1e-6 * scaling:
        raise EngineError(
            f"train.init: the adapter in {folder} scales its update by {scaled:g} and lora.alpha, lora.r and "
            f"lora.variant give {scaling:g}, so that the same weights would be another model; write them as they were"
        )
    if found["use_dora"] != wanted.use_dora:
        raise EngineError(
            f"train.init: the adapter in {folder} is {'a' if found['use_dora'] else 'no'} DoRA; write lora.variant: "
            f"{'dora' if found['use_dora'] else 'lora'}"
        )
    saved = load_file(folder / "adapter_model.safetensors")
    own = get_peft_model_state_dict(model)
    here, there = ({key.removeprefix("base_model.model.").split(".lora_")[0] for key in keys} for keys in (own, saved))
    if set(saved) != set(own):
        first = sorted(here ^ there or set(saved) ^ set(own))[0]
        which = "only the recipe" if first in here else "only that adapter"
        raise EngineError(
            f"train.init: the adapter in {folder} has other targets than lora.targets: {which} has one at {first}; "
            f"write lora.targets: [{', '.join(sorted({name.rsplit('.', 1)[-1] for name in there}))}]"
        )
    for key, weight in saved.items():
        if weight.shape != own[key].shape:
            raise EngineError(
                f"train.init: {key} in {folder} is {tuple(weight.shape)} and this model wants {tuple(own[key].shape)}; "
                "the adapter is damaged or of another base, choose another version"
            )
    set_peft_model_state_dict(model, saved)


def _scaling(alpha: float, rank: int, rslora: bool) -> float:
    """What an update B A is multiplied by; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732."""
    return alpha / (rank**0.5 if rslora else rank)


def _lora_layers(model: "PeftModel") -> "Iterator[tuple[str, LoraLayer]]":
    """(name in the base, layer) of every adapted linear layer."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A:
            yield name, module


def _begin(layer: "LoraLayer", matrix: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Set a layer's A (r, in) and B (out, r) so that scaling * B A is the best rank-r part of `matrix` (out, in)."""
    import torch

    rank = layer.r[ADAPTER]
    if rank > min(matrix.shape):
        raise EngineError(
            f"lora.r is {rank} and a weight of the base is {tuple(matrix.shape)}; lora.init: loftq and pissa need a "
            f"rank of {min(matrix.shape)} or less"
        )
    u, s, v = torch.svd_lowrank(matrix, q=min(rank + OVERSAMPLED, *matrix.shape), niter=ITERATIONS)
    root = (s[:rank] / layer.scaling[ADAPTER]).sqrt()
    a, b = (root[:, None] * v[:, :rank].T).contiguous(), (u[:, :rank] * root).contiguous()
    for held, value in ((layer.lora_A[ADAPTER].weight, a), (layer.lora_B[ADAPTER].weight, b)):
        held.data = value.clone()  # fp32: master weights are, whatever the base computes in
    return a, b


def _dequantised(weight: "torch.nn.Parameter") -> "torch.Tensor":
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state).float()


class _Weights:
    """Weights of a folder of safetensors, one at a time and by their names in the model."""

    def __init__(self, folder: Path):
        from safetensors import safe_open

        self.folder, self.files = folder, {}
        for file in sorted(folder.glob("*.safetensors")):
            opened = safe_open(file, framework="pt", device="cpu")
            self.files |= dict.fromkeys(opened.keys(), opened)

    def read(self, name: str, device: "torch.device") -> "torch.Tensor":
        """The weight of a linear layer; checkpoints of some architectures leave the model's own prefix out."""
        key = f"{name}.weight"
        stored = key if key in self.files else key.partition(".")[2]
        if stored not in self.files:
            raise EngineError(
                f"lora.init: loftq needs the unquantised weight {key}, and {self.folder} holds none of that name; "
                "set lora.init: default"
            )
        return self.files[stored].get_tensor(stored).to(device)
