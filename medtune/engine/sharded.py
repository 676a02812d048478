"""QLoRA with the base in slices over several GPUs: PyTorch's FSDP2 under trl's SFTTrainer.

The model is sharded here and not by accelerate or the Trainer (`fsdp=True`), because they

- set MixedPrecisionPolicy(param_dtype=bf16): the packed NF4 words, stored as bf16, are then copied as bf16 numbers, and
  on CUDA every word that reads as NaN changes. The base silently becomes another model (bitsandbytes issue 1945).
  Without param_dtype a group that mixes fp32 (LoRA) and bf16 travels as bytes, and autocast does the casting.
  `watch_words` holds it against the file at every start;
- gather the frozen base whole on rank 0 at every checkpoint (38 GiB at 70 B), and with fsdp_config's
  activation_checkpointing save an adapter of 40 bytes. Here only the adapter is gathered;
- know no FSDP on CPUs, so that nothing of it could be tested without GPUs.

The Trainer stays the loop: it splits the rows over the ranks and divides the loss by the target tokens of the whole
step on all ranks (average_tokens_across_devices), FSDP averages the gradients.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.engine.load import load_model
from medtune.engine.prequantised import INDEX, mapped_base
from medtune.engine.ranks import Ranks
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel
    from trl import SFTTrainer

ADAPTER = "adapter_model.safetensors"


def load_mapped(base: Path, key: str, ranks: Ranks, dtype: "torch.dtype", **quantization) -> "PreTrainedModel":
    """The whole model on the CPU as views of mapped files: every rank has it, and the page cache holds it once.

    `key` names the base's NF4 copy in the user's cache. The folder is kept in model.mapped_from for watch_words.
    """
    import torch

    if quantization["quantization"] == "nf4" and quantization["quant_storage"] != "bfloat16":
        raise EngineError("train.sharding: fsdp shards no integer weights; write base.quant_storage: bfloat16")
    folder = mapped_base(base, key, ranks, dtype=dtype, **quantization)
    # device_map must name the CPU: without it bitsandbytes would put the whole model on each GPU
    model = load_model(folder, **quantization, device=torch.device("cpu"), dtype=dtype)
    model.mapped_from = folder
    model.hf_device_map = {"": "cpu"}  # by name: the Trainer takes a torch.device here for model parallelism
    return model


def shard(trainer: "SFTTrainer", ranks: Ranks, checkpointing: bool) -> None:
    """Cut the trainer's model into slices over the ranks, in place: every rank must call it, once, before train()."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    model = trainer.model
    llm = model.get_base_model()
    for weight in model.parameters():
        if weight.requires_grad:  # trl casts the adapter of a quantised model to bf16
            weight.data = weight.data.float()
    watch_words(model, llm.mapped_from, ranks)
    if checkpointing:
        # Here and not by the Trainer's argument, whose name and default differ between versions. Non-reentrant: it must
        # run FSDP's hooks again in the backward pass.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = {
        "mesh": init_device_mesh(ranks.device.type, (ranks.count,)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=None, reduce_dtype=torch.float32),
    }
    on_host = ranks.offload and ranks.device.type == "cuda"
    offload = {"offload_policy": CPUOffloadPolicy() if on_host else OffloadPolicy()}
    for layer in _layers(llm):  # each moves to the device whole, and keeps its slice
        fully_shard(layer, **policy, **offload)
    embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    if head is not None and head.weight is not embedding.weight:
        fully_shard(embedding, **policy, **offload)
        # A group of its own that is never offloaded: trl's fused head reads its weight without calling it, gathers it
        # where it is a slice, and moves the hidden states to wherever the slice lies
        fully_shard(head, **policy)
    fully_shard(model, **policy, **offload)  # tied embeddings, the last norm: whole on the device for the whole pass
    # accelerate takes it as prepared: no DDP around it
    model._is_accelerate_prepared = True
    trainer.accelerator.clip_grad_norm_ = _clip


def _layers(llm: "PreTrainedModel") -> list:
    names = set(llm._no_split_modules or ())
    layers = [module for module in llm.modules() if type(module).__name__ in names]
    if not layers:
        raise EngineError(
            f"transformers does not say which modules are the layers of {type(llm).__name__} (_no_split_modules), so "
            "that it cannot be sharded; set train.sharding: none"
        )
    return layers


def _clip(parameters, max_norm, norm_type=2):
    """In accelerate's place, which would hand the Trainer a norm that is itself a slice."""
    import torch

    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def watch_words(model: "PeftModel", folder: Path, ranks: Ranks) -> None:
    """At the first pass, compare the packed words of the first and last layer with the file, while the layers run.

    EngineError from that pass where a 16-bit word differs. The counts are kept in model.words: (compared, changed).
    """
    import bitsandbytes
    import torch
    from safetensors import safe_open

    layers = _layers(model.get_base_model())
    watched = {id(module) for layer in (layers[0], layers[-1]) for module in layer.modules()}
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit) and id(module) in watched
    }
    model.words = (0, 0)
    if not linears:
        return  # not quantised: weights that are numbers survive a copy
    index = folder / INDEX
    files = json.loads(index.read_text())["weight_map"] if index.exists() else {}
    hooks, left = [], set(linears)

    def compare(name: str, module: "torch.nn.Module") -> None:
        if name not in left:  # checkpointing runs the layer again
            return
        left.discard(name)
        entry = name.removeprefix("base_model.model.").removesuffix(".base_layer") + ".weight"
        with safe_open(folder / files.get(entry, "model.safetensors"), "pt") as opened:
            want = opened.get_tensor(entry).flatten().view(torch.int16).to(ranks.device)
        got = module.weight.detach().as_subclass(torch.Tensor).flatten().view(torch.int16)
        changed = int((want != got).sum()) if want.shape == got.shape else want.numel()
        model.words = (model.words[0] + want.numel(), model.words[1] + changed)
        if changed:
            raise EngineError(
                f"{changed} of {want.numel()} packed words of {entry} differ from {folder} while the layer runs: the "
                "base was changed by sharding; this is a defect of medtune/engine/sharded.py with these versions of "
                "torch and bitsandbytes, set train.sharding: none"
            )
        if not left:
            print(f"{model.words[0]:,} packed words of the first and last layer are as in the file", flush=True)
            for hook in hooks:
                hook.remove()

    for name, module in linears.items():
        hooks.append(module.register_forward_pre_hook(lambda m, args, name=name: compare(name, m)))


