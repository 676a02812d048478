"""Base, adapter and merged model for one evaluation: loaded when first asked for, one set of weights at a time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.engine.load import load_model
from medtune.engine.lora import load_adapter
from medtune.engine.resident import load_resident

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass
class Weights:
    """Where the weights are and how they are loaded. The base is the NF4 one that was trained on, where it was one."""

    base_path: Path
    fingerprint: str
    quantization: dict[str, Any]
    adapter_path: Path
    merged_path: Path
    device: "torch.device"
    dtype: "torch.dtype"
    adapted: "PeftModel | None" = field(default=None, init=False)

    @contextmanager
    def base(self) -> "Iterator[PeftModel]":
        """The base alone: the adapter is switched off, and both share the weights."""
        with self.adapter() as model, model.disable_adapter():
            yield model

    @contextmanager
    def adapter(self) -> "Iterator[PeftModel]":
        """Base and adapter, as they were trained."""
        if self.adapted is None:
            base = load_resident(self.base_path, **self.quantization, device=self.device, dtype=self.dtype)
            self.adapted = load_adapter(base, self.adapter_path, self.fingerprint)
        yield self.adapted

    @contextmanager
    def merged(self) -> "Iterator[PreTrainedModel]":
        """The merged model; the others are let go first."""
        self.adapted = None
        self._free()
        model = load_model(self.merged_path, device=self.device, dtype=self.dtype)
        try:
            yield model
        finally:
            del model
            self._free()

    def _free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
