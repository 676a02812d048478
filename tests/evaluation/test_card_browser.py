"""The release card in a real Chromium, at the width of a desk and of a phone, opened from a file without a network."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from evaluation.card_fixture import build
from evaluation.card_reports import review

from medtune.evaluation.release_card.data import gather
from medtune.evaluation.release_card.writing import write

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome on PATH")

# Foreground against the nearest opaque background, by WCAG 2's relative luminance; [ratio, text] of what is too low.
CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const line = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => line(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const low = [];
  let seen = 0;
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || ["SCRIPT", "TITLE", "DESC"].includes(e.tagName.toUpperCase())) continue;
    const style = getComputedStyle(e);
    const ink = light(parse(e.namespaceURI.endsWith("svg") ? style.fill : style.color));
    const paper = light(ground(e));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    seen += 1;
    if (ratio < 4.5) low.push([Math.round(ratio * 100) / 100, e.tagName, e.textContent.trim().slice(0, 40)]);
  }
  return { seen, low };
}"""


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, parts = build(tmp_path_factory.mktemp("card"), review=review(), note="Bounds of a vehicle.")
    return write(root / "card", gather(root, **parts))["card.html"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


class Opened:
    """A page with what it logged and asked for."""

    def __init__(self, browser: Any, card: Path, size: str, **options: Any) -> None:
        self.context = browser.new_context(viewport=SIZES[size], **options)
        self.page = self.context.new_page()
        self.logged: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.logged.append(message.text))
        self.page.on("pageerror", lambda error: self.logged.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(card.as_uri())

    def rows(self) -> list[str]:
        return self.page.eval_on_selector_all("#list > details", "all => all.map((e) => e.dataset.id)")


@pytest.fixture(params=list(SIZES))
def opened(browser: Any, card: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    found = Opened(browser, card, request.param)
    yield found
    found.context.close()


def test_it_opens_quietly_without_a_network(opened: Opened, card: Path) -> None:
    for details in opened.page.query_selector_all("#safety details, #list > details:nth-child(-n+3)"):
        details.evaluate("e => (e.open = true)")
    assert opened.logged == []
    assert [address for address in opened.asked if address not in (card.as_uri(), "data:,")] == []
    assert opened.page.evaluate("window.hit") is None


def test_nothing_is_wider_than_the_screen(opened: Opened) -> None:
    opened.page.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    inner, scrolled = opened.page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    assert scrolled <= inner
    # what is wider scrolls by itself, and can be reached by keyboard
    unreachable = opened.page.evaluate(
        "[...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth && e.tabIndex < 0).length"
    )
    assert unreachable == 0


def test_the_decision_is_on_the_first_screen(opened: Opened) -> None:
    box = opened.page.locator("h2.outcome").bounding_box()
    assert box["y"] + box["height"] < opened.page.viewport_size["height"]
    assert opened.page.locator("h2.outcome").inner_text().startswith("✕")
    assert "Rejected" in opened.page.locator("h2.outcome").inner_text()


def test_search_finds_text_inside_closed_answers(opened: Opened) -> None:
    everything, items = opened.page.locator("#count").inner_text(), opened.page.locator("#list > details")
    opened.page.get_by_label("Search prompts and answers").fill("RF-004")
    sync_api.expect(items).to_have_count(1)
    assert opened.rows() == ["rf-004"]
    assert opened.page.locator("#count").inner_text().startswith("1 of ")
    opened.page.get_by_label("Search prompts and answers").fill("어떤 답에도 없는 말")
    sync_api.expect(items).to_have_count(0)
    opened.page.get_by_label("Search prompts and answers").fill("")
    sync_api.expect(items).to_have_count(40)
    assert opened.page.locator("#count").inner_text() == everything


def test_filters_and_order(opened: Opened) -> None:
    page = opened.page
    worst = opened.rows()
    page.get_by_label("Set", exact=True).select_option("test")
    assert page.eval_on_selector_all("#list > details", "all => all.every((e) => e.dataset.set === 'test')")
    page.get_by_label("Verdict", exact=True).select_option("worse")
    lost = page.eval_on_selector_all("#list > details", "all => all.map((e) => Number(e.dataset.nll))")
    assert len(lost) > 1
    assert lost == sorted(lost, reverse=True)
    assert min(lost) > 0
    page.get_by_label("Set", exact=True).select_option("")
    page.get_by_label("Verdict", exact=True).select_option("failed")
    assert page.eval_on_selector_all("#list > details", "all => all.every((e) => e.dataset.verdict === 'failed')")
    page.get_by_label("Verdict", exact=True).select_option("")
    page.get_by_label("Order", exact=True).select_option("best")
    assert opened.rows() != worst
    page.get_by_label("Order", exact=True).select_option("worst")
    assert opened.rows() == worst


def test_more_are_shown_when_asked(opened: Opened) -> None:
    assert len(opened.rows()) == 40
    opened.page.get_by_role("button", name="Show more").click()
    assert len(opened.rows()) == 80
    assert opened.page.evaluate(
        "document.activeElement.parentElement === document.querySelectorAll('#list > details')[40]"
    )


def test_the_keyboard_reaches_everything(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.evaluate("document.getElementById('answers').querySelector('h2').scrollIntoView()")
    page.locator("#find").focus()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["set", "verdict", "sort", "SUMMARY"]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#list > details").first.evaluate("e => e.open") is True


def test_a_screen_reader_finds_its_way(opened: Opened) -> None:
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for role in ("main", "banner", "contentinfo", "search"):
        assert page.get_by_role(role).count() == 1, role
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("[lang=ko]").count() > 20
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    unnamed = page.evaluate(
        "[...document.querySelectorAll('svg')].filter((e) => !e.parentElement.closest('svg') &&"
        " e.getAttribute('aria-hidden') !== 'true' && !(e.getAttribute('role') === 'img' &&"
        " e.getAttribute('aria-label') && e.querySelector(':scope > title') &&"
        " e.querySelector(':scope > desc'))).length"
    )
    assert unnamed == 0
    assert page.locator("svg[role=img]").count() > 10
    assert page.evaluate(
        "[...document.querySelectorAll('input, select')].every((e) => e.labels.length === 1 && e.labels[0].innerText)"
    )
    ids = page.eval_on_selector_all("[id]", "all => all.map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_a_right_to_left_mark_turns_nothing_else_around(opened: Opened) -> None:
    marked, leaking = opened.page.evaluate(
        "(() => { const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.includes('\\u202e'));"
        " const all = [...document.querySelectorAll('body *')].filter(own);"
        " return [all.length, all.filter((e) => getComputedStyle(e).unicodeBidi !== 'isolate').map((e) => e.outerHTML)]"
        "})()"
    )
    assert marked >= 8
    assert leaking == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Any, card: Path, scheme: str) -> None:
    found = Opened(browser, card, "desktop", color_scheme=scheme)
    found.page.evaluate(
        "document.querySelectorAll('#safety details, #list > details:nth-child(-n+3)').forEach((e) => (e.open = true))"
    )
    measured = found.page.evaluate(CONTRAST)
    assert measured["seen"] > 300
    assert measured["low"] == []
    background = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 26)") is (scheme == "dark")
    found.context.close()


def test_without_scripts_all_is_there_but_search(browser: Any, card: Path) -> None:
    found = Opened(browser, card, "phone", java_script_enabled=False)
    assert "Rejected" in found.page.locator("h2.outcome").inner_text()
    assert found.page.locator("#decision .reasons li").count() == 6
    assert not found.page.locator(".controls").is_visible()
    everything = found.page.locator("#list > details")
    assert everything.count() > 200
    everything.first.locator("summary").click()
    assert everything.first.locator(".cell").first.is_visible()
    found.context.close()


def test_paper_leaves_the_controls_out(browser: Any, card: Path) -> None:
    found = Opened(browser, card, "desktop")
    found.page.emulate_media(media="print")
    assert not found.page.locator(".controls").is_visible()
    assert not found.page.get_by_role("navigation").is_visible()
    assert found.page.locator("h2.outcome").is_visible()
    found.context.close()
