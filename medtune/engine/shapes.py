"""What a model's config says about its size: layers, linears and parameters, without a weight being loaded."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from medtune.params.lora import Lora


@dataclass(frozen=True)
class Linear:
    """One linear of a decoder layer: the last part of its name, its width in and out."""

    name: str
    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shape:
    """A causal language model in numbers. hidden, ffn, query and key are widths in elements; heads counts queries."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    query: int  # heads x head size
    key: int  # key-value heads x head size
    vocabulary: int
    linears: tuple[Linear, ...]  # of one layer, in order
    parameters: int  # all, a tied head once
    embedding: int
    head: int  # 0 where it is tied to the embedding
    llama: bool  # the fused layers can stand in for its own
    flash: bool  # its attention needs no (heads, T, T) matrix

    @property
    def quantised(self) -> int:
        """Parameters that NF4 packs: the linears of all layers, the head left out."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def plain(self) -> int:
        """Parameters that stay in 16 bit whatever the quantization: embedding, head, norms, biases."""
        return self.parameters - self.quantised

    @property
    def largest(self) -> int:
        """Elements of the largest linear."""
        return max(linear.weights for linear in self.linears)

    def adapted(self, lora: "Lora") -> tuple[Linear, ...]:
        """The linears of a layer that get an adapter."""
        return tuple(linear for linear in self.linears if lora.targets == "all-linear" or linear.name in lora.targets)


def read_shape(config: "PretrainedConfig") -> Shape:
    """The shape of what transformers would build from a config. Built on the meta device: no memory, a second at most.

    Layers of one model are taken to be alike, which holds for every decoder that transformers calls dense.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings().weight
    text = config.get_text_config()
    layers = text.num_hidden_layers
    blocks = next(
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == layers
        and any(isinstance(part, (nn.Linear, Conv1D)) for part in module.modules())
    )
    linears = []
    for name, module in blocks[0].named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            rows, columns = module.weight.shape
            inputs, outputs = (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
            linears.append(Linear(name.rsplit(".", 1)[-1], inputs, outputs))
    hidden, heads = text.hidden_size, text.num_attention_heads
    size = getattr(text, "head_dim", None) or hidden // heads
    tied = head is None or head.weight is embedding or bool(getattr(text, "tie_word_embeddings", False))
    return Shape(
        layers=layers,
        hidden=hidden,
        ffn=max(linear.outputs for linear in linears),
        heads=heads,
        query=heads * size,
        key=(getattr(text, "num_key_value_heads", None) or heads) * size,
        vocabulary=embedding.shape[0],
        linears=tuple(linears),
        parameters=sum(weight.numel() for weight in model.parameters()),
        embedding=embedding.numel(),
        head=0 if tied else head.weight.numel(),
        llama=text.model_type == "llama" and text.hidden_act == "silu" and not text.attention_bias,
        flash=bool(getattr(model, "_supports_sdpa", False)),
    )
