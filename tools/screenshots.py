"""Takes the screenshots of the docs: `python -m tools.screenshots http://HOST:PORT`.

They show the page of a running service, on the sample, after a question in words; they
are kept in docs/images, and taken anew when that page changes.
"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SIZES = {"desktop": (1100, 900), "phone": (390, 844)}
WORDS = "a fluffy dog with a curled tail"
LOADED = """document.querySelectorAll('.similar img').length > 0
    && [...document.querySelectorAll('.similar img')].every(i => i.naturalWidth > 0)"""


def main(arguments: list[str]) -> None:
    """Ask the service at the given URL, and keep what its page shows."""
    [url] = arguments
    program = shutil.which("chromium") or shutil.which("google-chrome")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=sandbox)
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(url)
            page.fill("#words", WORDS)
            page.press("#words", "Enter")
            page.wait_for_function(LOADED)
            page.screenshot(path=IMAGES / f"service-{name}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
