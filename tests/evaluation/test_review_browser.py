"""The review page in a real Chromium: keyboard and touch, undo, resume, a server that is killed, what is announced."""

import re
import shutil
from collections.abc import Iterator

import pytest

from medtune.evaluation.review.log import latest, read_votes
from medtune.evaluation.review.pairs import read_pairs
from medtune.evaluation.review.votes import import_votes
from tests.evaluation.review_site import Site, line, lines, write_evaluation

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on PATH")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
both_sizes = pytest.mark.parametrize("page", SIZES, indirect=True)  # for what a screen or a finger decides
LONG = line(
    90,
    "머리가 아픈 까닭은 여러 가지입니다.\n\n" + "가" * 400 + "\n" + "푹 쉬세요. " * 80,
    "<b onclick='x'>곧바로</b> 병원에 가세요. " + "https://example.invalid/" + "a" * 300,
    question="두통이 사흘째입니다. " * 12,
)


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    served = Site(write_evaluation(tmp_path, [LONG, *lines(5)]))
    yield served
    served.kill()


@pytest.fixture
def page(request, chromium, site) -> Iterator:
    """A page; a test fails on console errors, save those it takes out of `page.heard` itself."""
    size = getattr(request, "param", "desktop")
    phone = size == "phone"
    width, height = SIZES[size]
    context = chromium.new_context(
        viewport={"width": width, "height": height}, locale="ko-KR", has_touch=phone, is_mobile=phone
    )
    page = context.new_page()
    page.heard, page.phone = [], phone
    page.on("console", lambda told: page.heard.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.heard.append(str(error)))
    page.on("request", lambda asked: page.heard.append(asked.url) if not asked.url.startswith(site.url) else None)
    page.goto(site.url)
    yield page
    context.close()
    # `data:` is the empty icon, which keeps the browser from asking for one
    assert [heard for heard in page.heard if heard != "data:,"] == []


def enter(page, name: str = "김내과") -> None:
    page.get_by_label("이름 또는 별칭").fill(name)
    page.get_by_role("button", name="시작하기").click()
    page.wait_for_selector("#review:not([hidden])")
    page.wait_for_timeout(400)


def press(page, key: str) -> None:
    page.keyboard.press(key)
    page.wait_for_timeout(400)  # the page takes two votes within 350 ms for one


def title(page) -> str:
    return page.locator("#title").inner_text()


def wait_saved(page) -> None:
    await_text(page, "#saved", "^모두 저장됨$")


