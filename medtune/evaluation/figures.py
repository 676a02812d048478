"""Pictures for people who look rather than read; PNG, so that they open anywhere and need no network."""

import math
from pathlib import Path

BLUE, ORANGE, GREY = "#2f6db3", "#d9822b", "#8a8f98"


def loss_curves(history: list[dict], path: Path) -> None:
    """Training and validation loss over steps."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    train = [(h["step"], h["loss"]) for h in history if "loss" in h]
    validation = [(h["step"], h["eval_loss"]) for h in history if "eval_loss" in h]
    axes.plot(*zip(*train, strict=True), color=BLUE, linewidth=1.5, label="train")
    if validation:
        axes.plot(*zip(*validation, strict=True), color=ORANGE, marker="o", linewidth=1.5, label="validation")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per target token)", title="Loss while training")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def base_against_adapter(base: list[dict], adapter: list[dict], difference: dict, path: Path) -> None:
    """Each test row as a point: surprise of the base (x) against that of the adapter (y); below the line is better."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
    x, y = ([s["nll"] / s["chars"] for s in scores] for scores in (base, adapter))
    finite = [value for value in x + y if math.isfinite(value)] or [0.0, 1.0]  # NaN is the gate's to judge
    low, high = min(finite) * 0.95, max(finite) * 1.05
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle="--", label="no difference")
    axes.scatter(x, y, s=18, color=BLUE, alpha=0.7, label="a test row")
    better = sum(b < a for a, b in zip(x, y, strict=True))
    mean = "is no number" if difference["mean"] is None else f"{difference['mean']:+.3f}"
    interval = (
        f"[{difference['low']:+.3f}, {difference['high']:+.3f}]" if difference["low"] is not None else "no interval"
    )
    axes.set(
        xlim=(low, high),
        ylim=(low, high),
        xlabel="base: nats per character",
        ylabel="adapter: nats per character",
        title=f"Adapter minus base {mean} {interval}\nbetter on {better} of {len(x)} rows",
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
