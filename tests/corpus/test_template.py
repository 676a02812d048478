"""Templates and labels: the seed's words, the same ids in training and inference, only answers trained."""

import pytest
from transformers import AutoTokenizer

from medtune.corpus.labels import IGNORED, encode, first_prompt, violations
from medtune.corpus.template import KULLM_SYSTEM, OWN, dress, prompt_ids, render, wants_bos
from medtune.corpus.tokens import encode_split, rows_digest, summarise, tokens_digest
from medtune.engine.batching import PaddingCollator
from medtune.params.errors import CorpusError, RecipeError

USER = {"role": "user", "content": "머리가 아파요."}
ANSWER = {"role": "assistant", "content": "병원에 가세요."}
TURNS = [USER, ANSWER, {"role": "user", "content": "언제요?"}, {"role": "assistant", "content": "지금 가세요."}]
LONG = 4096


@pytest.fixture
def plain(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture
def with_bos(tiny_base):
    """A tokenizer that puts BOS in front, as Llama's do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(tiny_base, bos_token="<|endoftext|>")
    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    assert wants_bos(tokenizer)
    return tokenizer


def trained(tokenizer, sample) -> str:
    return tokenizer.decode([label for label in sample.labels if label != IGNORED])


def test_alpaca_ko_is_the_seeds_two_templates(plain):
    tokenizer = dress(plain, "alpaca-ko", None)
    assert render([USER], tokenizer, answer=True) == (
        "아래는 작업을 설명하는 지시사항입니다. 이에 대한 적절한 응답을 작성해주세요.\n\n"
        "### 지시사항:\n머리가 아파요.\n\n### 응답:"
    )
    assert render([USER | {"input": "어제부터요."}], tokenizer, answer=True) == (
        "아래는 작업을 설명하는 지시사항과 추가 정보를 제공하는 입력이 짝으로 구성됩니다. "
        "이에 대한 적절한 응답을 작성해주세요.\n\n"
        "### 지시사항:\n머리가 아파요.\n\n### 입력:\n어제부터요.\n\n### 응답:"
    )
    system = {"role": "system", "content": "의사처럼 답하세요."}
    assert "### 지시사항:\n의사처럼 답하세요.\n\n### 입력:\n머리가 아파요.\n\n" in render(
        [system, USER], tokenizer, answer=True
    )


def test_kullm_carries_its_fixed_system_prompt(with_bos):
    text = render([USER], dress(with_bos, "kullm", None), answer=True)
    assert text == f"<|endoftext|>[INST] <<SYS>>\n{KULLM_SYSTEM}\n<</SYS>>\n\n머리가 아파요. [/INST]"


def test_doctor_is_description_patient_doctor(plain):
    text = render([USER | {"input": "It hurts."}], dress(plain, "doctor", None), answer=True)
    assert text.endswith("### Description:\n머리가 아파요.\n\n### Patient:\nIt hurts.\n\n### Doctor:\n")
    assert text.startswith("You are a professional medical doctor.")


def test_a_system_message_of_ones_own_survives_quotes_and_lines(plain):
    system = "It's a 'test' \\ with\nlines"
    assert system in render([USER], dress(plain, "chat", system), answer=True)


def test_chat_needs_a_template(plain):
    plain.chat_template = None
    with pytest.raises(RecipeError, match="has none"):
        dress(plain, "chat", None)


@pytest.mark.parametrize("template", ["chat", "alpaca-ko", "kullm", "doctor"])
@pytest.mark.parametrize("kind", ["plain", "with_bos"])
def test_training_and_inference_see_the_same_tokens(template, kind, request):
    tokenizer = dress(request.getfixturevalue(kind), template, None)
    sample = encode([USER, ANSWER], tokenizer, LONG)
    prompt = prompt_ids([USER], tokenizer)
    assert sample.input_ids[: len(prompt)] == prompt
    assert set(sample.labels[: len(prompt)]) == {IGNORED}
    assert sample.labels[len(prompt) :] == sample.input_ids[len(prompt) :]
    # A server that renders the template and tokenizes the text gets these ids too
    assert tokenizer.apply_chat_template([USER], add_generation_prompt=True, return_dict=False) == prompt


@pytest.mark.parametrize("template", ["chat", *OWN])
@pytest.mark.parametrize("kind", ["plain", "with_bos"])
def test_the_contract_holds_for_every_template(template, kind, request):
    tokenizer = dress(request.getfixturevalue(kind), template, None)
    for messages in ([ANSWER],) if template == "text" else ([USER, ANSWER], TURNS):
        sample = encode(messages, tokenizer, LONG)
        assert violations(sample.input_ids, sample.labels, first_prompt(messages, tokenizer), tokenizer, LONG) == []
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        assert trained(tokenizer, sample).replace(" ", "") == "".join(a + "<|im_end|>" for a in answers).replace(
            " ", ""
        )
        assert sample.chars >= sum(map(len, answers))
        assert (sample.input_ids[0] == tokenizer.bos_token_id) == (kind == "with_bos")


def test_truncation_keeps_eos_and_tells(plain):
    tokenizer = dress(plain, "chat", None)
    words = {"role": "assistant", "content": "물을 많이 드시고 사흘 동안 푹 쉬세요."}
    whole = encode([USER, words], tokenizer, LONG)
    cut = encode([USER, words], tokenizer, len(whole.input_ids) - 5)
    assert cut.truncated
    assert not whole.truncated
    assert len(cut.input_ids) == len(whole.input_ids) - 5
    assert cut.labels[-1] == tokenizer.eos_token_id
    assert cut.chars < whole.chars
    assert violations(cut.input_ids, cut.labels, prompt_ids([USER], tokenizer), tokenizer, LONG) == []
    assert encode([USER, words], tokenizer, len(whole.input_ids) - 5, "drop") is None
    assert encode([USER, words], tokenizer, len(prompt_ids([USER], tokenizer)) + 1) is None


def test_a_long_dialogue_ends_after_a_whole_answer(plain):
    tokenizer = dress(plain, "chat", None)
    first = encode(TURNS[:2], tokenizer, LONG)
    cut = encode(TURNS, tokenizer, len(first.input_ids) + 3)
    assert cut.truncated
    assert cut.input_ids == first.input_ids


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda ids, labels, tok: (ids, [IGNORED] * len(ids)), "no target token"),
        (lambda ids, labels, tok: (ids, ids), "a token of the prompt is trained"),  # what the seed did
        (lambda ids, labels, tok: (ids[:1] + ids[2:], labels[:1] + labels[2:]), "does not begin with the prompt"),
        (lambda ids, labels, tok: (ids[:-1], labels[:-1]), "does not end with a trained EOS"),
        (lambda ids, labels, tok: (ids, [*labels[:-2], 7, labels[-1]]), "differs from its token"),
        (lambda ids, labels, tok: (ids, labels[:-1]), "input_ids but"),
        (lambda ids, labels, tok: ([tok.bos_token_id, *ids], [IGNORED, *labels]), "2 BOS"),
        (lambda ids, labels, tok: (ids[1:], labels[1:]), "0 BOS"),
        (
            lambda ids, labels, tok: ([ids[0], *[9] * LONG, *ids[1:]], [labels[0], *[IGNORED] * LONG, *labels[1:]]),
            "over max",
        ),
    ],
)
def test_each_breach_of_the_contract_is_named(with_bos, change, sentence):
    tokenizer = dress(with_bos, "chat", None)
    sample = encode([USER, ANSWER], tokenizer, LONG)
    ids, labels = change(sample.input_ids, sample.labels, tokenizer)
    prompt = prompt_ids([USER], tokenizer)
    assert any(sentence in found for found in violations(ids, labels, prompt, tokenizer, LONG))


def test_a_template_that_rewrites_history_is_refused(plain):
    plain.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(CorpusError, match="turn 2 differently"):
        encode(TURNS, plain, LONG)


def test_padding_is_never_trained_even_where_pad_is_eos(plain):
    tokenizer = dress(plain, "chat", None)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    samples = [encode(m, tokenizer, LONG) for m in ([USER, ANSWER], TURNS)]
    batch = PaddingCollator(tokenizer.pad_token_id)([{"input_ids": s.input_ids, "labels": s.labels} for s in samples])
    length = len(samples[0].input_ids)
    assert batch["input_ids"][0, length:].eq(tokenizer.eos_token_id).all()
    assert batch["labels"][0, length:].eq(IGNORED).all()
    assert batch["attention_mask"][0].sum() == length
    assert batch["labels"][0, length - 1] == tokenizer.eos_token_id  # the EOS of the answer is trained


def row(n: int, **more) -> dict:
    messages = [USER, {"role": "assistant", "content": f"{n}일 뒤에 오세요."}]
    return {"row_id": f"{n:064x}", "cluster": "c", "source": f"a.jsonl:{n}", "messages": messages} | more


def test_a_split_lists_what_it_cut_and_names_what_it_refuses(plain):
    tokenizer = dress(plain, "chat", None)
    long = row(3, messages=[USER, {"role": "assistant", "content": "쉬세요. " * 50}])
    split = encode_split([row(1), row(2), long], tokenizer, 120, "truncate", "train")
    assert split.truncated == [long["row_id"]]
    assert split.dataset.column_names == ["input_ids", "labels", "row_id", "cluster", "chars"]
    dropped = encode_split([row(1), long], tokenizer, 120, "drop", "train")
    assert dropped.dropped == [long["row_id"]]
    assert len(dropped.dataset) == 1
    with pytest.raises(CorpusError, match="none of the 1 rows of train fits"):
        encode_split([row(1)], tokenizer, 16, "truncate", "train")
    figures = summarise(split.dataset)
    assert figures["rows"] == 3
    assert figures["length"]["p100"] == 120
    assert 0 < figures["padding_share"]["8"] < 1


def test_a_row_that_breaks_the_contract_stops_the_stage_by_its_id(with_bos):
    tokenizer = dress(with_bos, "chat", None)
    second_bos = row(5, messages=[USER, {"role": "assistant", "content": "<|endoftext|>쉬세요."}])
    with pytest.raises(
        CorpusError, match=rf"(?s)1 rows of train break.*row {second_bos['row_id'][:12]} .a.jsonl:5.*2 BOS"
    ):
        encode_split([row(1), second_bos], tokenizer, 200, "truncate", "train")


def test_an_answer_that_is_empty_is_left_out_and_listed(plain):
    tokenizer = dress(plain, "chat", None)
    empty = row(5, messages=[USER, {"role": "assistant", "content": "<|im_end|>"}])
    assert encode_split([row(1), empty], tokenizer, 200, "truncate", "train").dropped == [empty["row_id"]]


def test_digests_know_content_and_rows(plain):
    tokenizer = dress(plain, "chat", None)

    def splits(rows):
        part = encode_split(rows, tokenizer, 200, "truncate", "test").dataset
        return {"train": part, "validation": part, "test": part}

    one, same, other = splits([row(1), row(2)]), splits([row(1), row(2)]), splits([row(1), row(4)])
    assert tokens_digest(one) == tokens_digest(same)
    assert tokens_digest(one)["tokens_digest"] != tokens_digest(other)["tokens_digest"]
    assert rows_digest(["b", "a"]) == rows_digest(["a", "b"]) != rows_digest(["a"])
