"""Lengths of the tokenized rows as a picture, since `dvc plots` draws only with a network."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

COLOURS = {"train": "#2f6db3", "validation": "#d9822b", "test": "#8a8f98"}


def draw_lengths(splits: "dict[str, Dataset]", max_length: int, path: Path) -> None:
    """A histogram of tokens a row as PNG, stacked by split, with tokenize.max_length as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lengths = {name: [len(ids) for ids in dataset["input_ids"]] for name, dataset in splits.items()}
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.hist(
        list(lengths.values()), bins=40, stacked=True, label=list(lengths), color=[COLOURS[name] for name in lengths]
    )
    axes.axvline(max_length, color="black", linewidth=1, linestyle="--", label=f"max_length {max_length}")
    axes.set(xlabel="tokens", ylabel="rows", title="Lengths of the tokenized rows")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)
    os.replace(temporary, path)
