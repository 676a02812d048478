"""One model twice: by transformers' own layers, each sample alone, and by the fused layers, all samples in one row."""

from pathlib import Path

import torch
from conftest import write_tiny_base

from medtune.engine.fused.backbone import Fused
from medtune.engine.load import load_model
from medtune.engine.lora import attach
from medtune.engine.packing import PackingCollator
from medtune.params.lora import Lora

LENGTHS = (7, 1, 22)  # a sample of one token has a first token only, which nothing predicts
CPU = torch.device("cpu")


def write_base(path: Path, layers: int = 3, hidden: int = 64) -> Path:
    """A tiny Llama with grouped queries whose norms are not all ones, so that their weights count."""
    write_tiny_base(path, hidden, layers)
    model = load_model(path, device=CPU, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = 1 + 0.2 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(path)
    return path


def adapted(base: Path, quantization: str, device: torch.device = CPU, dtype: torch.dtype = torch.float32, **lora):
    """A model with an adapter that has been trained a little: B is not zero, or A would get no gradient."""
    model = load_model(base, quantization=quantization, device=device, dtype=dtype)
    model = attach(model, Lora(**({"r": 4, "alpha": 8, "targets": "all-linear"} | lora)), seed=0)
    generator = torch.Generator().manual_seed(2)
    for name, weight in adapter(model).items():
        if "lora_B" in name:
            weight.data = 0.05 * torch.randn(weight.shape, generator=generator).to(weight.device)
        weight.data = weight.data.float()
    return model


def fuse(model, dtype: torch.dtype = torch.float32, resident: bool = True, recomputed: int = 0) -> Fused:
    fused = Fused(model.get_base_model(), dtype)
    fused.make_resident(resident)
    fused.recompute(recomputed)
    fused.install()
    return fused


def adapter(model) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def samples(lengths: tuple[int, ...] = LENGTHS, vocabulary: int = 300) -> list[dict]:
    """Samples of random ids; the first third of each is prompt."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for length in lengths:
        ids = torch.randint(vocabulary, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [-100 if i < length // 3 else token for i, token in enumerate(ids)]})
    return made


def packed(lengths: tuple[int, ...] = LENGTHS, device: torch.device = CPU) -> dict:
    batch = PackingCollator()(samples(lengths))
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def packed_loss(model, batch: dict) -> torch.Tensor:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = model(**inputs).logits[0]
    return torch.nn.functional.cross_entropy(logits[:-1].float(), batch["labels"][0, 1:])


def own_loss(model, made: list[dict]) -> torch.Tensor:
    """The same mean over target tokens by the model's own forward, sample by sample: neither packing nor padding."""
    total = count = 0
    for sample in made:
        ids, labels = (torch.tensor(sample[key], device=model.device) for key in ("input_ids", "labels"))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[:-1].float(), labels[1:], reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count


def loss_and_gradients(model, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return float(loss.detach()), {name: weight.grad.clone() for name, weight in adapter(model).items()}


def assert_same(found: tuple, wanted: tuple, tolerance: float) -> None:
    """Losses, and each gradient as a whole: the norm of the difference against the norm."""
    assert abs(found[0] - wanted[0]) <= tolerance * abs(wanted[0])
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        assert gradient.norm() > 0, f"{name} has no gradient to compare"
        off = (found[1][name].float() - gradient.float()).norm() / gradient.float().norm()
        assert off <= tolerance, f"{name} is off by {off:.2e}"
