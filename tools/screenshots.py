"""Takes the screenshots of the docs: `python -m tools.screenshots http://HOST:PORT`.

They show the page of a running service, on the sample, after a question in words; they
are kept in docs/images, and taken anew when that page changes.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SIZES = {"desktop": (1100, 900), "phone": (390, 844)}
WORDS = "a fluffy dog with a curled tail"
LOADED = """document.querySelectorAll('.similar img').length > 0
    && [...document.querySelectorAll('.similar img')].every(i => i.naturalWidth > 0)"""


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run the Chromium that is installed, for a block."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=sandbox)
        yield started
        started.close()


def main(arguments: list[str]) -> None:
    """Ask the service at the given URL, and keep what its page shows."""
    [url] = arguments
    with browser() as chromium:
        for name, (width, height) in SIZES.items():
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.goto(url)
            page.fill("#words", WORDS)
            page.press("#words", "Enter")
            page.wait_for_function(LOADED)
            page.screenshot(path=IMAGES / f"service-{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
