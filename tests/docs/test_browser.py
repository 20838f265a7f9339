"""The pages in a real browser, from the file system: what a reader sees and can do."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
BROKEN = """[...document.images].filter(i => !(i.complete && i.naturalWidth)
    && i.getClientRects().length).map(i => i.src)"""
LOAD_ALL = "document.querySelectorAll('img').forEach(i => i.loading = 'eager')"
# Of axe: what WCAG 2.1 asks for at levels A and AA.
TAGS = ["wcag2a", "wcag2aa", "wcag21aa"]
RULES = {"runOnly": {"type": "tag", "values": TAGS}, "resultTypes": ["violations"]}


@contextmanager
def opened(browser, size, theme="light") -> Iterator[tuple]:
    """Give a page, and the list of what goes wrong in it."""
    context = browser.new_context(viewport=size, color_scheme=theme)
    page, wrong = context.new_page(), []
    page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    outside = ("http:", "https:", "ws:", "wss:")
    page.on("request", lambda r: r.url.startswith(outside) and wrong.append(r.url))
    yield page, wrong
    context.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pages_fit_load_and_ask_for_nothing(browser, site, pages, size) -> None:
    problems = []
    with opened(browser, size) as (page, wrong):
        for file in pages:
            page.goto(file.as_uri())
            page.evaluate(LOAD_ALL)
            page.wait_for_load_state("load")
            name = file.relative_to(site)
            if (over := page.evaluate(OVERFLOW)) > 0:
                problems.append(f"{name}: {over} px too wide")
            problems += [f"{name}: broken {src}" for src in page.evaluate(BROKEN)]
            problems += [f"{name}: {what}" for what in wrong]
            wrong.clear()
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser, site, pages, theme) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # Pages of the API are of one make: one of them stands for all.
    chosen = [p for p in pages if p.parent.name != "api" or "embed" in p.name]
    tops = [p for p in chosen if p.parent == site or p.name == "index.html"]
    found = []
    with opened(browser, DESKTOP, theme) as (page, _):
        for file in chosen if theme == "light" else tops:
            page.goto(file.as_uri())
            for rule in axe.run(page, options=RULES).response["violations"]:
                nodes = [str(node["html"])[:160] for node in rule["nodes"][:3]]
                name = file.relative_to(site)
                found.append(f"{name}: {rule['id']}, {rule['help']}: {nodes}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("words", ["champion", "worker plan", "token"])
def test_search_finds(browser, site, words) -> None:
    with opened(browser, DESKTOP) as (page, wrong):
        page.goto(f"{(site / 'search.html').as_uri()}?q={words.replace(' ', '+')}")
        page.wait_for_selector("#search-results li a", timeout=20_000)
        assert page.locator("#search-results li").count() >= 3
        assert not wrong


def test_the_keyboard_reaches_content_and_tabs(browser, site) -> None:
    with opened(browser, DESKTOP) as (page, _):
        page.goto((site / "scaling-out.html").as_uri())
        page.keyboard.press("Tab")
        assert "main content" in page.evaluate("document.activeElement.textContent")
        first = page.locator("input[id^='sd-tab-item']").first
        first.focus()
        page.keyboard.press("ArrowRight")
        launcher = page.get_by_text("ray up build/aws.yaml").first
        assert launcher.is_visible(), "the second tab is shown"
        embed = page.get_by_text("ray job submit --no-wait").first
        assert embed.is_visible(), "and that of every other stage"


def test_a_reader_may_choose_the_dark_theme(browser, site) -> None:
    with opened(browser, DESKTOP) as (page, _):
        page.goto((site / "index.html").as_uri())
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert light != dark
