"""Answers: batched, greedy, drawn, streamed; against transformers' own generate() one prompt at a time."""

import pytest
import torch

from engine.twins import CPU
from medtune.corpus.template import dress, prompt_ids
from medtune.engine import decode as decoding
from medtune.engine import generate
from medtune.engine.decode import Drawn, Greedy, Sampling, decode
from medtune.engine.generate import answer_all, greedy_answers, stream_answer
from medtune.engine.load import load_model, load_tokenizer
from medtune.params.errors import EngineError

QUESTIONS = ["머리가 아파요.", "어제부터 배가 아프고 열이 나요.", "기침이요.", "열"]
SAMPLING = Sampling(temperature=0.9, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=5)


@pytest.fixture(scope="module")
def model(tiny_base):
    return load_model(tiny_base, device=CPU, dtype=torch.float32), dress(load_tokenizer(tiny_base), "chat", None)


def by_generate(tiny, tokenizer, question: str, new: int) -> list[int]:
    from transformers import GenerationConfig

    ids = torch.tensor([prompt_ids([{"role": "user", "content": question}], tokenizer)])
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.inference_mode():
        made = tiny.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return made[0, ids.shape[1] :].tolist()


def test_batched_answers_are_those_of_one_by_one(model):
    together = greedy_answers(*model, QUESTIONS, 12, 3)
    alone = [greedy_answers(*model, [question], 12, 1)[0] for question in QUESTIONS]
    assert together == alone
    assert all(answer["tokens"] == 12 for answer in together if not answer["ended"])


def test_greedy_tokens_are_those_of_generate(model):
    tiny, tokenizer = model
    prompts = [prompt_ids([{"role": "user", "content": question}], tokenizer) for question in QUESTIONS]
    made = decode(tiny, prompts, [16] * 4, tokenizer.eos_token_id, tokenizer.pad_token_id, Greedy())
    assert made == [by_generate(tiny, tokenizer, question, 16) for question in QUESTIONS]


def test_rows_that_end_leave_the_batch_and_change_no_other(model):
    tiny, tokenizer = model
    prompts = [prompt_ids([{"role": "user", "content": question}], tokenizer) for question in QUESTIONS]
    whole = [by_generate(tiny, tokenizer, question, 16) for question in QUESTIONS]
    # a word that some rows say early and others never stands for EOS
    word = max({t for row in whole for t in row}, key=lambda t: sum(t in row for row in whole if row[0] != t) % 4)
    cut = [row[: row.index(word) + 1] if word in row else row for row in whole]
    assert len({len(row) for row in cut}) > 1
    sizes = []
    forward = tiny.forward

    def seen(*arguments, **settings):
        sizes.append(len(settings["input_ids"]))
        return forward(*arguments, **settings)

    tiny.forward = seen
    try:
        assert decode(tiny, prompts, [16] * 4, word, tokenizer.pad_token_id, Greedy()) == cut
    finally:
        del tiny.forward
    assert sizes[0] == 4
    assert sizes[-1] == sum(len(row) == max(map(len, cut)) for row in cut) < 4
    assert sizes == sorted(sizes, reverse=True)


def test_each_row_stops_at_a_limit_of_its_own(model):
    answers = answer_all(*model, QUESTIONS, 24, 4, limits=[3, 10, 24, 1])
    assert [answer["tokens"] for answer in answers if not answer["ended"]] == [
        limit for limit, answer in zip([3, 10, 24, 1], answers, strict=True) if not answer["ended"]
    ]
    assert max(answer["tokens"] for answer in answers) > 3


def test_drawn_answers_depend_on_their_own_prompt_and_the_seed_alone(model):
    together = answer_all(*model, QUESTIONS, 12, 4, SAMPLING)
    assert together == [answer_all(*model, [question], 12, 1, SAMPLING)[0] for question in QUESTIONS]
    assert together == answer_all(*model, QUESTIONS[::-1], 12, 2, SAMPLING)[::-1]
    other = Sampling(**{**vars(SAMPLING), "seed": 6})
    assert together != answer_all(*model, QUESTIONS, 12, 4, other)
    assert together != greedy_answers(*model, QUESTIONS, 12, 4)


