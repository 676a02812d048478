"""Near-duplicate clusters that grow in order of first sight.

Two rows are near-duplicates if the sets of their character 5-grams overlap by a Jaccard index of at least `threshold`:
overlap of characters, not of meaning. Candidates come from MinHash-LSH (Broder 1997; Leskovec, Rajaraman, Ullman,
"Mining of Massive Datasets", section 3.4), kept by rensa; each is then verified on the 5-grams themselves, so that a
chance collision never joins two rows. A pair at the threshold is missed with a probability of at most MISSED.

A row is compared with earlier rows only. What it does to them is at most to unite clusters of the same side, which
moves nobody; a row that would pull two sides together is refused. So rows added at the end never move an old one.
Many rows of one template cost quadratic time; the caller takes exact repeats out first.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from medtune.corpus.rows import fold

SHINGLE = 5  # characters; a Hangul syllable is about two Latin letters, so this spans two or three words' edges
MISSED = 1e-3
SLACK = 5  # standard errors by which an estimate must fall short before a candidate goes without verification
SEED = 1  # of the MinHash permutations; another seed would find slightly other candidates
CHUNK = 2048  # rows sketched at once: one call into Rust, a bounded number of 5-grams in memory


@dataclass(frozen=True)
class Placement:
    """Where a row went. `cluster` is None for a row that bridges two sides; `matches` are the positions of earlier
    rows (one per matched cluster) that it is nearly the same as, in order of their clusters' first sight."""

    cluster: int | None
    matches: tuple[int, ...]


class Clusters:
    """Grows clusters over rows. `side` tells a cluster's side of the split from the name of its first row."""

    def __init__(self, threshold: float, permutations: int, side: Callable[[str], str]):
        from rensa import RMinHashLSH

        rows_per_band, bands = banding(threshold, permutations)
        self.threshold = threshold
        self.permutations = rows_per_band * bands
        self.side = side
        self.index = RMinHashLSH(threshold, self.permutations, bands)
        self.texts: list[str] = []  # folded, by position; a refused row's too, though nothing ever finds it
        self.sketches: list[object] = []
        # of the estimate at the threshold: a share of so many slots that agree
        self.error = (threshold * (1 - threshold) / self.permutations) ** 0.5
        self.cluster_of: list[int | None] = []
        self.names: list[str] = []  # of each cluster: the name of its first row
        self.parents: list[int] = []  # a united cluster points to an earlier one
        self.shingles = lru_cache(maxsize=4096)(lambda position: shingles(self.texts[position]))

    def add(self, rows: Iterable[tuple[str, str]]) -> Iterator[Placement]:
        """Place rows of (name, text) in order. Names are unique; a cluster is called by its first row's."""
        from rensa import RMinHash

        rows = iter(rows)
        while chunk := [(name, printable(fold(text))) for name, text in islice(rows, CHUNK)]:
            grams = [shingles(text) for _, text in chunk]
            sketches = RMinHash.from_token_sets(grams, self.permutations, SEED)
            for (name, text), own, sketch in zip(chunk, grams, sketches, strict=True):
                yield self._place(name, text, own, sketch)

    def root(self, cluster: int) -> int:
        """The earliest cluster that this one has been united with, itself if none."""
        while self.parents[cluster] != cluster:
            self.parents[cluster] = self.parents[self.parents[cluster]]
            cluster = self.parents[cluster]
        return cluster

    def name(self, position: int) -> str | None:
        """The name of the cluster that the row at this position is in now; None if the row was refused."""
        cluster = self.cluster_of[position]
        return None if cluster is None else self.names[self.root(cluster)]

    def __len__(self) -> int:
        """How many clusters there are now."""
        return sum(parent == cluster for cluster, parent in enumerate(self.parents))

    def _place(self, name: str, text: str, own: set[str], sketch: object) -> Placement:
        found = self._matches(own, sketch)
        matches = tuple(found[cluster] for cluster in sorted(found))
        position = len(self.texts)
        self.texts.append(text)
        self.sketches.append(sketch)
        if len({self.side(self.names[cluster]) for cluster in found}) > 1:
            self.cluster_of.append(None)
            return Placement(None, matches)
        if found:
            cluster = min(found)
            for other in found:
                self.parents[other] = cluster
        else:
            cluster = len(self.names)
            self.names.append(name)
            self.parents.append(cluster)
        self.cluster_of.append(cluster)
        self.index.insert(position, sketch)
        return Placement(cluster, matches)

    def _matches(self, own: set[str], sketch: object) -> dict[int, int]:
        """Cluster -> the earliest of its rows that is a near-duplicate. One verified row per cluster is enough."""
        found: dict[int, int] = {}
        for position in sorted(self.index.query(sketch)):
            cluster = self.root(self.cluster_of[position])
            if cluster not in found and self._alike(own, sketch, position):
                found[cluster] = position
        return found

    def _alike(self, own: set[str], sketch: object, position: int) -> bool:
        if sketch.jaccard(self.sketches[position]) < self.threshold - SLACK * self.error:
            return False  # far from it: most candidates end here, at a thirtieth of the price
        return jaccard(own, self.shingles(position)) >= self.threshold


def shingles(text: str) -> set[str]:
    """The set of character 5-grams of a folded text; a shorter text is its own only one."""
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(one: set[str], other: set[str]) -> float:
    """Size of the intersection over size of the union, 0 to 1; two empty sets are the same."""
    shared = len(one & other)
    union = len(one) + len(other) - shared
    return shared / union if union else 1.0


def printable(text: str) -> str:
    """The text with half surrogate pairs replaced by '?', since rensa hashes UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def banding(threshold: float, permutations: int) -> tuple[int, int]:
    """(rows per band, bands) within so many permutations: the longest band, so the fewest chance candidates, with
    which a pair at the threshold still shares one with probability 1 - MISSED. One row a band is the most that LSH
    can do: with very few permutations even that misses more."""
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if (1 - threshold**rows) ** bands <= MISSED:
            return rows, bands
    return 1, permutations
