"""Frozen weights and adapters of a layer's linear groups: those that read the same input are one matrix product.

The base of a group is either resident in the compute precision (for an NF4 base: exactly what bitsandbytes dequantises)
or packed NF4, dequantised into one scratch matrix that all groups share. Adapter weights are fp32 parameters; their
copies in the compute precision are made once a forward pass, laid out for one product a group: A stacked, B
block-diagonal and scaled, the rank padded with zeros to a power of two.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"  # peft's name of the only adapter
NARROWEST = 16  # tensor cores take no narrower tiles


class Group:
    """Linear layers with one input. out_sizes: rows of each; ranks: 0 where a layer has no adapter."""

    def __init__(self, places: list[tuple[nn.Module, str]], scratch: "Scratch"):
        self.places = places  # (parent, name) of each layer
        modules: list[nn.Module | LoraLayer] = [getattr(parent, name) for parent, name in places]
        self.modules = modules
        self.scratch = scratch
        self.resident: torch.Tensor | None = None
        bases = [base_of(module) for module in modules]
        self.out_sizes = [base.out_features for base in bases]
        self.in_size = bases[0].in_features
        self.ranks = [module.r[ADAPTER] if _adapted(module) else 0 for module in modules]
        self.rank = sum(self.ranks)
        self.width = max(NARROWEST, 1 << (self.rank - 1).bit_length()) if self.rank else 0
        scales = {module.scaling[ADAPTER] for module in modules if _adapted(module)}
        if len(scales) > 1:
            raise ValueError("adapters of one group have different scales")
        self.scale = scales.pop() if scales else 0.0
        self.dropout = max((_dropout(module) for module in modules if _adapted(module)), default=0.0)
        self.a = self.b = None  # (width, in) and (out, width), the latter times scale; set by Adapters
        self.packed = is_packed(bases[0])
        if self.packed:
            scratch.reserve(self.out_size * self.in_size)

    @property
    def out_size(self) -> int:
        return sum(self.out_sizes)

    def parameters(self) -> list[nn.Parameter]:
        """A, B of each adapted layer, in order."""
        return [
            weight
            for module, rank in zip(self.modules, self.ranks, strict=True)
            if rank
            for weight in (module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight)
        ]

    def make_resident(self, dtype: torch.dtype) -> None:
        """One matrix (out, in) in `dtype`; the layers' own weights become views of it, packed ones are let go."""
        device = base_of(self.modules[0]).weight.device
        self.resident = torch.empty(self.out_size, self.in_size, device=device, dtype=dtype)
        for n, rows in enumerate(self.resident.split(self.out_sizes)):
            module = self.modules[n]
            base = base_of(module)
            _write_base(base, rows)
            plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
            plain.weight = nn.Parameter(rows, requires_grad=False)
            if module is base:
                setattr(*self.places[n], plain)
                self.modules[n] = plain
            else:
                module.base_layer = plain
        self.packed = False

    def weight(self) -> torch.Tensor:
        """The base (out, in) in the compute precision; valid until the next call for a packed group."""
        if self.resident is not None:
            return self.resident
        whole = self.scratch.take(self.out_size * self.in_size).view(self.out_size, self.in_size)
        for module, rows in zip(self.modules, whole.split(self.out_sizes), strict=True):
            _write_base(base_of(module), rows)
        return whole

    def gradients(self, da: torch.Tensor, db: torch.Tensor, into: list[torch.Tensor] | None) -> list[torch.Tensor]:
        """Gradients of parameters() in fp32 from da (width, in) and db (out, width), the latter not yet scaled.

        into: where they are written; None for new tensors.
        """
        found, row, column = [], 0, 0
        for rank, size in zip(self.ranks, self.out_sizes, strict=True):
            if rank:
                a, b = da[column : column + rank], db[row : row + size, column : column + rank]
                if into is None:
                    found += [a, b * self.scale]
                else:
                    into[len(found)].copy_(a)
                    torch.mul(b, self.scale, out=into[len(found) + 1])
                    found += into[len(found) : len(found) + 2]
                column += rank
            row += size
        return found


class Scratch:
    """Room for the largest packed group once dequantised. All work is on one stream, so that one is enough."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype, self.size, self.room = device, dtype, 0, None

    def reserve(self, size: int) -> None:
        self.size = max(self.size, size)

    def take(self, size: int) -> torch.Tensor:
        if self.room is None:
            self.room = torch.empty(self.size, device=self.device, dtype=self.dtype)
        return self.room[:size]


class Adapters:
    """The adapters of all groups in the compute precision: all A in one buffer, all B in another."""

    def __init__(self, groups: list[Group], device: torch.device, dtype: torch.dtype):
        adapted = [group for group in groups if group.rank]
        self.parameters = [weight for group in adapted for weight in group.parameters()]
        self.all_a = torch.zeros(sum(g.width * g.in_size for g in adapted), device=device, dtype=dtype)
        self.all_b = torch.zeros(sum(g.width * g.out_size for g in adapted), device=device, dtype=dtype)
        self.copies: list[torch.Tensor] = []
        self.scaled: list[tuple[torch.Tensor, float]] = []  # stretches of all_b with one scale
        a_start = b_start = 0
        for group in adapted:
            a_end, b_end = a_start + group.width * group.in_size, b_start + group.width * group.out_size
            group.a = self.all_a[a_start:a_end].view(group.width, group.in_size)
            group.b = self.all_b[b_start:b_end].view(group.out_size, group.width)
            self.scaled.append((self.all_b[b_start:b_end], group.scale))
            a_start, b_start, row, column = a_end, b_end, 0, 0
            for rank, size in zip(group.ranks, group.out_sizes, strict=True):
                if rank:
                    self.copies += [group.a[column : column + rank], group.b[row : row + size, column : column + rank]]
                    column += rank
                row += size
        if len({scale for _, scale in self.scaled}) == 1:
            self.scaled = [(self.all_b, self.scaled[0][1])]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the fp32 weights. Always: bitsandbytes' optimizers write past autograd's version counters."""
        for kind in (0, 1):  # A is contiguous in both places, so that it goes in a few launches
            torch._foreach_copy_(self.copies[kind::2], [weight.detach() for weight in self.parameters[kind::2]])
        for stretch, scale in self.scaled:
            stretch.mul_(scale)


def base_of(module: nn.Module) -> nn.Module:
    """The frozen layer under an adapter, or the layer itself."""
    return module.base_layer if hasattr(module, "base_layer") else module


def is_packed(base: nn.Module) -> bool:
    """Whether a layer holds 4-bit words."""
    return hasattr(base.weight, "quant_state")


def _adapted(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and ADAPTER in module.lora_A


def _dropout(module: "LoraLayer") -> float:
    return getattr(module.lora_dropout[ADAPTER], "p", 0.0)


def _write_base(base: nn.Module, rows: torch.Tensor) -> None:
    if is_packed(base):
        from bitsandbytes.functional import dequantize_4bit

        state = base.weight.quant_state
        if state.dtype == rows.dtype and rows.is_cuda:  # the CPU kernel takes no out
            dequantize_4bit(base.weight.data, state, out=rows)
        else:
            rows.copy_(dequantize_4bit(base.weight.data, state))
    else:
        rows.copy_(base.weight)
