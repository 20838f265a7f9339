"""The page, used in a real browser, on a desktop and on a phone."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.chromium import CHROMIUM, Page, chromium
from tests.ray.serving import CLASSES, JPEG, App, running

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
SHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
ANSWERED = "document.querySelectorAll('.similar li').length"
LOADED = "[...document.querySelectorAll('.similar img')].every(i => i.naturalWidth > 0)"
FOCUSED = "document.activeElement.id || document.activeElement.tagName"


@pytest.fixture(scope="module")
def app(prepared, cluster) -> Iterator[App]:
    with running(prepared, cluster[1]) as app:
        yield app


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(params=SIZES)
def page(request, app, browser) -> Iterator[tuple[Page, str]]:
    browser.requested.clear()
    browser.complaints.clear()
    browser.open(f"{app.url}/", *SIZES[request.param])
    yield browser, request.param
    # Nothing came from elsewhere, nothing broke the policy, nothing is cut off.
    elsewhere = [u for u in browser.requested if not u.startswith((app.url, "blob:"))]
    assert [u for u in elsewhere if not u.startswith("data:")] == []
    unexpected = [said for said in browser.complaints if "status of 4" not in said]
    assert unexpected == []
    root = "document.documentElement"
    assert browser.run(f"{root}.scrollWidth <= {root}.clientWidth")


def test_a_chosen_photo_gives_bars_similar_dogs_and_the_latency(page, app):
    browser, size = page
    browser.choose("#file", Path(app.settings.dataset) / JPEG)
    browser.until(f"{ANSWERED} === 8 && {LOADED}")
    shown = browser.text()
    assert all(name in shown for name in CLASSES)
    widths = browser.run(
        "[...document.querySelectorAll('.bar')].map(b => parseFloat(b.style.width))"
    )
    assert len(widths) == 3 and sum(widths) == pytest.approx(100, abs=0.5)
    assert widths == sorted(widths, reverse=True)
    assert " ms of it in the service" in browser.run("latency.innerText")
    assert browser.run("document.querySelector('.query img').naturalWidth") == 80
    browser.screenshot(SHOTS / f"serve_{size}_photo.png")


def test_a_photo_is_dropped_and_pasted(page, app):
    browser, _ = page
    data = base64.b64encode(app.read()).decode()
    carry = f"""
      const bytes = Uint8Array.from(atob("{data}"), c => c.charCodeAt(0));
      const carried = new DataTransfer();
      carried.items.add(new File([bytes], "dog.jpg", {{type: "image/jpeg"}}));
    """
    drop = "document.dispatchEvent(new DragEvent('drop', {dataTransfer: carried}))"
    paste = "document.dispatchEvent(new ClipboardEvent('paste',"
    paste += " {clipboardData: carried}))"
    for event in (drop, paste):
        browser.run("answer.replaceChildren()")
        browser.run(f"{{ {carry} {event}; }}")
        browser.until(f"{ANSWERED} === 8")
        assert "Likely breeds" in browser.text()


def test_words_find_pictures_and_a_picture_finds_its_like_by_keyboard_alone(page):
    browser, size = page
    browser.press("Tab")
    assert browser.run(FOCUSED) == "file"
    browser.press("Tab")
    assert browser.run(FOCUSED) == "words"
    browser.type("a black zorblax dog")
    browser.press("Enter")
    browser.until(f"{ANSWERED} === 8 && {LOADED}")
    assert "The model has never seen: zorblax." in browser.text()
    browser.screenshot(SHOTS / f"serve_{size}_words.png")
    browser.press("Tab")
    browser.press("Tab")
    assert browser.run(FOCUSED) == "BUTTON"
    path = browser.run("document.activeElement.title").removeprefix("Search like ")
    browser.press("Enter")
    browser.until(f"document.body.innerText.includes('Most like {path}')")
    assert browser.run("document.querySelector('.similar button').title").endswith(path)


def test_a_link_is_classified(page, app):
    browser, _ = page
    browser.run("words.focus()")
    browser.type(app.own())
    browser.press("Enter")
    browser.until(f"{ANSWERED} === 8")
    assert "Likely breeds" in browser.text()


def test_what_is_wrong_is_said_in_words(page, app, tmp_path):
    browser, size = page
    (tmp_path / "letter.txt").write_text("Dear dog")
    browser.choose("#file", tmp_path / "letter.txt")
    browser.until("document.querySelector('[role=alert]')")
    assert "can't decode the image: not an image." in browser.text()
    assert "Send a JPEG, PNG, WebP or GIF file." in browser.text()
    browser.screenshot(SHOTS / f"serve_{size}_error.png")
    browser.run("words.value = 'http://10.0.0.1/dog.jpg'; find('ask').requestSubmit()")
    browser.until("document.body.innerText.includes('not public')")


def test_names_are_text_and_never_markup(page):
    browser, _ = page
    browser.run(
        "words.value = '<img src=x onerror=alert(1)>'; find('ask').requestSubmit()"
    )
    browser.until(f"{ANSWERED} === 8")
    assert browser.run("document.querySelectorAll('#answer h2 img').length") == 0


@pytest.mark.long
def test_with_a_token_the_page_asks_for_it_and_shows_pictures(
    prepared, cluster, browser
):
    from pydantic import SecretStr

    with running(prepared, cluster[1], token=SecretStr("woof")) as app:
        browser.open(f"{app.url}/", *SIZES["phone"])
        browser.run("words.value = 'a dog'; find('ask').requestSubmit()")
        browser.until("!token.hidden")
        assert "This service asks for a token" in browser.text()
        browser.run("secret.value = 'woof'; token.requestSubmit()")
        browser.until(f"{ANSWERED} === 8 && token.hidden && {LOADED}")
        browser.run("sessionStorage.clear()")
