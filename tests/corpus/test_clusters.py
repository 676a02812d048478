"""Clusters: near-duplicates stay together, never straddle the split, and never move when rows are added."""

import random
from collections.abc import Callable, Iterable

import pytest

from medtune.corpus.clusters import MISSED, Clusters, banding, jaccard, shingles
from medtune.corpus.rows import fold
from medtune.corpus.split import side
from medtune.params.validate import Split

THRESHOLD = 0.8
_WORDS = """
머리 배 허리 무릎 목 가슴 눈 귀 코 손목 발목 어깨 피부 기침 열 두통 복통 구토
설사 발진 통증 붓기 저림
"""
WORDS = _WORDS.split()
_ENDS = """
아파요 심해요 있어요 계속돼요 시작됐어요 나빠졌어요 걱정돼요 생겼어요
"""
ENDS = _ENDS.split()
LETTERS = [f"{name:064x}" for name in range(10_000)]


def sentence(chance: random.Random) -> str:
    return f"{chance.choice(WORDS)}에 {chance.choice(WORDS)}이 {chance.randint(2, 99)}일째 {chance.choice(ENDS)}."


def text(chance: random.Random, sentences: int = 8) -> str:
    return " ".join(sentence(chance) for _ in range(sentences))


def varied(chance: random.Random, original: str) -> str:
    """The text with a word or two changed, at times so much that it hangs between its neighbours."""
    words = original.split()
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        words[chance.randrange(len(words))] = chance.choice(WORDS)
    return " ".join(words)


def neighbours(chance: random.Random) -> tuple[str, str, str]:
    """Two texts that are no near-duplicates of each other, and one that is of both."""
    words = text(chance, sentences=16).split()
    half = len(words) // 2
    one = [word + "요" * (place >= half and place % 7 == 0) for place, word in enumerate(words)]
    other = [word + "네" * (place < half and place % 7 == 0) for place, word in enumerate(words)]
    return " ".join(one), " ".join(other), " ".join(words)


def corpus(seed: int, rows: int = 150) -> list[str]:
    """Texts that vary earlier ones, in chains, and texts between two others: the cases in which clusters meet."""
    chance = random.Random(seed)
    texts: list[str] = []
    late: list[str] = []
    while len(texts) < rows:
        draw = chance.random()
        if draw < 0.2 or not texts:
            texts.append(text(chance))
        elif draw < 0.3:
            one, other, middle = neighbours(chance)
            texts += [one, other]
            late.append(middle)
        elif draw < 0.4 and late:
            texts.append(late.pop(chance.randrange(len(late))))
        else:
            texts.append(varied(chance, chance.choice(texts)))
    return texts


def by_hash(split: Split) -> Callable[[str], str]:
    return lambda name: side(name, split)


def grown(texts: Iterable[str], of: Callable[[str], str]) -> tuple[Clusters, list]:
    clusters = Clusters(THRESHOLD, 128, of)
    placements = list(clusters.add(zip(LETTERS, texts, strict=False)))
    return clusters, placements


def sides_of(clusters: Clusters, count: int, of: Callable[[str], str]) -> list[str | None]:
    names = (clusters.name(position) for position in range(count))
    return [None if name is None else of(name) for name in names]


HALVES = by_hash(Split(validation=0.3, test=0.4))  # even sides, so that bridges are common


@pytest.mark.parametrize("seed", range(12))
def test_rows_added_at_the_end_move_no_old_row(seed: int) -> None:
    texts = corpus(seed)
    whole, placements = grown(texts, HALVES)
    later = sides_of(whole, len(texts), HALVES)
    chance = random.Random(seed)
    for cut in sorted(chance.sample(range(1, len(texts)), 4)):
        part, _ = grown(texts[:cut], HALVES)
        assert sides_of(part, cut, HALVES) == later[:cut]  # None too: who bridged then bridges now
    assert any(placement.matches for placement in placements)


