"""What every model is asked: questions, test rows, suites, canaries."""

import json
from pathlib import Path

import pytest

from medtune.corpus.labels import IGNORED
from medtune.corpus.template import dress
from medtune.engine.load import load_tokenizer
from medtune.evaluation.answers import (
    canary_prompts,
    collect,
    question_prompts,
    read_questions,
    read_rows,
    reference_rows,
    row_prompts,
    suite_prompts,
)
from medtune.evaluation.suites import read_suite
from medtune.params.errors import CorpusError
from medtune.params.evaluate import Evaluate

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"set", "id", "messages", "question", "reference", "kind", "rule", "why"}


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


def row(name: str, *messages: tuple[str, str], **more: str) -> dict:
    said = [{"role": role, "content": text} for role, text in messages]
    return {"row_id": name, "messages": [{**said[0], **more}, *said[1:]]}


ROWS = {
    "b": row("b", ("user", "열이 나요."), ("assistant", "물을 드세요."), ("user", "또요."), ("assistant", "네.")),
    "a": row("a", ("user", "설명"), ("assistant", "병원에 가세요."), input="머리가 아파요."),
    "c": row("c", ("assistant", "질문 없이 시작하는 글")),
    "d": row("d", ("system", "의사입니다."), ("user", "기침이요."), ("assistant", "쉬세요.")),
}


def test_test_rows_become_prompts_up_to_their_first_answer():
    prompts = row_prompts(ROWS, ["d", "c", "b", "a"], None)
    assert all(set(prompt) == KEYS for prompt in prompts)
    assert [(p["id"], p["question"], p["reference"], len(p["messages"])) for p in prompts] == [
        ("a", "설명\n\n머리가 아파요.", "병원에 가세요.", 1),
        ("b", "열이 나요.", "물을 드세요.", 1),
        ("d", "기침이요.", "쉬세요.", 2),
    ]


def test_the_chosen_rows_do_not_depend_on_their_order():
    assert row_prompts(ROWS, ["d", "b", "a"], 2) == row_prompts(ROWS, ["a", "b", "d"], 2)
    assert [p["id"] for p in row_prompts(ROWS, ["d", "b", "a"], 2)] == ["a", "b"]


def test_a_test_row_without_text_is_named():
    with pytest.raises(CorpusError, match="no row gone, which the test split holds"):
        row_prompts(ROWS, ["gone"], None)


def test_rows_that_cannot_be_read_are_a_sentence(tmp_path):
    with pytest.raises(CorpusError, match=r"cannot be read.*dvc repro"):
        read_rows(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("{")
    with pytest.raises(CorpusError, match=r"rows\.jsonl cannot be read"):
        read_rows(tmp_path / "rows.jsonl")


def test_prompts_of_every_set_have_the_same_keys():
    questions = question_prompts([{"question": "왜요?", "reference": "그래서요."}])
    assert questions[0]["id"] == "q-001"
    canary = {"id": "canary-1", "question": "번호는?", "prefix": "", "secret": "1"}
    suite = {
        "id": "rf-1",
        "prompt": "가슴이요",
        "kind": "must_escalate",
        "rule": "escalate_119",
        "why": "w",
        "topic": "t",
    }
    (red,) = suite_prompts("red_flags", [suite])
    (general,) = suite_prompts("general", [{"id": "gn-1", "prompt": "안녕", "answer": "안녕하세요", "topic": "t"}])
    for prompt in (questions[0], canary_prompts([canary])[0], red, general):
        assert set(prompt) >= KEYS
        assert prompt["messages"] == [{"role": "user", "content": prompt["question"]}]
    assert (red["kind"], red["rule"], red["why"], red["reference"]) == ("must_escalate", "escalate_119", "w", None)
    assert (general["reference"], general["rule"]) == ("안녕하세요", None)
    assert canary_prompts([canary])[0]["reference"] is None  # what was planted is nothing to come near to


def test_the_shipped_suites_are_collected(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(one) + "\n" for one in ROWS.values()))
    settings = Evaluate(questions=str(ROOT / "data/questions.jsonl"), max_questions=2, suite_prompts=8, answers=1)
    asked = collect(settings, ["a", "b"], rows, ROOT / "data/suites", [])
    assert {name: len(prompts) for name, prompts in asked.sets.items()} == {
        "test": 1,
        "questions": 2,
        "red_flags": 8,
        "dosage": 8,
        "identities": 8,
        "general": 8,
    }
    assert {one["file"] for one in asked.files} == {f"data/suites/{name}.jsonl" for name in settings.suites}
    assert asked.digests["dosage"] == read_suite(ROOT / "data/suites/dosage.jsonl").digest
    some = collect(settings.model_copy(update={"suites": ["dosage"]}), ["a"], rows, ROOT / "data/suites", [])
    assert set(some.sets) == {"test", "questions", "dosage"}


def test_general_references_are_samples_that_train_the_answer_alone(tiny_base):
    tokenizer = dress(load_tokenizer(tiny_base), "chat", None)
    prompts = suite_prompts("general", [{"id": "gn-1", "prompt": "안녕", "answer": "안녕하세요", "topic": "t"}])
    dataset = reference_rows(prompts, tokenizer, 256)
    assert dataset["row_id"] == dataset["cluster"] == ["gn-1"]
    trained = [token for token in dataset[0]["labels"] if token != IGNORED]
    assert tokenizer.decode(trained[:-1]) == "안녕하세요"
    assert trained[-1] == tokenizer.eos_token_id
    assert dataset[0]["chars"] == len("안녕하세요")
