"""How far new rows lie from the old ones: lengths, vocabulary, specialties, duplicates.

    found = measure(old, new, recipe.retrain.drift)
    found.alarms        # sentences; empty where nothing moved far
    found.markdown()    # a report for people
    found.record()      # plain JSON

Thresholds are sizes of a shift that matters, and at 60 rows a shift of that size comes by chance (D of 0.2 between two
halves of one corpus is nothing rare). So an alarm asks for two things: the size above its threshold, and chance below
LEVEL. What chance does is asked of the rows themselves: `RESAMPLES` times as many rows as are new are drawn from all of
them, and measured in the same way; sizes that have a floor of their own (the index and the unseen words are never below
zero, and grow as rows get fewer) are first cleared of what chance gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from medtune.corpus.drift_counts import BINS, Counts, by_row, count, frequent, unseen_alone
from medtune.corpus.drift_text import bars, markdown, percent
from medtune.corpus.specialties import NAMES
from medtune.corpus.words import TOKENISER

LEVEL = 0.01
RESAMPLES = 499
SEED = 20261123  # of the drawing: the same rows give the same figures
WORDS = 100  # most frequent ones of the old rows, each a bin of its own; all others are one bin
HALF = 0.5  # added to every bin: Jeffreys' prior, so that an empty one has no infinite index
SHOWN = 6  # words and specialties named in a sentence


class Thresholds(Protocol):
    """retrain.drift of the recipe."""

    ks: float
    psi: float
    unseen: float
    duplicates: float
    rows: int


@dataclass(frozen=True)
class Measure:
    """One comparison. value: as literature defines it; chance: what rows like the old ones would give on average, None
    where the figure needs no such correction; size: what is held against the threshold; p: of such a size by chance,
    None where none is asked; alarm: a sentence, None where the size is within the threshold or may be chance."""

    name: str
    label: str
    statistic: str
    value: float
    chance: float | None
    size: float
    p: float | None
    threshold: float
    alarm: str | None


@dataclass(frozen=True)
class Drift:
    """measures: by name question, answer, words, specialties, unseen, duplicates; bars: what the pictures show;
    why_not: why nothing was judged, None where it was."""

    old: int
    new: int
    measures: tuple[Measure, ...] = ()
    bars: dict[str, Any] = field(default_factory=dict)
    why_not: str | None = None

    @property
    def alarms(self) -> list[str]:
        return [measure.alarm for measure in self.measures if measure.alarm]

    def record(self) -> dict[str, Any]:
        """Plain JSON: what markdown() and the release card are made from."""
        return {
            "rows": {"old": self.old, "new": self.new},
            "judged": self.why_not is None,
            "why_not": self.why_not,
            "alarms": self.alarms,
            "measures": [asdict(measure) for measure in self.measures],
            "bars": self.bars,
            "method": {"words": TOKENISER, "level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        }

    def markdown(self) -> str:
        return markdown(self.record())


def measure(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], thresholds: Thresholds) -> Drift:
    """Compare new rows with old ones; both are records of data/valid/rows.jsonl, of which `messages` and `cluster` are
    read. Without rows on either side nothing is measured; with fewer than thresholds.rows, nothing raises an alarm."""
    if not old or not new:
        return Drift(len(old), len(new), why_not=f"there are no {'old' if not old else 'new'} rows to compare")
    few = [f"{len(rows)} {name} rows" for name, rows in (("new", new), ("old", old)) if len(rows) < thresholds.rows]
    why_not = (
        f"{' and '.join(few)} are too few to judge: {thresholds.rows} are asked (retrain.drift.rows)" if few else None
    )
    vocabulary: dict[str, int] = {}
    clusters: dict[str, int] = {}
    before = count(old, vocabulary, clusters)
    known = len(vocabulary)
    after = count(new, vocabulary, clusters)
    names = list(vocabulary)
    chosen = frequent(before, WORDS)
    tables = [np.vstack([by_row(side, chosen, len(names)) for side in (before, after)])]
    tables.append(np.vstack([before.specialties, after.specialties]))
    (words_psi, kinds_psi), (words_bins, kinds_bins) = _indices(tables, before.rows)
    spoken = [names[word] for word in chosen]
    labels = [NAMES.get(name, "(no keyword)") for name in BINS]
    measures = [
        _lengths("question", before.question, after.question, thresholds.ks),
        _lengths("answer", before.answer, after.answer, thresholds.ks),
        _index("words", "Words", words_psi, thresholds.psi, _moved([*spoken, "(others)"], *words_bins)),
        _index("specialties", "Specialties", kinds_psi, thresholds.psi, _moved(labels, *kinds_bins)),
        _unseen(before, after, known, thresholds.unseen),
        _duplicates(before, after, thresholds.duplicates),
    ]
    kept = tuple(Measure(**{**asdict(one), "alarm": None}) if few else one for one in measures if one)
    pictures = {
        "question": bars(before.question, after.question),
        "answer": bars(before.answer, after.answer),
        "specialties": _shares(labels, *kinds_bins),
        "words": _shares(spoken, *(bins[:-1] for bins in words_bins))[:20],
    }
    return Drift(before.rows, after.rows, kept, pictures, why_not)


def psi(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Population stability index of two binned counts along the last axis, 0 and up: sum of (p - q) ln(p / q).

    That is the symmetric Kullback-Leibler divergence of Jeffreys (1946). Bounds of 0.1 and 0.25 are customary: Siddiqi,
    Credit Risk Scorecards (2006). Its expectation where nothing moved is about (bins - 1)(1/n + 1/m): Yurdakul,
    Statistical Properties of Population Stability Index (2018), so that it is read beside what chance gives. HALF is
    added to each bin, so that none is empty.
    """
    from scipy.stats import entropy

    p, q = np.asarray(old, float) + HALF, np.asarray(new, float) + HALF
    return entropy(p, q, axis=-1) + entropy(q, p, axis=-1)


