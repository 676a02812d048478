"""Rows as arrays, for drift.py: lengths, words and specialties of each, in one pass over the texts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medtune.corpus.quality import Dialogue
from medtune.corpus.specialties import NONE, TABLE, specialties
from medtune.corpus.words import tokens, word_of

BINS = (*TABLE, NONE)


@dataclass(frozen=True)
class Counts:
    """question, answer: characters, of the rows that have any; words, row: one entry a word, its id and its row's
    position, in order; specialties: rows × BINS, each row's adding up to 1; clusters: a number a row."""

    rows: int
    question: np.ndarray
    answer: np.ndarray
    words: np.ndarray
    row: np.ndarray
    specialties: np.ndarray
    clusters: np.ndarray


def count(rows: Iterable[Mapping[str, Any]], vocabulary: dict[str, int], clusters: dict[str, int]) -> Counts:
    """Count rows of {"messages", and perhaps "cluster"}. `vocabulary` and `clusters` give numbers and grow.

    A row without a cluster is a cluster of its own.
    """
    question, answer, found, lengths, kinds, groups = [], [], [], [], [], []
    numbers: dict[str, int] = {}  # of tokens: most are looked up again and again
    places = {name: place for place, name in enumerate(BINS)}
    for row in rows:
        dialogue = Dialogue(row["messages"])
        if dialogue.question:
            question.append(len(dialogue.question))
        if dialogue.answer:
            answer.append(len(dialogue.answer))
        before = len(found)
        asked, answered = tokens(dialogue.question), tokens(dialogue.answer)
        for token in (*asked, *answered):
            number = numbers.get(token)
            if number is None:
                word = word_of(token)
                number = numbers[token] = vocabulary.setdefault(word, len(vocabulary)) if word else -1
            if number >= 0:
                found.append(number)
        lengths.append(len(found) - before)
        kinds.append([places[name] for name in specialties(asked, answered) or (NONE,)])
        name = row.get("cluster")
        groups.append(len(clusters) if name is None else clusters.setdefault(name, len(clusters)))
        if name is None:
            clusters[f"\0{len(clusters)}"] = groups[-1]
    shares = np.zeros((len(kinds), len(BINS)), np.float32)
    for position, own in enumerate(kinds):
        shares[position, own] = 1 / len(own)
    return Counts(
        rows=len(kinds),
        question=np.array(question, np.int64),
        answer=np.array(answer, np.int64),
        words=np.array(found, np.int32),
        row=np.repeat(np.arange(len(lengths)), lengths),
        specialties=shares,
        clusters=np.array(groups, np.int64),
    )


def frequent(old: Counts, most: int) -> np.ndarray:
    """Ids of the most frequent words, most frequent first, earlier seen first among equals."""
    totals = np.bincount(old.words) if len(old.words) else np.zeros(0, int)
    order = np.argsort(-totals, kind="stable")[:most]
    return order[totals[order] > 0]


def by_row(counts: Counts, chosen: np.ndarray, size: int) -> np.ndarray:
    """Rows × (chosen words + the others): how often each is in each row. `size`: of the vocabulary."""
    place = np.full(size, len(chosen), np.int64)
    place[chosen] = np.arange(len(chosen))
    width = len(chosen) + 1
    flat = np.bincount(counts.row * width + place[counts.words], minlength=counts.rows * width)
    return flat.reshape(counts.rows, width).astype(np.float32)


def unseen_alone(old: Counts, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A row: words that no old row outside of its own cluster has, and all its words."""
    order = np.argsort(old.words, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(old.words[order]) != 0])
    holders = old.clusters[old.row][order]
    one = np.zeros(size, bool)  # words that one cluster alone has
    one[old.words[order][starts]] = np.minimum.reduceat(holders, starts) == np.maximum.reduceat(holders, starts)
    alone = np.bincount(old.row, weights=one[old.words], minlength=old.rows)
    return alone, np.bincount(old.row, minlength=old.rows)
