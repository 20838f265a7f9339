"""What a program can check of the built pages without a browser."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag

from doggos_helpers.settings import Settings
from tools.docs.notebooks import NAMED, NOTEBOOKS
from tools.docs.terms import Linker, read_terms

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
# What a first reader met before it was explained, or never found explained.
MISSED = (
    "embedding champion alias artefact chance task actor dashboard worker replica shard"
    " checkpoint slice handle proxy p50 Workspace papermill hub ViT-B/32 Parquet token"
    " link-local tower operator driver gloo NCCL logits ingress"
).split() + ["worker plan", "Ray job", "half precision", "forward pass"]


@pytest.fixture(scope="session")
def soups(pages: list[Path]) -> dict[Path, BeautifulSoup]:
    return {page: BeautifulSoup(page.read_text(), "html.parser") for page in pages}


def article(soup: BeautifulSoup) -> Tag:
    return soup.find("article") or soup


def test_every_link_and_anchor_leads_somewhere(soups, site) -> None:
    ids = {p: {t["id"] for t in s.find_all(id=True)} for p, s in soups.items()}
    wrong, followed = [], 0
    for page, soup in soups.items():
        for tag in soup.find_all(["a", "img", "script", "link", "object", "source"]):
            url = urlsplit(tag.get("href") or tag.get("src") or tag.get("data") or "")
            if url.scheme or url.netloc or not (url.path or url.fragment):
                continue
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            followed += 1
            if not target.is_file() or site not in target.parents:
                wrong.append(f"{page.relative_to(site)}: no {url.geturl()}")
            elif url.fragment and target in ids and url.fragment not in ids[target]:
                wrong.append(f"{page.relative_to(site)}: no anchor {url.geturl()}")
    assert not wrong, "\n".join(wrong)
    assert followed > 1000, "the checker follows what there is"


def test_nothing_is_loaded_from_elsewhere(soups) -> None:
    for page, soup in soups.items():
        for tag in soup.find_all(["script", "img", "link", "iframe", "object"]):
            url = tag.get("src") or tag.get("href") or tag.get("data") or ""
            canonical = "canonical" in (tag.get("rel") or [])
            assert canonical or not re.match(r"(https?:)?//", url), f"{page}: {url}"


def test_headings_are_in_order(soups) -> None:
    for page, soup in soups.items():
        if page.name in ("genindex.html", "search.html", "py-modindex.html"):
            continue
        levels = [
            int(tag.name[1]) for tag in article(soup).find_all(re.compile("h[1-6]$"))
        ]
        assert levels[0] == 1 and levels.count(1) == 1, f"{page}: {levels}"
        steps = [
            after - before for before, after in zip(levels, levels[1:], strict=False)
        ]
        assert max(steps, default=0) <= 1, f"{page}: a level is left out of {levels}"


def test_every_picture_says_what_it_shows(soups) -> None:
    seen = 0
    for page, soup in soups.items():
        for picture in article(soup).find_all("img"):
            alt = (picture.get("alt") or "").strip()
            assert len(alt.split()) >= 3, f"{page}: {picture.get('src')}: {alt!r}"
            assert not alt.endswith((".png", ".svg", ".jpg")), f"{page}: {alt}"
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_page_offers_it_and_names_versions(soups, site, notebook) -> None:
    page = site / "series" / f"{notebook.stem}.html"
    text = article(soups[page]).get_text(" ", strip=True)
    [link] = soups[page].select("a.download")
    offered = (page.parent / link["href"]).read_text()
    assert offered == notebook.read_text(), "another notebook is offered"
    for name in NAMED:
        assert re.search(rf"{name} \d+\.\d+", text), f"no version of {name}"
    assert re.search(r"in \d+\.\d minutes", text)


def test_the_series_is_in_order(soups, site) -> None:
    stems = [notebook.stem for notebook in NOTEBOOKS]
    for before, after in zip(stems, stems[1:], strict=False):
        soup = soups[site / "series" / f"{before}.html"]
        assert soup.select_one("a.right-next")["href"] == f"{after}.html"
        soup = soups[site / "series" / f"{after}.html"]
        assert soup.select_one("a.left-prev")["href"] == f"{before}.html"


def test_each_cost_says_what_the_figure_is(soups, site) -> None:
    page = soups[site / "series" / "index.html"]
    table = next(t for t in page.find_all("table") if "cost" in t.find("tr").text)
    rows = [row.text for row in table.find_all("tr")[1:]]
    assert len(rows) >= 4
    for row in rows:
        assert re.search("measured|derived", row), row


def test_every_setting_is_on_its_page(soups, site) -> None:
    text = soups[site / "reference" / "settings.html"].get_text()
    for name in Settings.model_fields:
        assert re.findall(rf"DOGGOS_{name.upper()}\b", text), name


def test_the_glossary_has_what_readers_missed() -> None:
    assert set(MISSED) <= set(read_terms(GLOSSARY))


def test_nothing_is_left_to_do(soups) -> None:
    for page, soup in soups.items():
        text = article(soup).get_text()
        assert not re.search(r"\b(TODO|FIXME|TBD)\b", text), page


def test_a_term_is_linked_once_and_never_in_code() -> None:
    page = "# An actor\n\nAn `actor` or ``actor``: actors, an actor.\n\n```\nactor\n```"
    linked = Linker(["actor"]).link(page)
    assert linked == page.replace(": actors,", ": {term}`actors <actor>`,")
