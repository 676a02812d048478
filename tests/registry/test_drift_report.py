"""New rows of data/valid against those of a version that was really registered; the tag, the card, and a rerun."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from registry_checkout import ROOT, Checkout

from medtune.corpus.rows import row_id
from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe, load_recipe
from medtune.registry import tags
from medtune.registry.drift_report import drift_or_why, drift_report
from medtune.tracking.store import connect, open_store
from stages.register import main

VALID = Path("data/valid/rows.jsonl")
Learn = Callable[..., str]


def sample(start: int, stop: int, times: int = 1, split: str = "train") -> list[dict]:
    """Rows of the sample as validate writes them; `times`: how often the answer is said."""
    found = []
    for line in (ROOT / "data/sample/dialogues.jsonl").read_text(encoding="utf-8").splitlines()[start:stop]:
        one = json.loads(line)
        messages = [
            {"role": "user", "content": one["instruction"]},
            {"role": "assistant", "content": " ".join([one["output"]] * times)},
        ]
        name = row_id(messages)
        found.append({"row_id": name, "cluster": name, "split": split, "source": "s:1", "messages": messages})
    return found


def write(root: Path, rows: list[dict]) -> None:
    """Beside the test rows that the candidate brought."""
    path = root / VALID
    tests = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [row for row in tests if row["source"] == "a:1"]
    path.unlink()
    path.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *rows]), encoding="utf-8")


@pytest.fixture
def learn(checkout: Checkout) -> Learn:
    """Register a candidate that learned these rows; its version."""

    def make(name: str, rows: list[dict], **candidate: float) -> str:
        version = checkout.candidate(name, **candidate)
        write(checkout.root, rows)
        main(checkout.root)
        return version

    return make


@pytest.fixture
def recipe(checkout: Checkout) -> Recipe:
    return load_recipe(checkout.root / "params.yaml")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_new_rows_stand_against_those_that_the_champion_was_trained_on(
    checkout: Checkout, recipe: Recipe, learn: Learn
) -> None:
    root = checkout.root
    version = learn("a", [*sample(0, 200), *sample(200, 220, split="validation")])
    # 190 stay, 10 went; the 20 that it was watched on are no new ones; 60 came, their answers said twice
    write(root, [*sample(0, 190), *sample(200, 220, split="validation"), *sample(220, 280, times=2)])
    before = files(root)
    report = drift_report(root, recipe)

    assert files(root) == before
    assert report["counts"] == {"new": 60, "old": 190, "trained": 200, "gone": 10}
    assert report["against"]["version"] == version
    assert report["against"]["number"] == 1
    assert [one["name"] for one in report["drift"]["measures"] if one["alarm"]] == ["answer"]
    assert report["alarms"] == report["drift"]["alarms"]
    assert report["sentence"] == "60 new rows against version 1: 1 alarm (length of answers, characters)"
    assert report["markdown"].startswith("# New rows against those that medgpt-ko version 1 learned")
    assert "10 of the 200 rows that it was trained on are no longer" in report["markdown"]
    json.dumps(report, allow_nan=False)
    assert drift_report(root, recipe, against="1") == report
    assert drift_report(root, recipe, against=version) == report


def test_why_there_is_no_report(checkout: Checkout, recipe: Recipe, learn: Learn) -> None:
    root = checkout.root
    assert drift_or_why(root, recipe) == (None, "medgpt-ko has no champion yet, so that every row is new")
    version = learn("a", sample(0, 50))
    report, why = drift_or_why(root, recipe)
    assert report is None
    assert why.startswith("nothing new: version 1 (")
    with pytest.raises(RegistryError, match="has no version '9'"):
        drift_report(root, recipe, against="9")

    write(root, sample(0, 60))
    (root / "mlruns/artifacts/versions" / version / "rows.json").unlink()
    assert "keeps no rows.json that can be read" in drift_or_why(root, recipe)[1]
    learn("b", sample(0, 60), nll=1.7)  # which stops no registration
    assert json.loads((root / "reports/register.json").read_text())["versions"]["merged"]["number"] == 2
    assert "Nothing was compared: which rows version 1" in (root / "reports/card/card.html").read_text()


def test_few_new_rows_are_told_and_not_judged(checkout: Checkout, recipe: Recipe, learn: Learn) -> None:
    learn("a", sample(0, 50))
    write(checkout.root, [*sample(0, 50), *sample(50, 55, times=3)])
    report = drift_report(checkout.root, recipe)
    assert report["judged"] is False
    assert report["alarms"] == []
    assert report["sentence"].startswith("5 new rows against version 1: not judged, 5 new rows are too few to judge")


def test_register_tells_it_in_tag_and_card_and_a_rerun_says_the_same(
    checkout: Checkout, learn: Learn, capsys: pytest.CaptureFixture
) -> None:
    root = checkout.root
    learn("a", sample(0, 200))
    assert "Nothing was compared: there was no champion" in (root / "reports/card/card.html").read_text()
    learn("b", [*sample(0, 200), *sample(220, 280, times=2)], nll=1.7)  # becomes champion, and knows every row by then
    sentence = "60 new rows against version 1: 1 alarm (length of answers, characters)"
    assert sentence in capsys.readouterr().out

    client = connect(open_store(root))
    for model in ("medgpt-ko", "medgpt-ko-adapter"):
        assert client.get_model_version_by_alias(model, "champion").version in (2, "2")
        assert client.get_model_version(model, "2").tags[tags.DRIFT] == sentence
        assert tags.DRIFT not in client.get_model_version(model, "1").tags
    html = (root / "reports/card/card.html").read_text(encoding="utf-8")
    assert "60 rows that medgpt-ko version 1, the champion when this was judged" in html
    assert "answers are longer" in html
    card = json.loads((root / "reports/card/card.json").read_text(encoding="utf-8"))
    assert card["drift"]["counts"]["new"] == 60
    assert "## New rows" in (root / "reports/card/README.md").read_text(encoding="utf-8")

    def stands() -> tuple:
        versions = [client.get_model_version("medgpt-ko", "2"), client.get_model_version("medgpt-ko-adapter", "2")]
        return [(one.tags, one.last_updated_timestamp) for one in versions], files(root / "reports/card")

    before = stands()
    main(root)
    assert stands() == before
