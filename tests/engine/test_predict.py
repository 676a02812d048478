"""`medtune predict`'s engine: a file of answers that can be gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine.merged import make_model
from medtune.engine.decode import Sampling
from medtune.engine.load import load_model, load_tokenizer
from medtune.engine.predict import Asking, generation_defaults, meta_path, predict, read_rows
from medtune.params.errors import EngineError

VERSION = "a" * 64
ASKING = Asking(VERSION, max_new_tokens=6, batch_size=3)


@pytest.fixture(scope="module")
def merged(tmp_path_factory) -> Path:
    return make_model("gpt2", tmp_path_factory.mktemp("merged") / "model", "alpaca-ko")


@pytest.fixture(scope="module")
def loaded(merged):
    return load_model(merged, device=torch.device("cpu"), dtype=torch.float32), load_tokenizer(merged)


@pytest.fixture
def questions(tmp_path) -> Path:
    rows = [{"id": f"q{n}", "question": f"{n}일째 머리가 아파요." + " 어지러워요." * (n % 4)} for n in range(7)]
    rows += [{"instruction": "열이 나요."}, {"prompt": "열이 나요."}]
    rows.append({"id": 9, "messages": [{"role": "system", "content": "짧게"}, {"role": "user", "content": "기침"}]})
    return write(tmp_path / "in.jsonl", rows)


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def never():
    raise AssertionError("the model was loaded though nothing is left to answer")


def test_every_question_is_answered_once_and_in_order(questions, tmp_path, loaded):
    told = []
    out = tmp_path / "out.jsonl"
    rows = read_rows(questions)
    assert predict(rows, out, ASKING, lambda: loaded, lambda *now: told.append(now)) == 10
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [row.id for row in rows]
    assert lines[9]["id"] == "9"
    assert len({line["id"] for line in lines}) == 10  # the same words in two lines without id are two rows
    assert set(lines[0]) == {"id", "question", "answer", "tokens", "ended", "version"}
    assert {line["version"] for line in lines} == {VERSION}
    assert [now[:2] for now in told] == [(3, 10), (6, 10), (9, 10), (10, 10)]
    assert json.loads(meta_path(out).read_text())["version"] == VERSION
    assert predict(rows, out, ASKING, never) == 0


@pytest.mark.parametrize("sampling", [None, Sampling(0.9, 20, 0.9, 1.2, seed=4)], ids=["greedy", "drawn"])
def test_a_run_cut_at_any_byte_ends_in_the_same_file(questions, tmp_path, loaded, sampling):
    rows, asking = read_rows(questions), Asking(VERSION, 6, sampling, 3)
    whole = tmp_path / "whole.jsonl"
    predict(rows, whole, asking, lambda: loaded)
    content = whole.read_bytes()
    ends = [n for n, byte in enumerate(content) if byte == 10]
    for cut in (0, 1, ends[0], ends[0] + 1, ends[1] + 7, ends[3] + 40, ends[8] + 1, len(content) - 1):
        out = tmp_path / f"cut-{cut}.jsonl"
        out.write_bytes(content[:cut])
        meta_path(out).write_bytes(meta_path(whole).read_bytes())
        predict(rows, out, asking, lambda: loaded)
        assert out.read_bytes() == content


def test_a_killed_process_is_gone_on_with(questions, tmp_path, merged, loaded):
    rows = [{"id": str(n), "question": f"{n}번 질문: 열이 나요."} for n in range(400)]
    source, out = write(tmp_path / "many.jsonl", rows), tmp_path / "out.jsonl"
    code = f"""
