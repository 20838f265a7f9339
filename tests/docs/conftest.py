"""The built site, and a browser that looks at it from the file system."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build" / "docs" / "html"
SOURCES = ("docs", "notebooks", "tools/docs", "doggos_helpers", "deploy")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def newest(*folders: Path) -> float:
    found = [f for folder in folders for f in folder.rglob("*")]
    files = [f for f in found if f.is_file() and f.parent.name != "__pycache__"]
    return max((f.stat().st_mtime for f in files), default=0.0)


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the pages: what `make docs` left, or built now.

    Executing the notebooks is left to `make tutorial`.
    """
    pytest.importorskip("sphinx")
    if not shutil.which("dot"):
        pytest.skip("Graphviz isn't installed (apt-get install graphviz)")
    from tools.docs import site
    from tools.docs.notebooks import NOTEBOOKS, is_current

    with FileLock(ROOT / "build" / "test" / "docs.lock"):
        index = SITE / "index.html"
        sources = newest(*(ROOT / name for name in SOURCES))
        if not index.is_file() or index.stat().st_mtime < sources:
            if not all(map(is_current, NOTEBOOKS)):
                pytest.skip("the notebooks aren't executed: run make tutorial before")
            site.build()
    return SITE


@pytest.fixture(scope="session")
def pages(site: Path) -> list[Path]:
    found = sorted(site.rglob("*.html"))
    return [page for page in found if "_static" not in page.parts]


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:  # noqa: F821
    sync_api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        pytest.skip("Chromium isn't installed (apt-get install chromium)")
    # As root, as CI is, Chromium has no sandbox.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=sandbox)
        yield launched
        launched.close()
