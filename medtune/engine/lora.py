"""The adapter: targets checked against the model, attached, saved (equal weights give equal files), loaded."""

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.engine.variants import as_plain_lora, start_from_principal_part, start_from_quantisation_error
from medtune.params.errors import EngineError
from medtune.params.names import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from medtune.params.lora import Lora

SIDECAR = "medtune.json"


def linear_names(model: "PreTrainedModel") -> set[str]:
    """Last parts of the names of all linear layers, the output head left out (trl trains no adapter on it)."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def check_targets(targets: list[str] | str, model: "PreTrainedModel") -> None:
    """EngineError where a target names no linear layer of the model."""
    if targets == "all-linear":
        return
    known = linear_names(model)
    for target in targets:
        if target not in known:
            raise EngineError(
                f"lora.targets: {type(model).__name__} has no linear layer '{target}'; {nearest(target, known)} "
                f"(its linear layers: {', '.join(sorted(known))}, or write all-linear)"
            )


def attach(model: "PreTrainedModel", lora: "Lora", seed: int, base: Path | None = None) -> "PeftModel":
    """A fresh adapter on a base. Seeded here: peft draws LoRA A before the trainer sets its own seed.

    `base`: the folder that the model was loaded from, which lora.init: loftq reads the unquantised weights of.
    lora.init: pissa changes the weights in memory; save_adapter makes up for it.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    check_targets(lora.targets, model)
    set_seed(seed)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets if lora.targets == "all-linear" else list(lora.targets),
            use_rslora=lora.variant == "rslora",
            use_dora=lora.variant == "dora",
            bias="none",
            task_type="CAUSAL_LM",
        ),
    )
    if lora.init == "loftq":
        start_from_quantisation_error(adapted, base)
    elif lora.init == "pissa":
        start_from_principal_part(adapted)
    return adapted


@contextmanager
def fp32_adapter(model: "PeftModel") -> "Iterator[None]":
    """The adapter's weights after the block as before it, in fp32: trl rounds those on a quantised base to bf16 while
    its trainer is built, which would move an adapter that goes on from earlier weights, or begins by LoftQ."""
    kept = {name: weight.data.float().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    yield
    for name, weight in model.named_parameters():
        if name in kept:
            weight.data = kept[name].to(weight.device)


def save_adapter(model: "PeftModel", path: Path, sidecar: dict, state: "dict[str, torch.Tensor] | None" = None) -> None:
    """Adapter weights (safetensors), peft's config without paths and in a fixed order, and medtune.json.

    state: the trained weights by their names in the model, where the model holds only slices of them. Raises
    EngineError where a weight is not finite; then nothing is written.
    """
    import torch

    weights = state or {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    bad = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if bad:
        raise EngineError(
            f"{len(bad)} adapter weights are not finite (first: {bad[0]}), so nothing was saved; "
            "lower train.learning_rate and start anew"
        )
    model.save_pretrained(path, state_dict=state, safe_serialization=True, save_embedding_layers=False)
    as_plain_lora(model, path)
    (path / "README.md").unlink(missing_ok=True)  # peft's empty model card
    config_file = path / "adapter_config.json"
    config = json.loads(config_file.read_text())
    # peft writes the local path of the base, and target_modules from a set: neither is the same twice
    config["base_model_name_or_path"] = sidecar["base"]["id"]
    config["revision"] = sidecar["base"]["revision"]
    config["target_modules"] = (
        sorted(config["target_modules"]) if isinstance(config["target_modules"], list) else (config["target_modules"])
    )
    write_json(config_file, config)
    write_json(path / SIDECAR, sidecar)


def read_sidecar(path: Path) -> dict:
    """medtune.json of an adapter or a merged model; EngineError where there is none."""
    try:
        return json.loads((path / SIDECAR).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise EngineError(
            f"{path / SIDECAR} cannot be read ({error}); this directory was not made by medtune"
        ) from None


def load_adapter(model: "PreTrainedModel", path: Path, base_fingerprint: str) -> "PeftModel":
    """A saved adapter on its base, for inference. EngineError on any other base, naming both."""
    from peft import PeftModel

    made_for = read_sidecar(path)["base"]
    if made_for["fingerprint"] != base_fingerprint:
        raise EngineError(
            f"the adapter in {path} was trained on {made_for['id']} at {made_for['revision']} (fingerprint "
            f"{made_for['fingerprint'][:12]}), and this base has fingerprint {base_fingerprint[:12]}; "
            "an adapter on another base gives wrong answers without an error"
        )
    return PeftModel.from_pretrained(model, path, is_trainable=False).eval()


def write_json(path: Path, data: object) -> None:
    """Indented, keys sorted, through a temporary name."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)