import torch
from pathlib import Path
from medtune.engine.load import load_model, load_tokenizer
from medtune.engine.predict import Asking, predict, read_rows
model = load_model(Path({str(merged)!r}), device=torch.device("cpu"), dtype=torch.float32)
asking = Asking({VERSION!r}, 6, batch_size=3)
tokenizer = load_tokenizer(Path({str(merged)!r}))
predict(read_rows(Path({str(source)!r})), Path({str(out)!r}), asking, lambda: (model, tokenizer))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    while process.poll() is None and (not out.exists() or out.stat().st_size < 500):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(out.read_bytes().splitlines()) < 400
    predict(read_rows(source), out, ASKING, lambda: loaded)
    again = tmp_path / "again.jsonl"
    predict(read_rows(source), again, ASKING, lambda: loaded)
    assert out.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Asking("b" * 64, 6, batch_size=3), "version aaaaaaaaaaaa and not bbbbbbbbbbbb"),
        (Asking(VERSION, 7, batch_size=3), "max_new_tokens 6 and not 7"),
        (Asking(VERSION, 6, Sampling(0.2, 50, 0.9, 1.2), 3), "sampling null and not"),
        (Asking(VERSION, 6, batch_size=4), "batch_size 3 and not 4"),
    ],
)
def test_another_version_or_setting_is_refused(questions, tmp_path, loaded, other, named):
    rows, out = read_rows(questions), tmp_path / "out.jsonl"
    predict(rows, out, ASKING, lambda: loaded)
    before = out.read_bytes()
    with pytest.raises(EngineError, match=f"{named}.*name another OUT"):
        predict(rows, out, other, never)
    assert out.read_bytes() == before


def test_a_file_of_unknown_origin_is_left_alone(questions, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("something of mine")
    with pytest.raises(EngineError, match=r"no out\.jsonl\.meta\.json says of which version"):
        predict(read_rows(questions), out, ASKING, never)
    assert out.read_text() == "something of mine"


def test_an_id_that_asks_something_else_now_is_refused(questions, tmp_path, loaded):
    out = tmp_path / "out.jsonl"
    predict(read_rows(questions), out, ASKING, lambda: loaded)
    write(questions, [{"id": "q0", "question": "다른 질문이에요."}])
    with pytest.raises(EngineError, match="answers another question under id 'q0' than line 1"):
        predict(read_rows(questions), out, ASKING, never)


def test_two_processes_do_not_write_into_one_file(questions, tmp_path, loaded):
    import fcntl

    out = tmp_path / "out.jsonl"
    with out.open("a+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(EngineError, match="another process writes to"):
            predict(read_rows(questions), out, ASKING, never)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{'question': 1}", "not JSON"),
        ("[]", "a line must be an object"),
        ('{"frage": "x"}', r"none of the keys question, instruction, prompt and messages \(found: frage\)"),
        ('{"question": "  "}', "question holds no text"),
        ('{"question": 3}', "question holds no text"),
        ('{"question": "a", "id": 1.5}', "id must be a text or a whole number"),
        ('{"question": "a", "id": "q0"}', "id 'q0' stands in line 1 already"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "messages must end",
        ),
        ('{"messages": [{"role": "doctor", "content": "a"}]}', "turn 1 of messages has no role"),
        ('{"messages": []}', "messages must be a list"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_answered(tmp_path, line, told):
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "q0", "question": "열이 나요."}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(EngineError, match=rf"in\.jsonl, line 3: {told}"):
        read_rows(path)


def test_bad_lines_are_told_together(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("x\n" * 8)
    with pytest.raises(EngineError, match=r"line 5: .*\nand 3 more lines"):
        read_rows(path)


def test_a_question_too_long_is_refused_before_the_first_answer(tmp_path, loaded):
    source = write(tmp_path / "in.jsonl", [{"question": "열"}, {"question": "열이 나요. " * 800}])
    out = tmp_path / "out.jsonl"
    with pytest.raises(EngineError, match=r"line 2 .* are more than the model's 2048 positions; shorten"):
        predict(read_rows(source), out, ASKING, lambda: loaded)
    assert not out.read_bytes()


def test_how_answers_are_drawn_is_the_models_own(merged):
    assert generation_defaults(merged) == {
        "temperature": 0.2,
        "top_k": 50,
        "top_p": 0.92,
        "repetition_penalty": 1.2,
        "max_new_tokens": 24,
    }
    assert os.path.exists(merged / "generation_config.json")


def test_a_line_ends_at_its_line_end_alone(tmp_path):
    """JSON may hold U+2028 and U+0085 as they are; to Python's splitlines they are line ends."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"question": "머리가\u2028아파요.\u0085"}\r\n{"question": "b"}\n', encoding="utf-8", newline="")
    assert [(row.line, row.question) for row in read_rows(path)] == [(1, "머리가\u2028아파요."), (2, "b")]
