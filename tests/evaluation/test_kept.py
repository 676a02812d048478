"""The store of scores and answers: what is another set, what stands, what is damaged."""

import json
import math
import os
from pathlib import Path

import pytest

from medtune.evaluation import kept
from medtune.params.errors import EvaluationError

MODEL = "a" * 64
ROWS = [{"row_id": "1", "nll": 0.1 + 0.2, "text": "머리가"}, {"row_id": "2", "nll": 1e-9, "text": ""}]


def test_rows_come_back_to_the_bit(tmp_path: Path):
    asked = kept.rows_set(["1", "2"], max_length=8)
    assert kept.read(tmp_path, MODEL, asked) is None
    path = kept.write(tmp_path, MODEL, asked, ROWS)
    assert path == tmp_path / "mlruns/scores" / MODEL / f"{asked}.json"
    assert kept.read(tmp_path, MODEL, asked) == ROWS
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary name is left


def test_no_number_is_kept_as_it_is(tmp_path: Path):
    kept.write(tmp_path, MODEL, "s", [{"nll": math.nan}])
    assert math.isnan(kept.read(tmp_path, MODEL, "s")[0]["nll"])


def test_what_is_there_stands(tmp_path: Path):
    kept.write(tmp_path, MODEL, "s", ROWS)
    kept.write(tmp_path, MODEL, "s", ROWS[:1])
    assert kept.read(tmp_path, MODEL, "s") == ROWS


def test_order_of_rows_is_no_other_set_and_every_setting_is():
    base = kept.rows_set(["1", "2"], max_length=8, overflow="truncate", precision="float32")
    assert base == kept.rows_set(["2", "1"], precision="float32", overflow="truncate", max_length=8)
    others = [
        kept.rows_set(["1"], max_length=8, overflow="truncate", precision="float32"),
        kept.rows_set(["1", "2"], max_length=9, overflow="truncate", precision="float32"),
        kept.rows_set(["1", "2"], max_length=8, overflow="drop", precision="float32"),
        kept.rows_set(["1", "2"], max_length=8, overflow="truncate", precision="bfloat16"),
    ]
    assert len({base, *others}) == 5


def test_prompts_their_order_and_their_settings_are_the_set():
    prompts = [{"id": "a", "messages": [{"role": "user", "content": "열이 나요."}], "reference": None}]
    other = [{**prompts[0], "messages": [{"role": "user", "content": "열이 나요"}]}]
    sets = [
        kept.answers_set(prompts, max_new_tokens=8, sampling=None),
        kept.answers_set(other, max_new_tokens=8, sampling=None),
        kept.answers_set(prompts, max_new_tokens=9, sampling=None),
        kept.answers_set(prompts, max_new_tokens=8, sampling={"seed": 1}),
        kept.answers_set(prompts * 2, max_new_tokens=8, sampling=None),
    ]
    assert len(set(sets)) == 5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace("1e-09", "2e-09"),
        lambda text: text.replace('"' + MODEL, '"' + "b" * 64),
        lambda text: json.dumps({**json.loads(text), "rows": []}),
    ],
)
def test_a_damaged_file_is_a_sentence_with_the_mend(tmp_path: Path, spoil):
    path = kept.write(tmp_path, MODEL, "s", ROWS)
    before = path.read_text()
    path.write_text(spoil(before))
    assert path.read_text() != before
    with pytest.raises(EvaluationError, match=rf"{path} is damaged; remove it"):
        kept.read(tmp_path, MODEL, "s")
    path.unlink()
    assert kept.read(tmp_path, MODEL, "s") is None


def test_a_file_of_another_set_is_not_taken(tmp_path: Path):
    path = kept.write(tmp_path, MODEL, "s", ROWS)
    os.replace(path, path.with_name("t.json"))
    with pytest.raises(EvaluationError, match="damaged"):
        kept.read(tmp_path, MODEL, "t")
