"""Scores against a slow computation by hand, and the interval against what is known of it."""

import math

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from engine.tiny import write_tokens

from medtune.corpus.labels import IGNORED
from medtune.engine.load import load_model, load_tokenizer
from medtune.evaluation.scores import score_rows, summarise
from medtune.evaluation.statistics import paired_bootstrap

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scored(tiny_base, tmp_path_factory):
    tokens = load_from_disk(write_tokens(tiny_base, tmp_path_factory.mktemp("tokens")) / "train")
    model = load_model(tiny_base, device=CPU, dtype=torch.float32)
    pad = load_tokenizer(tiny_base).pad_token_id
    return model, tokens, score_rows(model, tokens, 5, pad)


def test_each_row_is_what_a_slow_computation_gives(scored):
    model, tokens, scores = scored
    assert [s["row_id"] for s in scores] == tokens["row_id"]
    for row, score in zip(tokens, scores, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        targets = [(i, label) for i, label in enumerate(row["labels"]) if label != IGNORED]
        assert score["nll"] == pytest.approx(-sum(float(logits[i - 1, label]) for i, label in targets), rel=1e-5)
        assert score["tokens"] == len(targets)
        assert score["chars"] == row["chars"]
        last, eos = targets[-1]
        assert score["eos_after_reference"] == (int(logits[last - 1].argmax()) == eos)


def test_batches_do_not_change_scores(scored, tiny_base):
    model, tokens, scores = scored
    alone = score_rows(model, tokens, 1, 0)
    assert [s["nll"] for s in alone] == pytest.approx([s["nll"] for s in scores], rel=1e-5)


def test_summary_is_a_ratio_of_sums():
    rows = [
        {"nll": 6.0, "tokens": 3, "chars": 2, "eos_after_reference": True},
        {"nll": 2.0, "tokens": 1, "chars": 6, "eos_after_reference": False},
    ]
    assert summarise(rows) == {
        "nll_per_char": 1.0,
        "nll_per_token": 2.0,
        "bits_per_char": 1.0 / math.log(2),
        "eos_after_reference": 0.5,
    }


def rows(nlls, clusters=None) -> list[dict]:
    clusters = clusters or range(len(nlls))
    return [
        {"row_id": str(i), "cluster": str(c), "nll": float(nll), "chars": 10}
        for i, (nll, c) in enumerate(zip(nlls, clusters, strict=True))
    ]


def test_a_constant_difference_has_an_interval_of_no_width():
    base = [10.0, 20.0, 30.0]
    found = paired_bootstrap(rows([n - 5 for n in base]), rows(base), 200, 0.95, 0)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((-0.5, -0.5, -0.5))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        base = generator.normal(30, 5, 80)
        adapter = base + generator.normal(-1, 4, 80)
        found = paired_bootstrap(rows(adapter), rows(base), 400, 0.9, trial)
        covered += found["low"] <= -0.1 <= found["high"]
    assert 0.82 <= covered / 200 <= 0.96


def test_rows_of_one_cluster_are_no_independent_evidence():
    generator = np.random.default_rng(3)
    by_cluster = np.repeat(generator.normal(-1, 4, 10), 8)  # eight copies of ten rows
    base = np.full(80, 30.0)
    apart = paired_bootstrap(rows(base + by_cluster), rows(base), 1000, 0.95, 0)
    together = paired_bootstrap(
        rows(base + by_cluster, np.repeat(np.arange(10), 8).tolist()),
        rows(base, np.repeat(np.arange(10), 8).tolist()),
        1000,
        0.95,
        0,
    )
    assert together["clusters"] == 10
    assert together["high"] - together["low"] > 2 * (apart["high"] - apart["low"])


def test_no_interval_where_none_can_be_had():
    assert paired_bootstrap(rows([1.0]), rows([2.0]), 100, 0.95, 0)["low"] is None
    broken = paired_bootstrap(rows([math.nan, 1.0]), rows([2.0, 2.0]), 100, 0.95, 0)
    assert math.isnan(broken["mean"])
    assert broken["high"] is None


def test_other_rows_are_refused():
    with pytest.raises(ValueError, match="same rows"):
        paired_bootstrap(rows([1.0, 2.0]), rows([1.0, 2.0])[::-1], 100, 0.95, 0)
