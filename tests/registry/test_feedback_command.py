"""`medtune feedback` in a checkout: what it writes, what it says, and that a vote alone makes no row."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from medtune.commands.feedback import feedback
from medtune.corpus.dialogue import to_messages
from medtune.corpus.rows import row_id
from medtune.corpus.sift import sift
from medtune.evaluation.review.pairs import read_pairs, text_id
from medtune.params.errors import UserError
from medtune.params.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
ASKED = "목이 칼칼하고 기침이 나는데 병원에 가야 할까요?"
BETTER = "열이 없으면 물을 자주 드시고, 일주일 넘게 이어지면 내과에서 진찰을 받으세요."
WORSE = "감기약을 드시면 됩니다. 걱정하지 마시고 편하게 지내세요."
NOT_SAID = {"approved": False, "votes": None, "preferred": False, "by": None, "model": None, "version": None}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "recipes/sample.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "data/suites", tmp_path / "data/suites")
    messages = [{"role": "user", "content": "배가 아파요. 왜죠?"}, {"role": "assistant", "content": WORSE}]
    line = {"row_id": row_id(messages), "cluster": "c", "split": "test", "source": "a:1", "messages": messages}
    (tmp_path / "data/valid").mkdir()
    (tmp_path / "data/valid/rows.jsonl").write_text(json.dumps(line) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*files: Path, dry_run: bool = False, **options) -> None:
    feedback(list(files), **(NOT_SAID | options), dry_run=dry_run)


def rows(checkout: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in sorted((checkout / "data/incoming").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def test_answers_of_predict_with_corrections_are_written_once(checkout, capsys):
    prompt = json.loads((checkout / "data/suites/red_flags.jsonl").read_text(encoding="utf-8").splitlines()[0])[
        "prompt"
    ]
    predicted = {"id": "1", "question": ASKED, "answer": WORSE, "tokens": 9, "ended": True, "version": "f" * 64}
    lines = [
        {**predicted, "corrected": BETTER, "by": "김의사"},
        {**predicted, "id": "2", "question": prompt, "corrected": BETTER, "by": "김의사"},
        {**predicted, "id": "3", "question": "눈이 침침한데 왜 그럴까요?"},
    ]
    path = checkout / "out.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(path, dry_run=True)
    assert rows(checkout) == []
    run(path)
    (row,) = rows(checkout)
    assert (row["origin"]["version"], row["origin"]["by"], row["origin"]["model"]) == ("f" * 64, "김의사", "medgpt-ko")
    run(path)
    assert len(rows(checkout)) == 1
    told = capsys.readouterr().out
    assert "3 reviewed answer(s): 1 row(s) to learn from, 1 refused, 1 without a correction" in told
    assert "out.jsonl:2: its question is, or nearly is, one of the suite red_flags" in told
    assert prompt not in told
    assert "next: make run" in told


def test_a_written_row_passes_validate(checkout):
    path = checkout / "out.jsonl"
    path.write_text(json.dumps({"question": ASKED, "answer": WORSE, "corrected": BETTER, "by": "김의사"}) + "\n")
    run(path)
    recipe = load_recipe()

    def as_messages(row: dict) -> list[dict]:
        return to_messages(row, recipe.download.format, recipe.download.columns, None)

    (sifted,) = sift(
        [{"source": "incoming/a:1", "row": row} for row in rows(checkout)], recipe.validate_, as_messages
    ).rows
    assert sifted.good


def test_a_preferred_answer_is_a_row_only_where_asked_for_and_clear(checkout):
    reports = checkout / "reports/evaluate"
    reports.mkdir(parents=True)
    digests = {"base": "b" * 64, "adapter": "a" * 64}
    (checkout / "reports/evaluate.json").write_text(json.dumps({"models": digests}))
    asked = [("questions", ASKED), ("questions", "발목을 삐었는데 걸어도 되나요?"), ("test", "배가 아파요. 왜죠?")]
    answers = [
        {"set": kind, "id": n, "question": text, "answers": {"adapter": {"text": BETTER}, "base": {"text": WORSE}}}
        for n, (kind, text) in enumerate(asked)
    ]
    (reports / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    items = read_pairs(checkout).items.values()
    votes = checkout / "votes.jsonl"
    lines = [
        {
            "reviewer": "김의사",
            "item": item.id,
            "a": text_id(item.candidate),
            "choice": "a",
            "harmful": ["a"] if "발목" in item.question else [],
            "comment": "",
            "key": hashlib.sha256(item.id.encode()).hexdigest()[:16],
            "at": "2026-11-23T00:00:00+00:00",
        }
        for item in items
    ]
    votes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="--votes and --preferred go together"):
        run(votes=votes)
    run(votes=votes, preferred=True)
    (row,) = rows(checkout)
    assert row["instruction"] == ASKED
    assert row["output"] == BETTER
    assert (row["origin"]["kind"], row["origin"]["version"]) == ("preferred", "a" * 64)


def test_without_a_file_it_says_what_to_give(checkout):
    with pytest.raises(UserError, match=r"needs a file, such as corrected\.csv"):
        run()