def test_a_draw_is_that_of_transformers_own_processors():
    """The set that may be drawn, and how likely each is, against the processors that generate() chains."""
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    torch.manual_seed(0)
    logits = torch.randn(1, 50)
    prompt, count = [3, 7, 7, 40], 4000
    expected = RepetitionPenaltyLogitsProcessor(1.2)(torch.tensor([prompt]), logits.clone())
    for warp in (TemperatureLogitsWarper(0.9), TopKLogitsWarper(20), TopPLogitsWarper(0.9)):
        expected = warp(None, expected)
    expected = expected.softmax(-1)[0]
    drawn = torch.zeros(50)
    choice = Drawn([prompt] * count, [1] * count, SAMPLING, CPU)
    choice.chances = torch.rand(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for token in choice.take(logits.repeat(count, 1), 0).tolist():
        drawn[token] += 1 / count
    assert set(drawn.nonzero().flatten().tolist()) <= set(expected.nonzero().flatten().tolist())
    assert float((drawn - expected).abs().max()) < 0.03
    assert 2 < int((expected > 0).sum()) < 21


def test_padding_is_no_word_that_was_said(model):
    """pad is EOS here: beside a longer prompt, a repetition penalty must not make the end less likely."""
    tiny, tokenizer = model
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    prompts = [[5, 6, 7], [5] * 30]
    choice = Drawn(prompts, [2, 2], SAMPLING, CPU)
    decode(tiny, prompts, [2, 2], tokenizer.eos_token_id, tokenizer.pad_token_id, choice)
    assert not choice.said[0, tokenizer.pad_token_id]
    assert choice.said[0, [5, 6, 7]].all()


def test_older_transformers_attention_gives_the_same_tokens(model, monkeypatch):
    from transformers.integrations import sdpa_attention

    tiny, tokenizer = model
    assert tiny.config._attn_implementation == "sdpa"
    assert tiny.config.num_key_value_heads < tiny.config.num_attention_heads
    expected = greedy_answers(tiny, tokenizer, QUESTIONS, 12, 4)
    if hasattr(sdpa_attention, "pack_gqa"):
        monkeypatch.delattr(sdpa_attention, "pack_gqa")  # the plain function is left to longer prompts, without it
    entered = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def seen(query, *arguments, **settings):
        entered.append(query.shape[1])
        return attention(query, *arguments, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    assert greedy_answers(tiny, tokenizer, QUESTIONS, 12, 4) == expected
    assert tiny.config.num_key_value_heads in entered  # the narrow way was taken


def test_memory_that_runs_out_halves_the_batch_and_says_so(model, monkeypatch, capsys):
    expected = greedy_answers(*model, QUESTIONS, 8, 4)
    plain, tried = decoding.decode, []

    def short(model, prompts, *arguments):
        tried.append(len(prompts))
        if len(prompts) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(model, prompts, *arguments)

    monkeypatch.setattr(generate, "decode", short)
    assert greedy_answers(*model, QUESTIONS, 8, 4) == expected
    assert tried == [4, 2, 1, 1, 1, 1]
    assert "the GPU's memory ran out with 4 answers at once; going on with 2" in capsys.readouterr().out


def test_a_prompt_that_does_not_fit_alone_is_a_sentence(model, monkeypatch):
    def full(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generate, "decode", full)
    with pytest.raises(EngineError, match=r"no room for one prompt of .* lower evaluate.max_new_tokens"):
        greedy_answers(*model, QUESTIONS[:1], 8, 1)


def test_progress_is_told(model):
    told = []
    answer_all(*model, QUESTIONS, 2, 3, progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 4), (4, 4)]


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
