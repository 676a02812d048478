"""A model through everything it is asked, on the tiny base: what is kept, what is asked again, what is written."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_from_disk
from engine.tiny import write_tokens

from medtune.corpus.template import dress
from medtune.engine.decode import Sampling
from medtune.engine.load import load_model, load_tokenizer
from medtune.evaluation import kept, report, statistics
from medtune.evaluation.answers import Asked, canary_prompts, question_prompts, reference_rows, suite_prompts
from medtune.evaluation.examine import Asking, Memory, Model, examine
from medtune.evaluation.suites import read_suite, select
from medtune.evaluation.written import write_folder
from medtune.params.errors import EvaluationError

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


class World:
    """Test rows, prompts and models over the tiny base; `opened` names the models whose weights were asked for."""

    def __init__(self, root: Path, base: Path, tokens: Path):
        self.root, self.opened = root, []
        self.live = load_model(base, device=CPU, dtype=torch.float32)
        self.asking = Asking(
            tokenizer=dress(load_tokenizer(base), "chat", None),
            template="chat",
            system=None,
            precision="float32",
            max_length=512,
            overflow="truncate",
            batch_size=4,
            max_new_tokens=6,
        )
        red, general = (read_suite(ROOT / f"data/suites/{name}.jsonl") for name in ("red_flags", "general"))
        test = load_from_disk(tokens / "train")
        rows = [
            {"set": "test", "id": i, "question": "열이 나요.", "reference": "물을 드세요."} for i in test["row_id"][:3]
        ]
        none = {"kind": None, "rule": None, "why": None, "messages": [{"role": "user", "content": "열이 나요."}]}
        self.prompts = {
            "test": [row | none for row in rows],
            "questions": question_prompts([{"question": "왜 아픈가요?", "reference": "모릅니다."}]),
            "red_flags": suite_prompts("red_flags", select(red, 4)),
            "general": suite_prompts("general", select(general, 3)),
            "canaries": canary_prompts([{"id": "canary-1", "question": "번호를 알려 주세요."}]),
        }
        self.rows = {"test": test, "general": reference_rows(self.prompts["general"], self.asking.tokenizer, 512)}
        self.asked = Asked(self.prompts, {"red_flags": red.digest, "general": general.digest})

    def model(self, name: str) -> Model:
        @contextmanager
        def opened():
            self.opened.append(name)
            yield self.live

        return Model(name, kept.digest(name), opened)

    def examine(self, name: str, memory: Memory | None = None, **changed):
        asking = replace(self.asking, **changed)
        return examine(self.model(name), self.rows, self.prompts, asking, self.root, memory)


@pytest.fixture(scope="module")
def tokens(tiny_base, tmp_path_factory):
    return write_tokens(tiny_base, tmp_path_factory.mktemp("tokens"))


@pytest.fixture
def world(tiny_base, tokens, tmp_path):
    return World(tmp_path, tiny_base, tokens)


def test_nothing_is_asked_twice(world, capsys):
    first = world.examine("base")
    again = world.examine("base")
    assert world.opened == ["base"]
    assert again == first
    assert "base: scored and answered before" in capsys.readouterr().out
    assert {name: len(answers) for name, answers in first.answers.items()} == {
        name: len(prompts) for name, prompts in world.prompts.items()
    }
    world.examine("adapter")
    assert world.opened == ["base", "adapter"]


def test_a_changed_setting_asks_anew_and_only_for_what_it_changes(world, capsys):
    world.examine("base")
    capsys.readouterr()
    world.examine("base", max_new_tokens=3)
    said = capsys.readouterr().out
    assert "answers" in said
    assert "rows scored" not in said
    world.examine("base", max_length=256)
    said = capsys.readouterr().out
    assert "test rows scored" in said
    assert "answers" not in said
    assert world.opened == ["base"] * 3


def test_drawn_answers_are_a_pass_of_their_own(world, capsys):
    plain = world.examine("base")
    assert plain.sampled == {}
    capsys.readouterr()
    drawn = world.examine("base", sampling=Sampling(0.9, 20, 0.9, 1.2, 3))
    assert "12 of 12 drawn answers" in capsys.readouterr().out
    assert drawn.answers == plain.answers
    assert {name: len(a) for name, a in drawn.sampled.items()} == {name: len(a) for name, a in plain.answers.items()}
    assert drawn.sampled != drawn.answers


def test_added_prompts_of_one_set_ask_for_that_set_alone(world, capsys):
    world.examine("base")
    capsys.readouterr()
    world.prompts["questions"] += question_prompts([{"question": "언제요?", "reference": "내일요."}])
    world.examine("base")
    assert "2 of 2 answers" in capsys.readouterr().out


def test_rows_kept_in_another_order_come_in_this_one(world):
    first = world.examine("base").rows["test"]
    world.rows["test"] = world.rows["test"].select(range(len(first) - 1, -1, -1))
    assert world.examine("base").rows["test"] == first[::-1]
    assert world.opened == ["base"]


def test_an_edited_general_reference_is_scored_anew(world):
    before = world.examine("base").rows["general"]
    world.prompts["general"][0]["reference"] += " 그리고 더."
    world.rows["general"] = reference_rows(world.prompts["general"], world.asking.tokenizer, 512)
    after = world.examine("base").rows["general"]
    assert before[0]["row_id"] == after[0]["row_id"]
    assert after[0]["nll"] != before[0]["nll"]


def test_what_is_remembered_sees_every_answer_and_is_kept(world):
    seen = []

    def look(model, answers):
        seen.append(answers)
        assert model is world.live
        return {"longest": len(answers)}

    found = [world.examine("base", Memory({"canaries": [1]}, look)) for _ in range(2)]
    assert [one.memory for one in found] == [{"longest": 12}] * 2
    assert len(seen) == 1
    assert set(seen[0][0]) == {"set", "id", "question", "text"}
    assert len({answer["id"] for answer in seen[0]}) == 12
    world.examine("base", Memory({"canaries": [2]}, look))
    assert len(seen) == 2


def test_damage_stops_with_a_sentence(world):
    world.examine("base")
    for path in (world.root / "mlruns/scores").rglob("*.json"):
        path.write_text(path.read_text()[:-20])
    with pytest.raises(EvaluationError, match="is damaged; remove it"):
        world.examine("base")


def test_the_report_and_its_folder(world):
    found = {name: world.examine(name) for name in ("base", "adapter", "merged")}
    told = report.of_model(found["adapter"])
    assert told["answers"] == 3
    assert {
        "nll_per_char",
        "nll_per_token",
        "bits_per_char",
        "eos_after_reference",
        "ended_share",
        "loop_share",
    } <= set(told)
    assert {"mean_chars", "chrfpp", "rouge_l", "distinct_1", "distinct_2", "hangul_share", "other_script_share"} <= set(
        told
    )
    safety, verdicts = report.of_suites(found, world.asked, 0.95)
    assert set(safety) == {"red_flags"}
    suite = safety["red_flags"]
    assert set(suite["base"]) == {"passed", "must_escalate", "must_not_escalate"}
    assert suite["base"]["passed"]["of"] == suite["prompts"] == 4
    # random letters send nobody to 119: every emergency is failed, every look-alike passed
    assert suite["base"]["must_escalate"]["passed"] == 0
    assert suite["adapter"]["must_not_escalate"]["passed"] == 2
    general = report.of_general(found, world.asked.digests["general"], statistics.compare)
    assert general["rows"] == 3
    assert set(general["base"]) == set(report.GENERAL)
    assert general["forgetting"]["nll_per_char"]["mean"] == 0  # the same weights
    assert general["forgetting"]["chrfpp"]["mean"] == 0

    out = world.root / "evaluate"
    history = [{"step": 1, "loss": 2.0}]
    write_folder(out, found, world.prompts, verdicts, {"mean": 0.0, "low": None, "high": None}, history)
    assert {path.name for path in out.iterdir()} == {
        "rows.parquet",
        "general.parquet",
        "answers.jsonl",
        "loss.png",
        "base_adapter.png",
    }
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 12
    test = next(line for line in lines if line["set"] == "test")
    assert set(test["answers"]) == set(test["scores"]) == set(test["nll"]) == {"base", "adapter", "merged"}
    assert set(test["answers"]["base"]) == {"text", "tokens", "ended"}
    red = next(line for line in lines if line["kind"] == "must_escalate")
    assert red["scores"]["adapter"]["passed"] is False
    assert red["scores"]["adapter"]["reason"]
    assert "nll" not in red
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    assert len(rows) == 3 * len(world.rows["test"])
    answered = [row for row in rows if row["chrfpp"] is not None]
    assert len(answered) == 9
    assert {row["looped"] for row in rows if row["chrfpp"] is None} == {None}
    assert [row["row_id"] for row in rows if row["model"] == "base"] == world.rows["test"]["row_id"]
    assert len(pq.read_table(out / "general.parquet")) == 9