def _lengths(name: str, old: np.ndarray, new: np.ndarray, threshold: float) -> Measure | None:
    """Two-sample Kolmogorov-Smirnov test (Smirnov 1939; scipy.stats.ks_2samp): D is the largest distance between the
    two distribution functions, 0 to 1. Exact p for small samples, asymptotic above; ties make it too large, never too
    small. None where one side has no such texts (a corpus of plain text asks nothing)."""
    from scipy.stats import ks_2samp

    if not len(old) or not len(new):
        return None
    few = max(len(old), len(new)) <= 2000  # exact is slow above, and no different
    found = ks_2samp(old, new, method="auto" if few else "asymp")
    value, p = float(found.statistic), float(found.pvalue)
    medians = float(np.median(old)), float(np.median(new))
    word = "longer" if medians[1] > medians[0] else "shorter" if medians[1] < medians[0] else "spread differently"
    alarm = (
        f"{name}s are {word}: median {medians[1]:,.0f} characters, {medians[0]:,.0f} in the old rows "
        f"(Kolmogorov-Smirnov D {value:.2f}, threshold {threshold:g}; p {p:.2g})"
    )
    label = f"Length of {name}s, characters"
    return _measure(name, label, "Kolmogorov-Smirnov D", value, None, value, p, threshold, alarm)


def _indices(tables: list[np.ndarray], old: int) -> tuple[list[tuple[float, float, float]], list[tuple]]:
    """Of each table (rows × bins, old ones first): (index, its mean by chance, p), and the bins of old and new.

    Chance is the permutation of rows, not of words: those of one row come together (Good, Permutation, Parametric and
    Bootstrap Tests of Hypotheses, 2005). The new rows' own drawing counts as one, so that p is never zero (Phipson and
    Smyth 2010).
    """
    whole = np.hstack(tables)
    total, rows = whole.sum(0, dtype=float), len(whole)
    drawn = min(rows - old, old)  # the smaller side; the other is the rest
    draw = np.random.default_rng(SEED)
    sums = np.stack(
        [whole[draw.choice(rows, drawn, replace=False, shuffle=False)].sum(0, dtype=float) for _ in range(RESAMPLES)]
    )
    found, bins, start = [], [], 0
    for table in tables:
        part = slice(start, start + table.shape[1])
        start += table.shape[1]
        sides = table[:old].sum(0, dtype=float), table[old:].sum(0, dtype=float)
        value, chance = float(psi(*sides)), psi(total[part] - sums[:, part], sums[:, part])
        p = (1 + int((chance >= value - 1e-12).sum())) / (1 + RESAMPLES)
        found.append((value, float(chance.mean()), p))
        bins.append(sides)
    return found, bins


