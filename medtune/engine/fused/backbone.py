"""The fused layers in place of a transformers model's own: its backbone's forward, for rows of packed samples."""

from types import MethodType
from typing import TYPE_CHECKING

import torch
from torch import nn

from medtune.engine.fused.attention import Segments
from medtune.engine.fused.graphs import Stack
from medtune.engine.fused.layer import GROUPS, Batch, Layer, Run
from medtune.engine.fused.weights import Adapters, Scratch, base_of, is_packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unsupported(model: "PreTrainedModel") -> str | None:
    """Why the fused layers cannot stand in for this model's own, in a clause; None where they can.

    model: the causal language model with its adapter attached (peft's wrapping taken off).
    """
    from transformers import LlamaForCausalLM

    if type(model) is not LlamaForCausalLM:
        return f"{type(model).__name__} has other layers than Llama's"
    config = model.config
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    if getattr(config, "attention_dropout", 0.0):
        return "its attention drops out"
    device = model.get_input_embeddings().weight.device
    decoder = model.model.layers[0]
    head = decoder.self_attn.head_dim
    if device.type == "cuda" and (head > 256 or head & (head - 1)):
        return f"its heads are {head} wide, and the kernels want a power of two up to 256"
    for decoder in model.model.layers:
        for names in GROUPS:
            modules = [getattr(decoder.self_attn, n, None) or getattr(decoder.mlp, n) for n in names]
            bases = [base_of(module) for module in modules]
            if any(base.bias is not None for base in bases):
                return "its linear layers have biases"
            if len({is_packed(base) for base in bases}) > 1:
                return "some of its linear layers are quantised beside others that are not"
            for name, module in zip(names, modules, strict=True):
                if any(getattr(module, "use_dora", {}).values()):
                    return f"{name} is a DoRA layer"
                if getattr(module, "lora_bias", {}).get("default"):
                    return f"the adapter of {name} has a bias"
    return None


class Fused:
    """Fused layers of a Llama model; close() gives the model its own forward back.

    dtype: what is computed in. After install(), the backbone takes rows of packed samples: input_ids and position_ids
    (1, T), cu_seq_lens_q (samples + 1,) int32, max_length_q. Any other call goes the model's own way.
    """

    def __init__(self, model: "PreTrainedModel", dtype: torch.dtype):
        self.backbone = model.model
        device = model.get_input_embeddings().weight.device
        if device.type == "cuda":
            from medtune.engine.fused import kernels as steps
        else:
            from medtune.engine.fused import plain as steps
        self.dtype = dtype
        self.scratch = Scratch(device, dtype)
        self.layers = [Layer(decoder, i, self.scratch, steps) for i, decoder in enumerate(self.backbone.layers)]
        self.groups = [group for layer in self.layers for group in layer.groups]
        self.adapters = Adapters(self.groups, device, dtype)
        self.original = self.backbone.forward
        self.graphs = None

    def make_resident(self, packed: bool) -> None:
        """Hold the base in the compute precision, one matrix a group; packed: the 4-bit groups too."""
        for group in self.groups:
            if packed or not group.packed:
                group.make_resident(self.dtype)

    def recompute(self, layers: int, offload: bool = False) -> None:
        """Make the first `layers` layers' activations again in backward; offload: their inputs wait on the host."""
        store = None
        if offload and self.scratch.device.type == "cuda":
            from medtune.engine.fused.store import Store

            store = Store(self.scratch.device, len(self.layers))
        for layer in self.layers:
            layer.recompute = layer.index < layers
            layer.store = store if layer.recompute else None

    def record(self, tokens: int) -> None:
        """Training steps on CUDA as graphs. Not with inputs on the host: their copies run beside the layers.

        tokens: of the longest step to expect; a longer one costs a little memory more.
        """
        from medtune.engine.fused.graphs import Graphs

        self.graphs = Graphs(self.layers, self.adapters, tokens)

    def install(self) -> None:
        def forward(backbone: nn.Module, input_ids=None, **kwargs):
            if kwargs.get("cu_seq_lens_q") is None:
                return self.original(input_ids=input_ids, **kwargs)
            return self(input_ids, **kwargs)

        self.backbone.forward = MethodType(forward, self.backbone)

    def close(self) -> None:
        self.backbone.forward = self.original

    def __call__(self, input_ids, position_ids=None, cu_seq_lens_q=None, max_length_q=None, **_):
        from transformers.modeling_outputs import BaseModelOutputWithPast

        backbone = self.backbone
        self.adapters.refresh()
        # no autocast: every product is in the compute precision already
        with torch.autocast(input_ids.device.type, enabled=False):
            h = backbone.embed_tokens(input_ids)[0].to(self.dtype)
            cos, sin = backbone.rotary_emb(h[None], position_ids=position_ids)
            bounds = () if h.is_cuda else tuple(cu_seq_lens_q.tolist())
            dropping = backbone.training and any(group.dropout for group in self.groups)
            batch = Batch(
                cos[0].contiguous(),
                sin[0].contiguous(),
                Segments(cu_seq_lens_q, bounds, int(max_length_q)),
                # drawn on the host, whose generator a checkpoint holds
                torch.randint(2**30, (1,), dtype=torch.int32).to(h.device, non_blocking=True) if dropping else None,
            )
            h = backbone.norm(self._layers(h, batch))
        return BaseModelOutputWithPast(last_hidden_state=h[None])

    def _layers(self, h: torch.Tensor, batch: Batch) -> torch.Tensor:
        if torch.is_grad_enabled() and self.graphs:
            return Stack.apply(h, batch, self.graphs, *self.graphs.parameters)
        y = None
        for layer in self.layers:
            if torch.is_grad_enabled():
                h, y = Run.apply(h, y, layer, batch, *layer.parameters())
            else:
                h, y, _ = layer.forward(h, y, batch, keep=False)
        return h + y
