"""A sweep's trials side by side: text for the terminal, CSV, and a picture."""

import csv
import io
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.registry.sweep_grid import SEED, show
from medtune.registry.sweep_record import SweepRecord, TrialRecord, path_of, write_file

COLUMNS = (
    "validation_loss",
    "best_validation_loss",
    "train_loss",
    "steps",
    "seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "candidate",
    "run_id",
    "status",
    "problem",
)


@dataclass(frozen=True)
class Ranked:
    """Trials that differ by their seed alone, or a single one. loss: their mean validation loss; spread: standard
    deviation over seeds, None for fewer than two."""

    params: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    loss: float
    spread: float | None


def rank(record: SweepRecord) -> list[Ranked]:
    """The smallest mean validation loss first. Seeds are no setting: the luckiest of them would not come again."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in record.done():
        params = {key: value for key, value in trial.params.items() if key != SEED}
        groups.setdefault(repr(sorted(params.items())), []).append(trial)
    ranked = []
    for trials in groups.values():
        losses = [float(trial.validation_loss or 0.0) for trial in trials]
        params = {key: value for key, value in trials[0].params.items() if key != SEED}
        spread = statistics.stdev(losses) if len(losses) > 1 else None
        ranked.append(Ranked(params, tuple(trials), statistics.fmean(losses), spread))
    return sorted(ranked, key=lambda item: (item.loss, item.trials[0].id))


def render(record: SweepRecord) -> str:
    """The table for people."""
    ranked = rank(record)
    keys = [key for key in record.keys if key != SEED] or list(record.keys)
    seeds = SEED in record.keys
    head = ["", *keys, "validation loss", *(["± seeds"] if seeds else []), "steps", "seconds", "peak GiB", "trial"]
    rows = [head]
    for place, item in enumerate(ranked, 1):
        best = item.trials[0]
        spread = [f"{item.spread:.4f} ({len(item.trials)})" if item.spread is not None else "one seed"] if seeds else []
        peak = max((trial.peak_memory_bytes or 0) for trial in item.trials)
        rows.append(
            [
                str(place),
                *(show(best.params[key]) for key in keys),
                f"{item.loss:.4f}",
                *spread,
                str(best.steps),
                f"{sum(trial.seconds or 0 for trial in item.trials):,.0f}",
                f"{peak / 2**30:.2f}" if peak else "-",
                best.id,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"failed  {_told(trial)}: {trial.problem}" for trial in record.failed()]
    if len(ranked) > 1:
        lines.append(_caution(ranked, seeds))
    return "\n".join(lines)


def write_table(root: Path, record: SweepRecord) -> list[Path]:
    """reports/sweeps/<name>.csv and .png; the files written."""
    made = [path_of(root, record.name, ".csv")]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["trial", *record.keys, *COLUMNS])
    for trial in [*record.done(), *record.failed()]:
        out.writerow(
            [trial.id, *(show(trial.params[key]) for key in record.keys), *(getattr(trial, c) for c in COLUMNS)]
        )
    write_file(made[0], text.getvalue())
    if record.done():
        made.append(path_of(root, record.name, ".png"))
        _draw(record, made[1])
    return made


def _caution(ranked: list[Ranked], seeds: bool) -> str:
    first, second = ranked[:2]
    gap = second.loss - first.loss
    if not seeds:
        return f"The first is {gap:.4f} ahead, by one seed each: 'train.seed=42,43,44' shows how much of it is luck."
    spread = max(item.spread or 0.0 for item in (first, second))
    verdict = "more" if gap > 2 * spread else "not more"
    return f"The first is {gap:.4f} ahead, {verdict} than seeds alone make (two standard deviations: {2 * spread:.4f})."


def _told(trial: TrialRecord) -> str:
    return " ".join(f"{key}={show(value)}" for key, value in trial.params.items())


def _draw(record: SweepRecord, path: Path) -> None:
    """A dot a trial, a row a combination, the best on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ranked = rank(record)
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.35 * len(ranked)), layout="constrained")
    for place, item in enumerate(ranked):
        losses = [trial.validation_loss for trial in item.trials]
        axes.plot(losses, [place] * len(losses), "o", color="#1f6f8b" if place else "#c0392b")
    keys = [key for key in record.keys if key != SEED] or list(record.keys)
    labels = [", ".join(f"{key}={show(item.trials[0].params[key])}" for key in keys) for item in ranked]
    axes.set_yticks(range(len(ranked)), labels)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("validation loss (nats a token)")
    axes.set_title(record.name)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
    temporary.replace(path)
