"""The fast engine: all that is added to trl's loop, in one file. train.engine: reference leaves every line of it out.

What is learned stays the same: the same samples an optimizer step, the same labels, the loss normalised by the target
tokens of the whole step, the same NF4 weights. What changes is how it is computed:

- the samples of a step lie end to end in one row, without padding, attention by their boundaries (packing.py)
- a layer's forward and backward are written by hand around the frozen base (fused/), which may be resident in 16 bit
- the optimizer sees the adapter as one flat weight (672 small ones cost it 86 ms a step on an H100, one 1.4 ms),
  and nobody waits for it
- no number of a step is read on the host before the step is queued whole: each wait costs what the GPU idles until the
  next launch, some 10 of 220 ms a step on an H100
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


class UnwaitedLoss:
    """Mixin before trl's SFTTrainer: its loss and metrics on packed samples, without waiting for the GPU.

    trl finds the target positions on the GPU and reads three metrics at each step. Here the positions come with the
    batch (packing.py), trl's kernel scores them, and the metrics stay on the device until they are logged.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        positions = inputs.pop("target_positions", None)
        if positions is None or not self.model.training or return_outputs or self.accelerator.num_processes > 1:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction
        from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

        causal = self.accelerator.unwrap_model(model).get_base_model()
        labels, head = inputs["labels"][0], causal.get_output_embeddings().weight
        with self.accelerator.autocast():
            hidden = causal.model(**{k: v for k, v in inputs.items() if k != "labels"}).last_hidden_state[0]
            log_probs, entropy, _, _, is_top1 = ChunkedLogProbFunction.apply(
                hidden.index_select(0, positions), head, None, labels.index_select(0, positions + 1),
                1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy", "is_top1"),
            )  # fmt: skip
        found = max(len(positions), 1)
        loss = -log_probs.sum() / (found if num_items_in_batch is None else num_items_in_batch)
        metrics = self._metrics["train"]
        metrics["entropy"].append(entropy.detach().sum() / found)
        metrics["mean_token_accuracy"].append(is_top1.sum() / found)
        self._total_train_tokens += inputs["input_ids"].numel()
        metrics["num_tokens"] = [self._total_train_tokens]
        return loss

    def log(self, logs, *args, **kwargs):
        for kept in self._metrics.values():
            for name, values in kept.items():
                kept[name] = [float(value) for value in values]
        super().log(logs, *args, **kwargs)


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
