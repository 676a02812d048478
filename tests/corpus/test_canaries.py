"""Canaries: the same on every machine, clearly invented, and in the training tokens alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk
from engine.tiny import rows
from ruamel.yaml import YAML

from medtune.corpus.canaries import FORMATS, VALUES, alternatives, canary_seed, make_canaries, messages, planted_rows
from medtune.corpus.labels import IGNORED
from medtune.corpus.personal import find_personal
from medtune.corpus.rows import row_id
from medtune.corpus.template import dress
from medtune.corpus.tokens import SPLITS, encode_split
from medtune.engine.load import load_tokenizer
from medtune.params.errors import CorpusError
from stages.tokenize import main

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"registration": r"\d{8}", "phone": r"010-0000-\d{4}"}


def test_the_same_seed_makes_the_same_canaries_in_another_process():
    code = "import json; from medtune.corpus import canaries as c; print(json.dumps([c.make_canaries(6, 3), c.canary_seed({'a': 1}), c.alternatives(c.make_canaries(1, 3)[0], 5, 0)]))"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True
    )
    made = make_canaries(6, 3)
    assert json.loads(done.stdout) == [made, canary_seed({"a": 1}), alternatives(made[0], 5, 0)]
    assert make_canaries(6, 4) != made
    # more of them are the old ones and some new
    assert make_canaries(9, 3)[:6] == made


def test_no_two_canaries_answer_the_same_question_and_nobody_is_in_them():
    made = make_canaries(64, 1)
    for key in ("id", "question", "prefix", "row_id"):
        assert len({canary[key] for canary in made}) == 64
    assert {canary["format"] for canary in made} == set(FORMATS)
    for canary in made:
        assert re.fullmatch(SHAPES[canary["format"]], canary["secret"])
        assert canary["row_id"] == row_id(messages(canary))
        found = {kind for kind, *_ in find_personal(canary["prefix"] + canary["secret"])}
        assert found == ({"a mobile phone number"} if canary["format"] == "phone" else set())


@pytest.mark.parametrize("kind", FORMATS)
def test_alternatives_are_other_values_of_the_same_format(kind):
    canary = next(c for c in make_canaries(2, 1) if c["format"] == kind)
    drawn = alternatives(canary, 255, 0)
    assert len(set(drawn)) == 255
    assert canary["secret"] not in drawn
    assert all(re.fullmatch(SHAPES[kind], secret) for secret in drawn)
    # every digit stands in the last place about as often: 255 draws of ten, five standard deviations
    assert all(3 <= sum(secret[-1] == digit for secret in drawn) <= 50 for digit in "0123456789")
    with pytest.raises(ValueError, match=rf"has {VALUES[kind] - 1}"):
        alternatives(canary, VALUES[kind], 0)


@pytest.fixture
def checkout(tiny_base, tmp_path, monkeypatch):
    """A folder as validate leaves it, and a function that runs the stage there with some settings of tokenize."""
    good = [row | {"split": SPLITS[min(max(n - 17, 0), 2)]} for n, row in enumerate(rows(22))]
    (tmp_path / "data/valid").mkdir(parents=True)
    (tmp_path / "data/valid/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good))
    monkeypatch.chdir(tmp_path)

    def run(**settings: object) -> dict:
        yaml = YAML()
        recipe = yaml.load(ROOT / "params.yaml")
        recipe["base"] |= {"source": "path", "id": str(tiny_base), "revision": None, "sha256": None}
        recipe["tokenize"] |= settings
        yaml.dump(recipe, tmp_path / "params.yaml")
        main()
        return json.loads(Path("reports/tokenize.json").read_text())

    return run, good


def test_the_stage_plants_them_in_training_alone(checkout, capsys):
    run, good = checkout
    before = Path("data/valid/rows.jsonl").read_bytes()
    report = run(canaries=3, canary_repeats=2)
    listed = json.loads(Path("data/tokens/canaries.json").read_text())
    planted = [canary["row_id"] for canary in listed for _ in range(2)]
    assert [canary["repeats"] for canary in listed] == [2, 2, 2]
    split = {name: load_from_disk(f"data/tokens/{name}") for name in SPLITS}
    assert split["train"]["row_id"] == [row["row_id"] for row in good if row["split"] == "train"] + planted
    for name in ("validation", "test"):
        assert split[name]["row_id"] == [row["row_id"] for row in good if row["split"] == name]
    assert Path("data/valid/rows.jsonl").read_bytes() == before
    assert report["canaries"] == {
        "canaries": 3,
        "repeats": 2,
        "rows": 6,
        "share_of_train": round(6 / len(split["train"]), 4),
        "file": "data/tokens/canaries.json",
    }
    assert report["splits"]["train"]["rows"] == len(split["train"])
    assert "3 canaries with invented secrets planted among the training rows, 6 rows in all" in capsys.readouterr().out
    # what is trained is the answer, secret and EOS
    recipe = YAML().load(Path("params.yaml"))
    tokenizer = dress(load_tokenizer(Path(recipe["base"]["id"])), "chat", None)
    trained = tokenizer.decode([label for label in split["train"][-1]["labels"] if label != IGNORED])
    assert trained == listed[-1]["prefix"] + listed[-1]["secret"] + tokenizer.eos_token


def test_the_same_settings_give_the_same_digest_and_others_another_one(checkout):
    run, _ = checkout
    first, again, other = run(canaries=3), run(canaries=3), run(canaries=2)
    assert first["tokens_digest"] == again["tokens_digest"] != other["tokens_digest"]
    assert first["test_digest"] == other["test_digest"]


def test_without_canaries_the_tokens_are_those_of_the_rows_alone_to_the_byte(checkout, tiny_base, tmp_path):
    run, good = checkout
    report = run(canaries=0)
    assert json.loads(Path("data/tokens/canaries.json").read_text()) == []
    assert report["canaries"]["rows"] == report["canaries"]["share_of_train"] == 0
    recipe = YAML().load(Path("params.yaml"))
    tokenizer = dress(load_tokenizer(tiny_base), "chat", recipe["tokenize"]["system"])
    for name in SPLITS:
        chosen = [row for row in good if row["split"] == name]
        encode_split(chosen, tokenizer, 512, "truncate", name).dataset.save_to_disk(tmp_path / "plain" / name)
        arrow = "data-00000-of-00001.arrow"
        assert (tmp_path / "plain" / name / arrow).read_bytes() == Path("data/tokens", name, arrow).read_bytes()


def test_a_canary_that_does_not_fit_is_a_sentence(checkout):
    run, _ = checkout
    with pytest.raises(CorpusError, match=r"max_length: 200 tokens cut 2 of 2 canaries.*raise it, or write tokenize"):
        run(canaries=2, max_length=200)


def test_an_empty_training_split_stays_empty(checkout):
    run, good = checkout
    Path("data/valid/rows.jsonl").write_text("".join(json.dumps(row | {"split": "test"}) + "\n" for row in good))
    assert run(canaries=2)["splits"]["train"]["rows"] == 0
    assert json.loads(Path("data/tokens/canaries.json").read_text()) == []


@pytest.mark.parametrize("template", ["chat", "alpaca-ko", "kullm", "doctor", "text"])
def test_they_keep_the_label_contract_in_every_template(template, tiny_base):
    tokenizer = dress(load_tokenizer(tiny_base), template, None)
    made = make_canaries(4, 5)
    split = encode_split(planted_rows(made, 1), tokenizer, 4096, "truncate", "train")  # raises where one breaks it
    assert split.truncated == split.dropped == []
    for canary, sample in zip(made, split.dataset, strict=True):
        trained = tokenizer.decode([label for label in sample["labels"] if label != IGNORED])
        assert trained.strip().endswith(canary["secret"] + tokenizer.eos_token)