@pytest.mark.parametrize("seed", range(12))
def test_no_near_duplicates_on_two_sides(seed: int) -> None:
    """Brute force over all pairs: the guarantee itself, whatever the index found."""
    texts = corpus(seed, rows=110)
    clusters, _ = grown(texts, HALVES)
    sides = sides_of(clusters, len(texts), HALVES)
    grams = [shingles(fold(text)) for text in texts]
    for later in range(len(texts)):
        for earlier in range(later):
            if sides[later] and sides[earlier] and jaccard(grams[later], grams[earlier]) >= THRESHOLD:
                assert clusters.name(later) == clusters.name(earlier)


def test_random_corpora_hold_every_kind_of_row() -> None:
    """The two tests above would pass on corpora without a bridge or a union."""
    bridges = unions = 0
    for seed in range(12):
        clusters, placements = grown(corpus(seed), HALVES)
        bridges += sum(placement.cluster is None for placement in placements)
        unions += len(clusters.names) - len(clusters)
    assert bridges >= 5
    assert unions >= 5


def test_a_row_between_two_clusters_of_one_side_unites_them_under_the_earlier() -> None:
    one, other, middle = neighbours(random.Random(7))
    clusters, placements = grown([one, other, middle], lambda name: "train")
    assert [len(placement.matches) for placement in placements] == [0, 0, 2]
    assert {clusters.name(position) for position in range(3)} == {LETTERS[0]}
    assert len(clusters) == 1


def test_a_row_between_two_sides_is_refused_and_leaves_no_trace() -> None:
    one, other, middle = neighbours(random.Random(7))
    sides = {LETTERS[0]: "train", LETTERS[1]: "test"}
    clusters, placements = grown([one, other, middle, middle], lambda name: sides[name])
    assert placements[2].cluster is None
    assert placements[2].matches == (0, 1)
    assert placements[3].matches == (0, 1)  # the refused one is not among them
    assert [clusters.name(position) for position in range(4)] == [LETTERS[0], LETTERS[1], None, None]


def test_rows_in_one_call_or_in_many_are_the_same() -> None:
    texts = corpus(3)
    at_once, _ = grown(texts, HALVES)
    bit_by_bit = Clusters(THRESHOLD, 128, HALVES)
    for name, content in zip(LETTERS, texts, strict=False):
        list(bit_by_bit.add([(name, content)]))
    assert [at_once.name(n) for n in range(len(texts))] == [bit_by_bit.name(n) for n in range(len(texts))]


def test_joining_is_by_exact_overlap_not_by_the_estimate() -> None:
    chance = random.Random(0)
    for _ in range(60):
        original = text(chance)
        other = varied(chance, varied(chance, original))
        exact = jaccard(shingles(fold(original)), shingles(fold(other)))
        _, placements = grown([original, other], HALVES)
        assert bool(placements[1].matches) == (exact >= THRESHOLD)


@pytest.mark.parametrize("content", ["", "네", "네 그", "\ud83d 반쪽"])
def test_short_and_broken_texts_have_a_cluster(content: str) -> None:
    clusters, placements = grown([content, "배가 아파요. 어제부터요.", content], HALVES)
    assert placements[2].matches == (0,)
    assert clusters.name(2) == LETTERS[0]


@pytest.mark.parametrize(("threshold", "permutations"), [(0.5, 128), (0.8, 128), (0.95, 128), (0.8, 64), (0.8, 256)])
def test_banding_misses_at_most_what_it_says(threshold: float, permutations: int) -> None:
    rows, bands = banding(threshold, permutations)
    assert rows * bands <= permutations
    assert (1 - threshold**rows) ** bands <= MISSED
    longer = rows + 1
    assert (1 - threshold**longer) ** (permutations // longer) > MISSED  # no longer band would do


def test_banding_of_very_few_permutations_does_what_it_can() -> None:
    assert banding(0.5, 4) == (1, 4)