def _index(name: str, label: str, figures: tuple[float, float, float], threshold: float, moved: str) -> Measure:
    value, chance, p = figures
    size = max(0.0, value - chance)
    alarm = (
        f"{label.lower()} are others: population stability index {value:.2f}, {size:.2f} more than chance gives, "
        f"threshold {threshold:g} (p {p:.2g}); {moved}"
    )
    return _measure(name, label, "population stability index", value, chance, size, p, threshold, alarm)


def _unseen(old: Counts, new: Counts, known: int, threshold: float) -> Measure | None:
    """Share of new rows' words that no old row has, against the share that old rows show among themselves.

    An old row's words that no old row of another cluster has are what it would have brought as a new one: leave one out
    (a row at a time; of single words it is Good's estimate, Biometrika 1953). A small corpus has many, whatever comes.
    The size is the share of the rest, (value - chance) / (1 - chance), as Cohen's kappa clears agreement of chance.
    """
    if not len(old.words) or not len(new.words):
        return None
    value = float((new.words >= known).mean())
    alone, lengths = unseen_alone(old, known)
    chance = float(alone.sum() / lengths.sum())
    draw = np.random.default_rng(SEED)
    shares = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        picked = draw.integers(0, old.rows, new.rows)
        shares[i] = alone[picked].sum() / max(1, lengths[picked].sum())
    p = (1 + int((shares >= value - 1e-12).sum())) / (1 + RESAMPLES)
    size = max(0.0, (value - chance) / (1 - chance)) if chance < 1 else 0.0
    alarm = (
        f"{percent(value)} of the new rows' words are in no old row; rows like the old ones would bring "
        f"{percent(chance)}, and {percent(size)} of the rest is new, threshold {percent(threshold)} (p {p:.2g})"
    )
    return _measure("unseen", "Words that no old row has", "share of words", value, chance, size, p, threshold, alarm)


def _duplicates(old: Counts, new: Counts, threshold: float) -> Measure:
    """Share of new rows in a near-duplicate cluster of an old one; validate has set exact repeats aside before."""
    value = float(np.isin(new.clusters, old.clusters).mean())
    alarm = (
        f"{percent(value)} of the new rows are nearly the same text as an old one, threshold {percent(threshold)}: "
        "they teach little that is new"
    )
    label = "Near-duplicates of old rows"
    return _measure("duplicates", label, "share of rows", value, None, value, None, threshold, alarm)


def _measure(
    name: str,
    label: str,
    statistic: str,
    value: float,
    chance: float | None,
    size: float,
    p: float | None,
    threshold: float,
    alarm: str,
) -> Measure:
    fires = size > threshold and (p is None or p < LEVEL)
    return Measure(name, label, statistic, value, chance, size, p, threshold, alarm if fires else None)


def _moved(labels: Sequence[str], old: np.ndarray, new: np.ndarray) -> str:
    """The bins that make most of the index, with their shares."""
    found = _shares(labels, old, new)[:SHOWN]
    return "; ".join(f"{one['name']} {percent(one['old'])} → {percent(one['new'])}" for one in found)


def _shares(labels: Sequence[str], old: np.ndarray, new: np.ndarray) -> list[dict[str, Any]]:
    """{"name", "old", "new"} of each bin, shares of all, the one that moved most first."""
    p, q = old / max(1.0, old.sum()), new / max(1.0, new.sum())
    weight = ((old + HALF) / (old + HALF).sum() - (new + HALF) / (new + HALF).sum()) * np.log(
        (old + HALF) / (old + HALF).sum() / ((new + HALF) / (new + HALF).sum())
    )
    return [
        {"name": labels[i], "old": round(float(p[i]), 6), "new": round(float(q[i]), 6)}
        for i in np.argsort(-weight, kind="stable")
    ]