def whole_adapter(model: "PeftModel") -> dict[str, "torch.Tensor"]:
    """The trained weights, whole, on the CPU, by their names in the model. Every rank must call it; all but 0 may throw
    it away. Not by get_model_state_dict, which would copy bitsandbytes' scales of the frozen base as well."""
    import torch

    found = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight = weight.detach()
            if hasattr(weight, "full_tensor"):
                if weight.device.type != weight.device_mesh.device_type:  # offloaded
                    weight = weight.to(weight.device_mesh.device_type)
                weight = weight.full_tensor()
            found[name] = weight.cpu().clone(memory_format=torch.contiguous_format)
    return found


def put_adapter(model: "PeftModel", folder: Path) -> None:
    """The adapter of a checkpoint into the model: each rank reads the file and keeps its slices."""
    import torch
    from safetensors.torch import load_file
    from torch.distributed.tensor import DTensor, distribute_tensor

    saved = load_file(folder / ADAPTER)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                value = saved.pop(name.replace(".default", ""))
                if isinstance(weight, DTensor):
                    local = weight.to_local()
                    device = weight.device_mesh.device_type
                    # src_data_rank None: every rank has the whole, so that nothing is sent
                    cut = distribute_tensor(value.to(device), weight.device_mesh, weight.placements, src_data_rank=None)
                    local.copy_(cut.to_local())
                else:
                    weight.copy_(value)
    if saved:
        raise EngineError(f"{folder / ADAPTER} holds weights that the adapter has not (first: {min(saved)})")


def trainer_class(ranks: Ranks) -> type:
    """SFTTrainer, or where the model is sharded one that computes under autocast and keeps checkpoints of slices."""
    import torch
    from trl import SFTTrainer

    if not ranks.sharded:
        return SFTTrainer

    class ShardedTrainer(SFTTrainer):
        def _move_model_to_device(self, model, device):
            """Left where it is: shard() moves it slice by slice."""

        def compute_loss_context_manager(self):
            stack = super().compute_loss_context_manager()
            if self.args.bf16:
                # accelerate adds autocast only around models that it prepares. No cache: it would keep casted copies of
                # weights that FSDP has let go of.
                stack.enter_context(torch.autocast(ranks.device.type, torch.bfloat16, cache_enabled=False))
            return stack

        def save_model(self, output_dir=None, _internal_call=False):
            state = whole_adapter(self.model)
            if ranks.main:
                self.model.save_pretrained(output_dir, state_dict=state, save_embedding_layers=False)

        def _save_optimizer_and_scheduler(self, output_dir):
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            torch.save(_slices(self.optimizer, ranks), Path(output_dir) / f"optimizer_{ranks.rank}.pt")
            if ranks.main:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

        def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
            put_adapter(self.model, Path(resume_from_checkpoint))

        def _load_best_model(self):
            # by name: the recorded path is that of the checkout where it was trained
            put_adapter(self.model, Path(self.args.output_dir) / Path(self.state.best_model_checkpoint).name)

        def _load_optimizer_and_scheduler(self, checkpoint):
            if checkpoint is None:
                return
            folder = Path(checkpoint)
            count = len(list(folder.glob("optimizer_*.pt")))
            if count != ranks.count:
                raise EngineError(
                    f"{folder} was written by {count} processes, and {ranks.count} are running; go on with {count} "
                    "(MEDTUNE_PROCESSES or CUDA_VISIBLE_DEVICES), or remove it to start anew"
                )
            saved = torch.load(folder / f"optimizer_{ranks.rank}.pt", map_location="cpu", weights_only=True)
            _put_slices(self.optimizer, saved)
            self.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))

    return ShardedTrainer


def _raw(optimizer):
    return getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it


def _slices(optimizer, ranks: Ranks) -> dict:
    """An optimizer's state with this rank's slices as plain tensors, parameters by their number."""
    state = _raw(optimizer).state_dict()
    plain = {
        n: {key: value.to_local() if hasattr(value, "to_local") else value for key, value in one.items()}
        for n, one in state["state"].items()
    }
    return {"state": plain, "param_groups": state["param_groups"], "ranks": ranks.count}


def _put_slices(optimizer, saved: dict) -> None:
    from torch.distributed.tensor import DTensor

    raw = _raw(optimizer)
    weights = [weight for group in raw.param_groups for weight in group["params"]]

    def wrapped(weight, value):
        if not isinstance(weight, DTensor) or not hasattr(value, "shape") or value.dim() == 0:
            return value
        local = value.to(weight.to_local().device)
        return DTensor.from_local(
            local, weight.device_mesh, weight.placements, shape=weight.shape, stride=weight.stride(), run_check=False
        )

    state = {n: {key: wrapped(weights[n], value) for key, value in one.items()} for n, one in saved["state"].items()}
    raw.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
