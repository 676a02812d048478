"""Models and tokenizers from a directory: safetensors only, no remote code, nothing fetched."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a directory. A missing pad token becomes EOS: labels are masked by length, never by id."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise EngineError(f"the tokenizer in {path} has no EOS token, so a model could not learn to end its answers")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    path: Path,
    *,
    quantization: str = "none",
    double_quant: bool = True,
    quant_storage: str = "uint8",
    device: "torch.device",
    dtype: "torch.dtype",
) -> "PreTrainedModel":
    """A causal language model on one device. quantization "nf4": linears in NF4 (but lm_head), computing in dtype."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = {}
    if found := json.loads((path / "config.json").read_text(encoding="utf-8")).get("quantization_config"):
        _same_quantisation(path, found, quantization, double_quant, quant_storage)
    elif quantization == "nf4":
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quant,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=getattr(torch, quant_storage),
        )
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        device_map={"": device},
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        **settings,
    )
    if found:
        _compute_in(model, dtype)
    model.config.use_cache = True
    if quantization == "nf4" and device.type == "cpu":
        _keep_weights_as_they_are(model)
    return model.eval()


def _same_quantisation(path: Path, found: dict, quantization: str, double_quant: bool, quant_storage: str) -> None:
    """EngineError where a checkpoint that is quantised already is quantised otherwise than the recipe says."""
    is_nf4 = found.get("load_in_4bit") and found.get("bnb_4bit_quant_type") == "nf4"
    there = {
        "quantization": "nf4" if is_nf4 else str(found.get("quant_method")),
        "double_quant": bool(found.get("bnb_4bit_use_double_quant")),
        "quant_storage": found.get("bnb_4bit_quant_storage") or "uint8",
    }
    wanted = {"quantization": quantization, "double_quant": double_quant, "quant_storage": quant_storage}
    for key, value in there.items():
        if value != wanted[key]:
            raise EngineError(
                f"{path} is quantised already with {key}: {value}, and base.{key} is {wanted[key]}; write "
                f"base.{key}: {value}, or name the unquantised model"
            )


def _compute_in(model: "PreTrainedModel", dtype: "torch.dtype") -> None:
    """A quantised checkpoint brings the precision that its writer computed in; ours is that of this device."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = dtype
            module.weight.quant_state.dtype = dtype


def _keep_weights_as_they_are(model: "PreTrainedModel") -> None:
    """Turn off bitsandbytes' repacking for CPUs with AVX512-BF16.

    The first forward pass in eval mode would pack the weights anew for its kernel and round their scales to bf16, for
    good: one validation in the middle of training, and the rest of the training sees another base.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def vocabulary_fits(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """EngineError where the tokenizer has ids that the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise EngineError(f"the tokenizer has {len(tokenizer)} ids and the model {rows} embeddings; they do not match")
