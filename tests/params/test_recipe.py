"""The typed recipe: what ships parses, what is wrong is refused with the mend."""

from pathlib import Path

import pytest

from medtune.params import recipes
from medtune.params.errors import RecipeError
from medtune.params.recipe import Recipe, load_recipe, parse_recipe, read_yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def data() -> dict:
    return read_yaml(ROOT / "params.yaml")


def test_all_six_recipes_ship():
    assert {p.stem for p in SHIPPED} == {
        "sample", "kullm3", "llama3.1-8b-lora", "llama3-70b-fsdp", "gpt-neo-1.3b-lora", "llama2-7b-qlora"
    }  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_recipe_parses_and_names_itself(path):
    recipes.check(path)
    assert recipes.summary(path).startswith(path.stem + ":")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_knob_of_a_shipped_recipe_is_known_and_sections_are_complete(path):
    assert list(read_yaml(path)) == [field.alias or name for name, field in Recipe.model_fields.items()]


def test_params_yaml_is_the_sample_recipe():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "recipes/sample.yaml").read_text()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_knob_carries_a_comment(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("  ") and ":" in line]
    knobs = [
        line for line in lines if not line.strip().startswith(("#", "|")) and not line.rstrip().endswith("checks:")
    ]
    bare = [line.strip() for line in knobs if "#" not in line and "why:" not in line]
    # ids, revisions and licences say all by themselves
    assert [line for line in bare if line.split(":")[0] not in ("id", "revision", "license")] == []


SEED = {
    "base.id": "nlpai-lab/KULLM3",
    "base.quantization": "nf4",
    "base.double_quant": True,
    "download.id": "mncai/MedGPT-5k-ko",
    "download.revision": "d3798135b61112b2e0c5358afd2efdfb49337624",
    "lora.r": 4,
    "lora.alpha": 8,
    "lora.dropout": 0.05,
    "lora.targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "train.batch_size": 2,
    "train.gradient_accumulation": 4,
    "train.max_steps": 1000,
    "train.warmup_steps": 1,
    "train.learning_rate": 2e-4,
    "train.optimizer": "paged_adamw_8bit",
    "tokenize.max_length": 512,
    "merge.into": "dequantised",
}


@pytest.mark.parametrize(("key", "value"), SEED.items())
def test_kullm3_holds_the_seeds_values(key, value):
    section, name = key.split(".")
    assert read_yaml(ROOT / "recipes/kullm3.yaml")[section][name] == value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train.learning_rat": 1}, r"unknown key 'train.learning_rat'; did you mean 'learning_rate'\?"),
        ({"traim": {}}, r"unknown key 'traim'; did you mean 'train'\?"),
        ({"vlidate": {}}, r"did you mean 'validate'\?"),
        ({"gate.checks.eos.at_leest": 1}, r"'gate.checks.eos.at_leest'; did you mean 'at_least'\?"),
        ({"download.columns.outptu": "a"}, r"did you mean 'output'\?"),
        ({"lora.r": "8"}, r"lora.r: .*valid integer"),
        ({"merge.into": "dequantized"}, r"merge.into: 'dequantized' is not a choice; did you mean 'dequantised'\?"),
        (
            {"merge.into": "champion"},
            r"merge.into: 'champion' is not a choice; known here: dequantised, original, quantised",
        ),
        ({"base.quantization": "none"}, r"merge.into: original"),
        (
            {"train.eval_steps": None, "train.early_stopping_patience": 2},
            r"early_stopping_patience needs a validation loss",
        ),
        ({"train.early_stopping_patience": 2, "validate.split.validation": 0.0}, r"validate.split.validation is 0"),
        ({"train.keep": "best", "train.save_steps": 13}, r"make save_steps \(13\) a multiple of eval_steps \(12\)"),
        ({"train.max_steps": None}, r"set one of max_steps and epochs"),
        ({"train.warmup_steps": 24}, r"warmup_steps \(24\) must be below max_steps \(24\)"),
        ({"tokenize.template": "text"}, r"go together"),
        ({"train.sharding": "fsdp"}, r"quant_storage: bfloat16"),
        ({"base.source": "hub", "base.revision": "main", "base.sha256": None}, r"40-hex commit"),
        ({"base.source": "mlflow", "base.revision": "champion"}, r"an alias would move"),
        ({"download.source": "hub"}, r"source: hub needs id"),
        ({"download.id": "a/b"}, r"id and revision belong to source: hub"),
        ({"lora.targets": ["q_proj", "q_proj"]}, r"once"),
        ({"lora.init": "pissa"}, r"lora.init: pissa .*base.quantization: none, or lora.init: loftq"),
        ({"lora.init": "loftq", "base.quantization": "none", "merge.into": "original"}, r"none has no error"),
        ({"lora.init": "loftq", "lora.variant": "dora"}, r"loftq and variant: dora do not go together"),
        ({"lora.init": "loftq", "train.init": 3}, r"train.init: 3 goes on from a version's weights"),
        ({"train.init": "champion"}, r"train.init: 'champion' is neither base nor the number of a version"),
        ({"train.init": 0}, r"train.init: 0 is neither base"),
        ({"validate.split.test": 0.9}, r"leaves under a tenth"),
        ({"validate.min_rows": 10**6}, r"min_rows \(1000000\) is above max_rows"),
        ({"gate.checks.eos.below": 1.0}, r"give one of at_most"),
    ],
)
def test_wrong_recipes_are_refused_with_the_mend(data, change, sentence):
    for dotted, value in change.items():
        *parents, last = dotted.split(".")
        place = data
        for name in parents:
            place = place[name]
        place[last] = value
    with pytest.raises(RecipeError, match=sentence):
        parse_recipe(data)


