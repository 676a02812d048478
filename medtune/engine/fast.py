"""The fast engine: all that is added to trl's loop, in one file. train.engine: reference leaves every line of it out.

What is learned stays the same: the same samples an optimizer step, the same labels, the loss normalised by the target
tokens of the whole step, the same NF4 weights. What changes is how it is computed:

- the samples of a step lie end to end in one row, without padding, attention by their boundaries (packing.py)
- a layer's forward and backward are written by hand around the frozen base (fused/), which may be resident in 16 bit
- the optimizer sees the adapter as one flat weight (672 small ones cost it 86 ms a step on an H100, one 1.4 ms),
  and nobody waits for it
"""

from typing import TYPE_CHECKING

from medtune.engine.fused.backbone import Fused, unsupported
from medtune.engine.leaks import check_samples_apart
from medtune.engine.memory import EIGHT_BIT_FROM

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from medtune.engine.choice import Choice


BLOCK = 256  # values of a moment that share a scale in bitsandbytes' 8-bit optimizers


def why_not(model: "PeftModel", dtype: "torch.dtype") -> str | None:
    """Why this model trains by the reference engine, in a clause; None where the fast one takes it."""
    import torch

    device = next(model.parameters()).device
    if device.type == "cuda" and dtype != torch.bfloat16:
        return f"the kernels compute in bfloat16, not {dtype}"
    return unsupported(model.get_base_model())


def prepare(model: "PeftModel", dtype: "torch.dtype", choice: "Choice") -> Fused:
    """Fused layers into the model as chosen for this machine, and the probe for leaks passed.

    Raises EngineError where packed samples see each other.
    """
    fused = Fused(model.get_base_model(), dtype)
    fused.make_resident(choice.residency == "bf16")
    fused.recompute(choice.recomputed_layers, choice.offload_inputs)
    fused.install()
    check_samples_apart(model.get_base_model(), fused.scratch.device)
    if fused.scratch.device.type == "cuda" and not choice.offload_inputs:
        fused.record(choice.estimate.tokens)
        check_samples_apart(model.get_base_model(), fused.scratch.device, recorded=True)
    if any(group.dropout for group in fused.groups):
        print("lora.dropout above 0: each adapter's input is masked in passes of their own; 0 is the fast path")
    return fused


class FlatOptimizer:
    """Mixin for a Trainer: the optimizer steps one flat weight, of which the adapter's weights are views.

    The result is the same. bitsandbytes' 8-bit optimizers quantise their moments in blocks of 256 values and keep those
    of weights under 4,096 values in fp32: weights that are small, or no multiple of 256 long, stay apart there.
    """

    def create_optimizer(self, model=None):
        import torch

        if self.optimizer is not None:
            return self.optimizer
        cls, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        blocks = cls.__module__.startswith("bitsandbytes")
        weights = [p for p in trained if not blocks or (p.numel() >= EIGHT_BIT_FROM and p.numel() % BLOCK == 0)]
        if not weights:
            return super().create_optimizer(*(() if model is None else (model,)))
        flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in weights]))
        for weight, piece in zip(weights, flat.detach().split([p.numel() for p in weights]), strict=True):
            weight.data = piece.view(weight.shape)
        known = {id(p) for p in weights}
        apart = [p for p in trained if id(p) not in known]
        self.optimizer = cls([{"params": [flat, *apart], "weight_decay": self.args.weight_decay}], **settings)

        def gather(*_):
            flat.grad = torch.cat([p.grad.flatten() for p in weights])

        def release(*_):
            flat.grad = None

        self.optimizer.register_step_pre_hook(gather)
        self.optimizer.register_step_post_hook(release)
        if flat.is_cuda and blocks:
            _step_without_waiting(self.optimizer)
        return self.optimizer


def _step_without_waiting(optimizer) -> None:
    """bitsandbytes waits for the GPU after each weight, so that the host prepares the next step while the GPU idles.

    One stream keeps prefetch, step and all that comes after it in order by itself; only who reads the moments on the
    host, as a checkpoint does, must wait.
    """
    import torch
    from bitsandbytes.optim import optimizer as module

    waiting = module.sync_gpu

    def let_run(*_):
        module.sync_gpu = lambda _: None

    def wait_again(*_):
        module.sync_gpu = waiting

    optimizer.register_step_pre_hook(let_run)
    optimizer.register_step_post_hook(wait_again)
    optimizer.register_state_dict_pre_hook(lambda _: torch.cuda.synchronize())
