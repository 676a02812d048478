"""Free answers: read, drawn, judged."""

from pathlib import Path

import pytest
import torch

from medtune.corpus.template import dress
from medtune.engine.generate import greedy_answers, stream_answer
from medtune.engine.load import load_model, load_tokenizer
from medtune.evaluation.answers import loops, read_questions, summarise
from medtune.params.errors import CorpusError

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_base):
    return load_model(tiny_base, device=CPU, dtype=torch.float32), dress(load_tokenizer(tiny_base), "chat", None)


def test_the_shipped_questions_read():
    questions = read_questions(ROOT / "data/questions.jsonl", None)
    assert len(questions) >= 8
    assert questions[0]["question"].startswith("농구를 하다가 손이 골절된 것 같아요.")
    assert len(read_questions(ROOT / "data/questions.jsonl", 3)) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"question": "a", "reference": "b"}\n{"question": 1\n', "line 2"),
        ('{"question": "a"}\n', "line 1.*reference"),
        ("", "no question"),
    ],
)
def test_broken_questions_name_file_and_line(tmp_path, text, sentence):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(CorpusError, match=rf"q.jsonl.*{sentence}"):
        read_questions(tmp_path / "q.jsonl", None)


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("병원에 가세요. 병원에 가세요. 병원에 가세요. 병원에 가세요. ", True),
        ("네네네네네네네네", True),
        ("물을 드시고 쉬세요. 열이 나면 병원에 가세요.", False),
        ("아주 아주 아주 좋습니다.", False),
        ("", False),
    ],
)
def test_loops_are_seen(text, looping):
    assert loops(text) is looping


def test_batched_answers_are_those_of_one_by_one(model):
    questions = ["머리가 아파요.", "어제부터 배가 아프고 열이 나요.", "기침이요."]
    together = greedy_answers(*model, questions, 12, 3)
    alone = [greedy_answers(*model, [question], 12, 1)[0] for question in questions]
    assert together == alone
    assert all(answer["tokens"] == 12 for answer in together if not answer["ended"])


def test_greedy_answers_leave_the_models_own_settings(model):
    before = model[0].generation_config
    greedy_answers(*model, ["머리가 아파요."], 2, 1)
    assert model[0].generation_config is before


def test_chrf_is_100_for_the_reference_itself():
    references = ["물을 드세요.", "병원에 가세요."]
    told = summarise([{"text": t, "ended": True} for t in references], references)
    assert (told["chrfpp"], told["ended_share"], told["loop_share"]) == (pytest.approx(100), 1.0, 0.0)
    other = summarise([{"text": "아니요", "ended": False}] * 2, references)
    assert other["chrfpp"] < 20
    assert other["ended_share"] == 0.0


def test_an_answer_streams_and_the_seed_repeats_it(model):
    tiny, tokenizer = model
    tiny.generation_config.update(do_sample=True, max_new_tokens=8, temperature=1.0)
    first, second = ("".join(stream_answer(tiny, tokenizer, "머리가 아파요.", seed=3)) for _ in range(2))
    assert first == second


def test_a_failure_while_streaming_reaches_the_reader(model):
    tiny, tokenizer = model
    tiny.generation_config.temperature = -1.0
    try:
        with pytest.raises(ValueError, match="strictly positive"):
            list(stream_answer(tiny, tokenizer, "머리가 아파요.", seed=3))
    finally:
        tiny.generation_config.temperature = 1.0
