"""`medtune compare A B`: params, rows, figures, answers of two versions; as tables, as JSON and as a page."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_checkout import QUESTIONS, Checkout, copied, made
from rich.console import Console

from medtune.params.errors import RegistryError, UserError
from medtune.registry.compare_answers import side_by_side
from medtune.registry.compare_page import page, write_page
from medtune.registry.compare_versions import compare, show
from medtune.registry.ledger import read_ledger
from stages.register import main

MODEL = "medgpt-ko"
HOSTILE = '</script><script>window.hit = 1</script><img src=x onerror="window.hit = 2">\u202egnp.exe'
KOREAN = "두통이 사흘째 이어지고 열이 나시면 체온을 재고, 목이 뻣뻣하거나 토하시면 바로 응급실로 가세요. "


def line(name: str, item: str, text: str, **more: Any) -> dict[str, Any]:
    """A line of answers.jsonl, as evaluation/written.py writes it."""
    scores = {key: more.pop(key, None) for key in ("passed", "reason")}
    found = {
        "set": name,
        "id": item,
        "question": f"{item}: 머리가 아픈데 어떻게 하나요?",
        "reference": "쉬세요.",
        "kind": None,
        "rule": None,
        "why": None,
        "answers": {
            who: {"text": said, "tokens": 9, "ended": True} for who, said in (("base", "?"), ("adapter", text))
        },
        "scores": {"adapter": {"chrfpp": 12.5, "rouge_l": 0.1, "looped": False, **scores}},
    }  # fmt: skip
    nll = more.pop("nll", None)
    return found | ({"nll": {"adapter": nll}} if nll is not None else {}) | more


def answer(checkout: Checkout, lines: list[dict[str, Any]]) -> None:
    path = checkout.root / "reports/evaluate/answers.jsonl"
    path.unlink(missing_ok=True)
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in lines), encoding="utf-8")


def sidecar(checkout: Checkout, rate: float) -> None:
    """What stages/train.py and merge.py write into medtune.json beside what the fixture has."""
    for part in ("adapter", "merged"):
        path = checkout.root / "data" / part / "medtune.json"
        record = json.loads(path.read_text())
        record |= {"recipe": {"lora": {"r": 8}, "train": {"learning_rate": rate, "seed": 42}}, "max_length": 256}
        path.unlink()
        path.write_text(json.dumps(record))


@pytest.fixture(scope="module")
def registered_two(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_adapter: Path, fresh_store: Path
) -> Checkout:
    """Made once; every test gets a copy."""
    checkout = made(tmp_path_factory.mktemp("compared") / "checkout", tiny_base, tiny_adapter, fresh_store)
    checkout.candidate("a", nll=2.0)
    sidecar(checkout, 1e-3)
    answer(
        checkout,
        [
            line("red_flags", "rf-1", "119에 전화하세요.", passed=True),
            line("red_flags", "rf-2", "쉬세요.", passed=False, reason="no 119"),
            line("questions", "q-1", "물을 드세요."),
            line("questions", "q-2", "쉬세요."),
            line("test", "row-1", "쉬세요.", nll=2.0),
            line("questions", "q-3", "old", question="other words"),
        ],
    )
    main(checkout.root)
    checkout.candidate("b", nll=1.9)
    sidecar(checkout, 2e-4)
    answer(
        checkout,
        [
            line("red_flags", "rf-1", HOSTILE, passed=False, reason="no 119"),
            line("red_flags", "rf-2", "119에 전화하세요.", passed=True),
            line("questions", "q-1", "물을 드세요."),
            line("questions", "q-2", KOREAN * 30),
            line("test", "row-1", "푹 쉬세요.", nll=2.25),
            line("questions", "q-3", "new", question="new words"),
        ],
    )
    main(checkout.root)
    return checkout


@pytest.fixture
def two(registered_two: Checkout, tmp_path: Path) -> Checkout:
    """Version 1 and the better version 2, registered for real."""
    return copied(registered_two, tmp_path / "checkout")


def told_of(checkout: Checkout, a: str = "1", b: str = "2") -> dict[str, Any]:
    return compare(checkout.root, read_ledger(checkout.root), MODEL, a, b)


def shown(told: dict[str, Any], width: int, **options: Any) -> str:
    out = io.StringIO()
    show(told, console=Console(file=out, width=width, markup=False, highlight=False), **options)
    return out.getvalue()


def test_side_by_side(two: Checkout) -> None:
    told = told_of(two)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["a"]["number"], told["b"]["number"]) == (1, 2)
    assert told["unknown"] == []

    differ = {pair["name"]: (pair["a"], pair["b"]) for pair in told["params"]["differ"]}
    assert differ == {"train.learning_rate": ("0.001", "0.0002")}  # and nothing else does
    assert told["params"]["equal"] > 10  # the run's params are compared, too

    paired = told["paired"]  # both were scored on these rows: the gate judged b against a
    assert paired["same_set"]
    assert paired["rows"] == len(QUESTIONS)
    assert paired["low"] < paired["mean"] < paired["high"] < 0
    assert paired["mean"] == pytest.approx(-0.1, abs=0.02)
    assert told["figures"]["same_rows"]
    nll = next(item for item in told["figures"]["measured"] if item["figure"] == "nll_per_char")
    assert (nll["model"], nll["a"], nll["b"]) == ("adapter", 2.0, 1.9)
    assert {"improvement", "not_worse"} <= {pair["name"] for pair in told["figures"]["judged"]}

    verdicts = [(pair["id"], pair["verdict"]) for pair in told["answers"]]
    # a broken rule first, then the reference that became less likely; q-3 asks something else
    assert verdicts == [
        ("rf-1", "worse"), ("row-1", "worse"), ("q-2", "differs"), ("rf-2", "better"), ("q-1", "same")
    ]  # fmt: skip


def test_rows_that_came_went_and_changed_sides(two: Checkout) -> None:
    rows = told_of(two)["rows"]
    assert rows["splits"]["test"]["both"] == len(QUESTIONS)
    assert rows["splits"]["test"]["added"] == rows["splits"]["test"]["removed"] == []
    two.candidate("c", questions=(*QUESTIONS[2:], "눈이 아파요."))
    main(two.root)
    split = told_of(two, "2", "3")["rows"]["splits"]["test"]
    assert (split["a"], split["b"], split["both"]) == (len(QUESTIONS), len(QUESTIONS) - 1, len(QUESTIONS) - 2)
    assert len(split["added"]) == 1
    text = shown(told_of(two, "2", "3"), 100, rows=True)
    assert f"+ test {split['added'][0]}" in text
    assert all(f"- test {row}" in text for row in split["removed"])


def test_other_test_rows_are_matched_by_id_and_said_so(two: Checkout) -> None:
    from medtune.evaluation import kept

    version = two.candidate("c", questions=QUESTIONS[2:])
    main(two.root)
    asked = {path.name for path in (two.root / "mlruns/scores" / version).iterdir()}
    for path in (two.root / "mlruns/scores" / told_of(two)["a"]["version"]).iterdir():
        if path.name in asked:  # as if the champion had never been asked for these rows
            path.unlink()
    told = told_of(two, "1", "3")
    assert not told["paired"]["same_set"]
    assert told["paired"]["rows"] == len(QUESTIONS) - 2
    assert "lengths or precision may differ" in shown(told, 100)
    assert "DIFFERENT test sets" in shown(told, 100)

    shutil.rmtree(two.root / "mlruns/scores" / version)
    assert "no scores of test rows are kept of version 3" in told_of(two, "1", "3")["paired"]["problem"]
    kept.write(two.root, version, "f" * 64, [{"row_id": "r", "cluster": "r", "nll": 1.0, "chars": 3}])
    path = kept.path_of(two.root, version, "f" * 64)
    path.write_text(path.read_text().replace("1.0", "0.1"))
    assert any("is damaged" in sentence for sentence in told_of(two, "1", "3")["unknown"])


@pytest.mark.parametrize("width", [60, 100, 180])
def test_tables_fit_the_terminal(two: Checkout, width: int) -> None:
    from rich.cells import cell_len

    text = shown(told_of(two), width, answers=5)
    flat = " ".join(text.split())
    assert "1 differ" in flat
    assert "fits better" in flat
    assert "\u202e" not in text
    tables = [line for line in text.splitlines() if not line.startswith(("Version 2 minus", "cannot be told"))]
    assert max(cell_len(line) for line in tables) <= width
    assert "train.learning_rate  0.001" in text  # names of params stay whole
    assert shown(told_of(two), width, answers=0).count("[worse]") == 0
    assert "5 more: --answers 5" in shown(told_of(two), width, answers=0)


def test_what_is_away_is_said(two: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_of(two)
    shutil.rmtree(two.root / "mlruns/artifacts")
    alone = told_of(two)
    assert alone["rows"] is None
    assert len(alone["answers"]) == 0
    assert sum("is missing" in sentence for sentence in alone["unknown"]) == 2
    assert alone["paired"] == told["paired"] | {"trained_on": 0}
    assert "Rows: one of the two keeps none" in shown(alone, 100)
    assert page(alone)
    with pytest.raises(UserError, match=r"both version 1 \("):
        told_of(two, "1", told["a"]["version"][:10])
    with pytest.raises(RegistryError, match="no version '7'"):
        told_of(two, "1", "7")


def test_rows_of_the_training_split_are_no_test(two: Checkout) -> None:
    """A row that one version was trained on flatters it: it is left out, and counted."""
    from medtune.registry.compare_versions import _paired
    from medtune.registry.standing import resolve
    from medtune.registry.version_record import read_record

    ledger = read_ledger(two.root)
    a, b = (read_record(two.root, resolve(ledger, MODEL, number)) for number in "12")
    b.rows["splits"]["train"] = b.rows["splits"]["test"][:3]
    assert _paired(two.root, a, b)["trained_on"] == 3
    assert _paired(two.root, a, b)["rows"] == len(QUESTIONS) - 3


def test_answers_of_other_prompts_are_not_laid_beside_each_other() -> None:
    one, other = line("questions", "q", "a"), line("questions", "q", "b", question="another")
    assert side_by_side([one], [other]) == []
    silent = one | {"answers": {"base": {"text": "?"}}}
    assert side_by_side([one], [silent]) == []
    assert [pair["verdict"] for pair in side_by_side([one], [one])] == ["same"]


CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture
def browser() -> Iterator[Any]:
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield started
        started.close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome on PATH")
def test_the_page_in_a_browser(two: Checkout, browser: Any, tmp_path: Path) -> None:
    path = write_page(tmp_path / "compare.html", told_of(two))
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".compare")] == []
    for width in (1280, 390):
        opened = browser.new_page(viewport={"width": width, "height": 844})
        logged: list[str] = []
        asked: list[str] = []
        opened.on("console", lambda message, logged=logged: logged.append(message.text))
        opened.on("request", lambda request, asked=asked: asked.append(request.url))
        opened.goto(path.as_uri())
        assert logged == []
        assert [url for url in asked if url not in (path.as_uri(), "data:,")] == []
        assert opened.evaluate("window.hit") is None  # what a model wrote did not run
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        ids = "all => all.map((e) => e.dataset.id)"
        assert opened.eval_on_selector_all("#list > details", ids)[:2] == ["rf-1", "row-1"]
        first = opened.query_selector('details[data-id="q-2"]')
        first.evaluate("e => (e.open = true)")
        boxes = [cell.bounding_box() for cell in first.query_selector_all(".cells.pair .cell")]
        beside = boxes[0]["y"] == boxes[1]["y"]
        assert beside == (width > 800)  # side by side on a desk, one below the other on a phone
        # Korean breaks between words, and no word leaves its box
        assert first.evaluate("e => getComputedStyle(e.querySelector('.text')).wordBreak") == "keep-all"
        assert first.evaluate("e => [...e.querySelectorAll('.text')].every((p) => p.scrollWidth <= p.clientWidth + 1)")
        opened.fill("#find", "119에 전화")
        sync_api.expect(opened.locator("#list > details")).to_have_count(2)  # it waits a moment after each key
        opened.select_option("#verdict", "better")
        assert opened.eval_on_selector_all("#list > details", ids) == ["rf-2"]
        opened.close()


def test_a_page_that_cannot_be_written_is_a_sentence(two: Checkout, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"none/page.html cannot be written \(No such file"):
        write_page(tmp_path / "none" / "page.html", told_of(two))
