"""Scores against a slow computation by hand."""

import math

import pytest
import torch
from datasets import load_from_disk
from engine.tiny import write_tokens

from medtune.corpus.labels import IGNORED
from medtune.engine.load import load_model, load_tokenizer
from medtune.evaluation.scores import score_rows, summarise
from medtune.params.errors import EvaluationError

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


class Short:
    """A model on a GPU that holds two rows at once: more of them run out of memory, as torch says it."""

    def __init__(self, model, most: int):
        self.model, self.most, self.tried = model, most, []

    def parameters(self):
        return self.model.parameters()

    def __call__(self, input_ids, **settings):
        self.tried.append(len(input_ids))
        if len(input_ids) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.model(input_ids=input_ids, **settings)


def test_rows_that_do_not_fit_at_once_go_in_halves(scored, capsys):
    model, tokens, scores = scored
    short = Short(model, 2)
    found = score_rows(short, tokens, 8, 0)
    assert [s["row_id"] for s in found] == tokens["row_id"]
    assert [s["nll"] for s in found] == pytest.approx([s["nll"] for s in scores], rel=1e-5)
    assert short.tried[:3] == [8, 4, 2]
    assert "the GPU's memory ran out with 8 rows at once; going on with 4" in capsys.readouterr().out


def test_a_row_that_does_not_fit_alone_is_a_sentence(scored):
    model, tokens, _ = scored
    with pytest.raises(EvaluationError, match=r"no room to score one row of \d+ tokens; lower tokenize.max_length"):
        score_rows(Short(model, 0), tokens, 2, 0)
