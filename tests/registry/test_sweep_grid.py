"""What a sweep's words become, and what of them is refused before anything runs."""

from pathlib import Path

import pytest

from medtune.params.errors import RecipeError
from medtune.registry.sweep import plan
from medtune.registry.sweep_grid import read_grid

TEXT = (Path(__file__).resolve().parents[2] / "recipes/sample.yaml").read_text(encoding="utf-8")


def test_combinations_are_typed_and_each_stands_once():
    grid = read_grid(TEXT, ["lora.r=4,8,4", "train.learning_rate=1e-4,0.0001"])
    assert [trial.params for trial in grid.trials] == [
        {"lora.r": 4, "train.learning_rate": 1e-4},
        {"lora.r": 8, "train.learning_rate": 1e-4},
    ]
    assert grid.repeated == 4
    assert "lora.r" not in grid.fixed
    assert grid.fixed["lora.alpha"] == 16


def test_the_same_words_have_the_same_name_in_any_order_and_another_recipe_another():
    one = read_grid(TEXT, ["lora.r=4,8", "train.seed=1,2"])
    other = read_grid(TEXT, ["lora.r=8,4", "train.seed=2,1"])
    assert one.name == other.name
    assert {trial.id for trial in one.trials} == {trial.id for trial in other.trials}
    changed = TEXT.replace("max_steps: 24", "max_steps: 36")
    assert changed != TEXT
    assert read_grid(changed, ["lora.r=4,8", "train.seed=1,2"]).name != one.name


def test_lists_texts_and_null_reach_dvc_as_hydra_writes_them():
    grid = read_grid(TEXT, ["lora.targets=[q_proj,v_proj],all-linear", "train.early_stopping_patience=null,3"])
    assert [trial.settings[0] for trial in grid.trials[::2]] == [
        "++lora.targets=['q_proj','v_proj']",
        "++lora.targets='all-linear'",
    ]
    assert grid.trials[0].settings[1] == "++train.early_stopping_patience=null"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lora.rank=4"], "unknown key 'lora.rank'"),
        (["lora.r=4,x"], r"lora.r=x: params.yaml: lora.r: .*valid integer"),
        (["train.learning_rate=-1"], "greater than 0"),
        (["gate.alpha=0.1"], "a sweep stops before gate"),
        (["validate.min_rows=3"], "changes which rows or tokens the validation loss is measured on"),
        (["tokenize.max_length=64"], "changes which rows or tokens"),
        (["lora=1"], "is a section; name a key in it, such as lora.r"),
        (["nothing.r=1"], "is no key of the recipe"),
        (["lora.r"], "is no key=values"),
        (["lora.r=4,"], "has an empty value"),
        (["lora.r=4", "lora.r=8"], "stands twice; write all its values at once: lora.r=4,8"),
        (["train.eval_steps=null,4"], "a sweep compares validation losses"),
        (["train.max_steps=4"], r"train.eval_steps \(12\) comes after the last step \(4\)"),
        ([], "needs what to vary"),
    ],
)
def test_what_is_wrong_is_refused_with_its_mend(words, says):
    with pytest.raises(RecipeError, match=says):
        read_grid(TEXT, words)


def test_many_combinations_ask_for_yes(tmp_path):
    (tmp_path / "params.yaml").write_text(TEXT, encoding="utf-8")
    many = f"train.seed={','.join(map(str, range(65)))}"
    with pytest.raises(RecipeError, match="65 combinations are as many trainings; give --yes"):
        plan(tmp_path, [many])