def test_yaml_1_2_numbers(tmp_path):
    """2e-4 is a number for DVC (YAML 1.2) and a string for PyYAML (1.1); the recipe reads as DVC does."""
    text = (ROOT / "params.yaml").read_text().replace("learning_rate: 1.0e-3", "learning_rate: 2e-4")
    (tmp_path / "params.yaml").write_text(text)
    assert load_recipe(tmp_path / "params.yaml").train.learning_rate == 2e-4


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(RecipeError, match="is missing; `medtune recipe use sample`"):
        load_recipe(tmp_path / "params.yaml")
    (tmp_path / "bad.yaml").write_text("base:\n  id: [1\n")
    with pytest.raises(RecipeError, match=r"bad.yaml, line 3, column 1"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_bytes("base: 가".encode("cp949"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="mapping of sections"):
        load_recipe(tmp_path / "bad.yaml")


def test_an_open_pin_is_refused_by_the_stages(tmp_path):
    with pytest.raises(RecipeError, match=r"base.revision is still 'pin'"):
        load_recipe(ROOT / "recipes/kullm3.yaml")


def test_compose_keeps_comments_sets_values_and_pins():
    text = (ROOT / "recipes/kullm3.yaml").read_text()
    asked = []

    def pin(kind: str, repository: str) -> str:
        asked.append((kind, repository))
        return "a" * 40

    made, recipe = recipes.compose(
        text, ["train.max_steps=10", "lora.targets=[q_proj]", "train.learning_rate=1e-5"], pin, "k"
    )
    assert asked == [("model", "nlpai-lab/KULLM3")]
    assert (recipe.base.revision, recipe.train.max_steps, recipe.lora.targets) == ("a" * 40, 10, ["q_proj"])
    assert recipe.train.learning_rate == 1e-5
    assert "# Where the seed was wrong the recipe is right:" in made
    assert made.count("#") == text.count("#")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.max_steps", "no key=value"),
        ("trian.max_steps=1", r"did you mean 'train'\?"),
        ("train.max_stesp=1", r"did you mean 'max_steps'\?"),
        ("train.max_steps=[", "not valid YAML"),
    ],
)
def test_compose_refuses_wrong_overrides(override, sentence):
    with pytest.raises(RecipeError, match=sentence):
        recipes.compose((ROOT / "params.yaml").read_text(), [override], lambda *_: "", "sample")


def test_write_keeps_an_edited_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "params.yaml"
    path.write_text("edited by hand")
    kept = recipes.write("new", path)
    assert kept.read_text() == "edited by hand"
    path.write_text((ROOT / "recipes/sample.yaml").read_text())
    assert recipes.write("newer", path) is None
    assert path.read_text() == "newer"
