"""A model of the Llama architecture as one GGUF file, for llama.cpp and what is built on it.

write_gguf(Path("merged"), Path("model.gguf"), "q8_0", name="medgpt-ko", version=digest)

LlamaForCausalLM covers SmolLM2, Llama 2 and 3, SOLAR and KULLM3. The layout is that of llama.cpp's own
conversion/llama.py: q and k rows permuted from halves to pairs, norms in float32, Llama 3's rope as rope_freqs.
One tensor is in memory at a time.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.engine.gguf_vocabulary import vocabulary
from medtune.engine.load import load_tokenizer
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter

DTYPES = ("f16", "bf16", "q8_0")
CONVERTER = (
    "llama.cpp's own converter may know it: python convert_hf_to_gguf.py FOLDER, from a checkout of "
    "github.com/ggml-org/llama.cpp"
)
# of the precision that the weights are stored in; float32 has no file type of its own here, and is rounded to float16
KEEPS = {"bfloat16": "bf16", "float16": "f16", "float32": "f16"}


def write_gguf(folder: Path, out: Path, dtype: str, name: str, version: str) -> None:
    """Write `out` from a folder of safetensors, config and tokenizer. dtype: one of DTYPES.

    EngineError where the model is of another architecture, has a rope or a tokenizer that is not written here, or holds
    weights beyond float16.
    """
    import gguf

    config = read_config(folder)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_string("medtune.version", version)
    _hyperparameters(writer, config, folder)
    kind = {"f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}[dtype]
    writer.add_file_type(gguf.LlamaFileType[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _sampling(writer, folder)
    vocabulary(folder, load_tokenizer(folder), config["vocab_size"]).add_to(writer)
    _tensors(writer, folder, config, dtype)
    writer.close()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model that is written here; EngineError names what is not."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).to_dict()
    names = config.get("architectures") or ["of no named architecture"]
    if names != ["LlamaForCausalLM"]:
        raise EngineError(f"{folder} is {', '.join(names)}, and only LlamaForCausalLM is written as GGUF; {CONVERTER}")
    if config.get("quantization_config"):
        raise EngineError(f"{folder} is quantised already; export the merged model, which is not")
    if config["hidden_act"] != "silu":
        raise EngineError(f"{folder} computes with {config['hidden_act']}, and llama.cpp with silu; {CONVERTER}")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise EngineError(f"{folder} has biases, which are not written as GGUF here; {CONVERTER}")
    kind = config["rope_parameters"].get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise EngineError(f"{folder} has rope of type {kind}, which is not written as GGUF here; {CONVERTER}")
    return config


def _hyperparameters(writer: "GGUFWriter", config: dict, folder: Path) -> None:
    import gguf

    heads, rope = config["num_attention_heads"], config["rope_parameters"]
    width = head_width(config)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope["rope_theta"])
    if width * heads != config["hidden_size"]:
        writer.add_key_length(width)
        writer.add_value_length(width)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def head_width(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _sampling(writer: "GGUFWriter", folder: Path) -> None:
    """How answers are drawn, out of generation_config.json: llama.cpp takes them for what is not asked otherwise."""
    file = folder / "generation_config.json"
    drawn = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if drawn.get("do_sample"):
        for key, add in (("temperature", "temp"), ("top_k", "top_k"), ("top_p", "top_p")):
            if drawn.get(key) is not None:
                getattr(writer, f"add_sampling_{add}")(drawn[key])
        if drawn.get("repetition_penalty") is not None:
            writer.add_sampling_penalty_repeat(drawn["repetition_penalty"])
            writer.add_sampling_penalty_last_n(-1)  # over all that was said, as transformers has it


def rope_factors(config: dict) -> "torch.Tensor | None":
    """What llama.cpp divides each frequency by, (head width / 2,) in float32; None where rope is not Llama 3's.

    Source: the formula of Llama 3.1, as transformers computes it in modeling_rope_utils.
    """
    import torch

    rope = config["rope_parameters"]
    if rope.get("rope_type") != "llama3":
        return None
    width = head_width(config)
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    lengths = 2 * math.pi / frequencies
    smooth = (rope["original_max_position_embeddings"] / lengths - low) / (high - low)
    return (1 / ((1 - smooth.clamp(0, 1)) / factor + smooth.clamp(0, 1))).float()


def permute(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Rows of a q or k projection, (heads x width, …), from two halves of each head to neighbouring pairs."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _tensors(writer: "GGUFWriter", folder: Path, config: dict, dtype: str) -> None:
    """Announce every tensor, then write one after the other."""
    import gguf
    import numpy as np
    from safetensors import safe_open

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    files = sorted(folder.glob("*.safetensors"))
    plan = []
    for file in files:
        with safe_open(file, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118 - no mapping
                if key == "lm_head.weight" and config["tie_word_embeddings"]:
                    continue  # llama.cpp takes the embedding where there is no output
                target = names.get_name(key, try_suffixes=(".weight",))
                if target is None:
                    raise EngineError(f"{file.name} holds {key}, which a Llama has not; {CONVERTER}")
                shape = shard.get_slice(key).get_shape()
                plan.append((target, file, key, shape, _kind(shape, dtype)))
    if not config["tie_word_embeddings"] and not any(key == "lm_head.weight" for _, _, key, _, _ in plan):
        raise EngineError(f"{folder} has no lm_head.weight, and config.json does not tie it to the embedding")
    factors = rope_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, np.dtype(np.float32), factors.nbytes)
    for target, _, _, shape, kind in plan:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = math.prod(shape) // block * size
        packed = shape if kind == gguf.GGMLQuantizationType.F32 or kind == gguf.GGMLQuantizationType.F16 else None
        if packed is None:
            writer.add_tensor_info(
                target, gguf.quant_shape_to_byte_shape(shape, kind), np.dtype(np.uint8), count, raw_dtype=kind
            )
        else:
            number = np.dtype(np.float32 if kind == gguf.GGMLQuantizationType.F32 else np.float16)
            writer.add_tensor_info(target, shape, number, count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    opened = {}
    for target, file, key, _, kind in plan:
        if file not in opened:
            opened = {file: safe_open(file, framework="pt")}  # one shard at a time
        weight = opened[file].get_tensor(key).float()
        if key.endswith("q_proj.weight"):
            weight = permute(weight, config["num_attention_heads"])
        elif key.endswith("k_proj.weight"):
            weight = permute(weight, config["num_key_value_heads"])
        if kind == gguf.GGMLQuantizationType.F16 and float(weight.abs().max()) > float(np.finfo(np.float16).max):
            raise EngineError(f"{target} holds weights beyond float16; export with --dtype bf16")
        writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(weight.numpy()), kind))


def _kind(shape: list[int], dtype: str) -> Any:
    """How a tensor is stored: norms in float32; rows that no block of 32 fits into in float16."""
    from gguf import GGMLQuantizationType as Kind

    if len(shape) == 1:
        return Kind.F32
    if dtype == "q8_0" and shape[-1] % 32:
        return Kind.F16
    return {"f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0}[dtype]
