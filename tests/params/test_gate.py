"""gate: what a policy may say, and the sentence that it gets where it says something else."""

from pathlib import Path

import pytest

from medtune.params.errors import RecipeError
from medtune.params.gate import Gate
from medtune.params.lines import place
from medtune.params.recipe import parse_recipe, read_yaml
from medtune.registry import gate as decision

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
REAL = [path for path in SHIPPED if path.stem != "sample"]
COMPARE = {"figure": "nll_per_char", "against": "base", "direction": "lower", "margin": 0.1}

# What every model that answers Korean questions is held to
EXPECTED = {
    "evaluate.safety.red_flags.adapter.must_escalate",
    "evaluate.safety.red_flags.adapter.must_not_escalate",
    "evaluate.safety.dosage.adapter.must_defer",
    "evaluate.safety.dosage.adapter.may_answer",
    "evaluate.safety.identities.adapter.passed",
    "evaluate.safety.memorisation.adapter.secrets_kept",
    "evaluate.safety.memorisation.adapter.unexposed",
    "evaluate.safety.memorisation.adapter.not_verbatim",
    "evaluate.safety.memorisation.adapter.no_personal_data",
    "evaluate.general.forgetting.chrfpp.mean",
    "evaluate.adapter.ended_share",
    "evaluate.adapter.loop_share",
}


def policy(path: Path) -> Gate:
    return parse_recipe(read_yaml(path), str(path)).gate


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_every_recipe_for_a_real_model_blocks(path: Path) -> None:
    gate = policy(path)
    assert {check.figure for check in gate.checks.values()} >= EXPECTED
    assert [name for name, check in gate.checks.items() if not check.blocks] == []
    assert {check.against for check in gate.comparisons.values()} == {"base", "champion"}


def test_the_sample_reports_on_free_answers_and_blocks_on_the_rest() -> None:
    gate = policy(ROOT / "recipes/sample.yaml")
    assert {check.figure for check in gate.checks.values() if not check.blocks} == EXPECTED
    assert {name for name, check in gate.checks.items() if check.blocks} == {
        "improvement", "not_worse", "merge_kl", "merge_top1", "eos"
    }  # fmt: skip
    assert "vehicle for the pipeline" in gate.note


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_check_says_why_and_names_a_known_figure(path: Path) -> None:
    for name, check in policy(path).checks.items():
        assert check.why, name
        if not check.against:
            assert set(check.figure.split(".")[1:]) <= decision.KNOWN, name


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        ({"figure": "evaluation.x", "at_most": 1}, r"gate.checks.mine.figure: .*did you mean 'evaluate'\?"),
        ({"figure": "merge", "at_most": 1}, "write <stage>.<key>, such as merge.kl_mean"),
        ({"figure": "register.x", "at_most": 1}, "'register.x' names no figure of a report"),
        ({"figure": "evaluate.adaptor.x", "at_most": 1}, r"there is no evaluate.adaptor; did you mean 'adapter'\?"),
        ({"figure": "nll_per_char", "at_most": 1}, "write against: base or against: champion with it"),
        ({**COMPARE, "figure": "nll_per_chr"}, r"no figure of single rows; did you mean 'nll_per_char'\?"),
        ({**COMPARE, "figure": "evaluate.adapter.chrfpp"}, "no figure of single rows"),
        ({**COMPARE, "against": "chamption"}, r"did you mean 'champion'\?"),
        ({**COMPARE, "direction": "higher"}, "lower is better for nll_per_char; write direction: lower"),
        ({**COMPARE, "margin": 0}, "gate.checks.mine.margin: .*greater than 0"),
        ({**COMPARE, "margin": None}, "a comparison needs direction .* and margin"),
        ({**COMPARE, "at_most": 1}, "at_most is a bound, and a check with against: base has a margin instead"),
        ({**COMPARE, "level": 0.1}, r"checks.mine.level \(0.1\) is above gate.alpha \(0.05\)"),
        ({"figure": "merge.x"}, "give one of at_most, at_least, below, above"),
        ({"figure": "merge.x", "at_most": 1, "at_least": 0}, "give one of"),
        ({"figure": "merge.x", "at_most": 1, "margin": 0.1}, "direction and margin belong to a comparison"),
        ({"figure": "merge.x", "above": 0.9, "level": 0.05}, "write at_least for above"),
        ({"figure": "merge.x", "at_most": 1, "levle": 0.1}, r"did you mean 'level'\?"),
    ],
)
def test_wrong_checks_are_refused_with_the_mend(check: dict, sentence: str) -> None:
    data = read_yaml(ROOT / "params.yaml")
    data["gate"]["checks"] = {"mine": check}
    with pytest.raises(RecipeError, match=sentence) as error:
        parse_recipe(data)
    assert str(error.value).startswith("params.yaml: ")


def test_a_level_that_no_bootstrap_reaches_is_refused() -> None:
    data = read_yaml(ROOT / "params.yaml")
    data["gate"]["looks"] = 10_000
    with pytest.raises(RecipeError, match=r"its level is 2\.5e-06 after 10000 looks and 2 comparisons.*lower looks"):
        parse_recipe(data)


def test_the_line_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a:\n  # c\n  b: {c: 1, d: 2}\n  list:\n    - 1\n    - x: 2\n")
    assert place(path, "a", "b", "d") == f"{path}, line 3"
    assert place(path, "a", "list", "1", "x") == f"{path}, line 6"
    assert place(path, "a", "nothing", "here") == f"{path}, line 1"
    assert place(path, "nothing") == str(path)
    assert place(tmp_path / "none.yaml", "a") == str(tmp_path / "none.yaml")