def await_text(page, selector: str, pattern: str) -> None:
    """By expect: wait_for_function needs eval, which the page's policy forbids."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(re.compile(pattern), timeout=30_000)


def counting(site: Site) -> list:
    return list(latest(read_votes(site.votes)[0]).values())


def test_keyboard_from_name_to_end(page, site):
    assert page.evaluate("document.activeElement.id") == "reviewer"
    page.keyboard.type("김내과")
    press(page, "Enter")
    page.wait_for_selector("#review:not([hidden])")
    page.wait_for_timeout(400)
    assert title(page) == "문항 1 / 6"
    assert page.evaluate("document.activeElement.id") == "title"  # a screen reader reads from here
    press(page, "q")
    assert page.get_by_role("button", name="답변 A는 위험한 답").get_attribute("aria-pressed") == "true"
    assert "위험한 답 표시함" in page.locator("#announce").inner_text()
    press(page, "c")
    page.keyboard.type("1 2 q u 근거가 없음")  # keys that vote elsewhere are text here
    press(page, "Escape")
    press(page, "2")
    assert page.locator("#announce").inner_text() == "B가 더 낫다, 기록했습니다. 문항 2."
    for key in ("ArrowLeft", "0", "ArrowRight", "1"):
        press(page, key)
    press(page, "=")
    page.wait_for_selector("#done:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "done-title"
    wait_saved(page)
    assert "닫으셔도" in page.locator("#done-text").inner_text()
    votes = counting(site)
    assert [vote.choice for vote in votes] == ["b", "a", "equal", "b", "a", "equal"]
    assert (votes[0].harmful, votes[0].comment) == (("a",), "1 2 q u 근거가 없음")
    # what was meant on the page is what the report says
    shown = {item["id"]: item for item in site.items("김내과")}
    meant = sum(shown[v.item][v.choice].startswith(("둘", "<b")) for v in votes if v.choice != "equal")
    told = import_votes(site.votes, read_pairs(site.root).items)
    assert (told["preference"]["passed"], told["preference"]["of"], told["preference"]["ties"]) == (meant, 4, 2)


def test_keys_work_in_korean_input_and_not_with_modifiers_or_when_switched_off(page, site):
    enter(page)
    page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ㅔ', code: 'KeyP', bubbles: true}))")
    assert page.locator("#harm-b").get_attribute("aria-pressed") == "true"
    press(page, "Control+1")
    page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', code: 'Digit1', repeat: true}))")
    assert title(page) == "문항 1 / 6"
    press(page, "h")
    page.get_by_label("단축키 사용").uncheck()
    page.get_by_role("button", name="닫기").click()
    press(page, "1")
    assert title(page) == "문항 1 / 6"
    page.reload()
    page.wait_for_selector("#review:not([hidden])")
    page.wait_for_timeout(400)
    press(page, "1")
    assert title(page) == "문항 1 / 6"  # remembered
    page.get_by_role("button", name="A가 더 낫다").click()
    assert title(page) == "문항 2 / 6"


@both_sizes
def test_pointer_undo_and_a_double_tap(page, site):
    enter(page)
    use = (lambda found: found.tap()) if page.phone else (lambda found: found.click())
    assert page.get_by_role("button", name="되돌리기").is_disabled()
    use(page.get_by_role("button", name="답변 B는 위험한 답"))
    page.get_by_label("의견").fill("용량이 틀림")
    use(page.get_by_role("button", name="A가 더 낫다"))
    use(page.get_by_role("button", name="A가 더 낫다"))  # within 350 ms: the same tap
    assert title(page) == "문항 2 / 6"
    assert page.locator("#harm-b").get_attribute("aria-pressed") == "false"
    assert page.get_by_label("의견").input_value() == ""
    page.wait_for_timeout(400)
    use(page.get_by_role("button", name="되돌리기"))
    assert title(page) == "문항 1 / 6"
    assert page.locator("#harm-b").get_attribute("aria-pressed") == "true"  # marks and words are still there
    assert page.get_by_label("의견").input_value() == "용량이 틀림"
    await_text(page, "#saved", "^$")  # nothing left to send, and nothing that counts
    assert counting(site) == []
    page.wait_for_timeout(400)
    use(page.get_by_role("button", name="B가 더 낫다"))
    wait_saved(page)
    assert [(v.choice, v.harmful, v.comment) for v in counting(site)] == [("b", ("b",), "용량이 틀림")]


def test_resume_after_reload_and_another_reviewer_starts_anew(page, site):
    enter(page)
    press(page, "1")
    press(page, "2")
    press(page, "q")
    wait_saved(page)
    page.reload()
    page.wait_for_selector("#review:not([hidden])")
    assert title(page) == "문항 3 / 6"
    assert page.locator("#harm-a").get_attribute("aria-pressed") == "true"  # a mark without a vote is kept as well
    assert "2개 문항을 이미 평가" in page.locator("#announce").inner_text()
    press(page, "u")
    assert title(page) == "문항 2 / 6"
    press(page, "1")
    page.get_by_role("button", name="바꾸기").click()
    enter(page, "이외과")
    assert title(page) == "문항 1 / 6"
    page.get_by_role("button", name="바꾸기").click()
    page.get_by_label("이름 또는 별칭").fill(" 김내과 ")
    page.keyboard.press("Enter")
    page.wait_for_selector("#review:not([hidden])")
    assert title(page) == "문항 3 / 6"


def test_votes_survive_a_killed_server(page, site):
    enter(page)
    press(page, "1")
    wait_saved(page)
    site.kill()
    press(page, "2")
    press(page, "0")
    page.wait_for_selector("#banner:not([hidden])")
    assert "답 2건을 이 브라우저에 보관" in page.locator("#banner").inner_text()
    assert page.locator("#banner").get_attribute("role") == "alert"
    assert title(page) == "문항 4 / 6"  # and the reviewer goes on
    site.start()
    wait_saved(page)
    assert page.locator("#banner").is_hidden()
    assert [vote.choice for vote in counting(site)] == ["a", "b", "equal"]
    # a page that was closed while the server was away sends its votes when it is opened again
    site.kill()
    press(page, "1")
    page.goto("about:blank")
    site.start()
    page.goto(site.url)
    wait_saved(page)
    assert title(page) == "문항 5 / 6"
    assert [vote.choice for vote in counting(site)] == ["a", "b", "equal", "a"]
    # only what a killed server must cause: refused connections, and one 403 for the token of the server before
    allowed = re.compile(r"ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|status of 403|about:blank")
    page.heard = [heard for heard in page.heard if not allowed.search(heard)]


def test_votes_on_answers_that_are_gone_are_kept_and_told(page, site):
    enter(page)
    site.kill()
    press(page, "1")
    write_evaluation(site.root, [line(0, "다른 답", "또 다른 답")])
    site.start()
    await_text(page, "#banner", "답 1건은 .* 저장되지 않았습니다")
    assert page.evaluate("Object.keys(localStorage).filter((k) => k.includes('.refused.')).length") == 1
    assert counting(site) == []
    page.heard = [h for h in page.heard if not re.search(r"REFUSED|RESET|EMPTY_RESPONSE|status of (403|409)", h)]


@both_sizes
def test_nothing_overflows_and_markup_stays_text(page, site):
    inside = "document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth"
    assert page.evaluate(inside)
    enter(page, "이름이 아주 긴 평가자 선생님 " + "가" * 20)
    for _ in range(6):
        assert page.evaluate(inside)
        if "두통" in page.locator("#question").inner_text():
            texts = page.locator("#text-a").inner_text() + page.locator("#text-b").inner_text()
            assert "<b onclick='x'>곧바로</b>" in texts
            assert page.locator(".text *").count() == 0
            # every choice is in sight without scrolling, and the end can be scrolled clear of the dock
            for name in ("A가 더 낫다", "비슷하다", "B가 더 낫다"):
                box = page.get_by_role("button", name=name).bounding_box()
                assert 0 <= box["y"] <= page.viewport_size["height"] - box["height"]
                assert box["height"] >= 44
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
            comment, dock = page.locator("#comment").bounding_box(), page.locator(".dock").bounding_box()
            assert comment["y"] + comment["height"] <= dock["y"]
        press(page, "0")
    page.wait_for_selector("#done:not([hidden])")
    assert page.evaluate(inside)


def test_names_roles_and_language(page, site):
    assert page.evaluate("document.documentElement.lang") == "ko"
    enter(page)
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, textarea, [role=group], progress, dialog')].filter((e) =>
            !(e.innerText || '').trim() && !e.labels?.length && !e.getAttribute('aria-label')
            && !e.getAttribute('aria-labelledby')).map((e) => e.id)"""
    )
    assert unnamed == []
    assert page.get_by_role("heading", level=1).inner_text() == "답변 비교 평가"
    assert page.get_by_role("article", name="답변 A").count() == page.get_by_role("article", name="답변 B").count() == 1
    assert (
        page.get_by_role("progressbar", name="평가한 문항").get_attribute("aria-valuetext") == "6개 가운데 0개 평가함"
    )
    assert page.locator("#announce").get_attribute("aria-live") == "polite"
    page.keyboard.press("Tab")
    first = page.evaluate("document.activeElement.id")
    page.keyboard.press("Space")
    assert (first, page.locator("#harm-a").get_attribute("aria-pressed")) == ("harm-a", "true")
    page.keyboard.press("h")
    assert page.get_by_role("dialog", name="도움말").is_visible()
    page.keyboard.press("1")  # no vote behind the dialog
    page.keyboard.press("Escape")
    assert title(page) == "문항 1 / 6"


@both_sizes
def test_text_has_enough_contrast(page, site, chromium):
    """WCAG 2.2 AA: 4.5 to 1 for text, in the light and in the dark scheme."""
    enter(page)
    page.locator("#harm-a").click()
    measure = """() => {
      const rgb = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return {c: m.slice(0, 3), a: m[3] ?? 1}; };
      const line = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const lum = (c) => { const [r, g, b] = c.map(line);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const behind = (e) => { for (; e; e = e.parentElement) { const b = rgb(getComputedStyle(e).backgroundColor);
        if (b.a === 1) return b.c; } return [255, 255, 255]; };
      return [...document.querySelectorAll('h1, h2, h3, p, .text, label, button:not(:disabled), kbd, .quiet, strong')]
        .filter((e) => e.offsetParent && e.innerText.trim()).map((e) => {
          const [x, y] = [lum(rgb(getComputedStyle(e).color).c), lum(behind(e))].sort((p, q) => q - p);
          return [(x + 0.05) / (y + 0.05), e.id || e.className || e.tagName]; })
        .filter(([ratio]) => ratio < 4.5); }"""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(measure) == [], scheme
