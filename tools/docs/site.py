"""Putting the site together: sources, executed notebooks, generated parts, Sphinx.

Sources come together under build/docs/source: the pages of docs/, the notebooks as
`make tutorial` left them in build/tutorial, executed, one page a folder of the package,
and what is made of data: tables, diagrams, figures. Notebooks that weren't executed
since they changed are executed first.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from tools.docs import figures, generated, terms
from tools.docs.notebooks import EXECUTED, NOTEBOOKS, is_current, render

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "docs"
SOURCE, SITE = BUILD / "source", BUILD / "html"


class Failed(Exception):
    """The pages can't be built; the message says what to do."""


def build() -> Path:
    """Build the site, strictly; return its folder.

    Raises:
        Failed: Graphviz is missing, a notebook failed, or a page has a fault.
    """
    if not shutil.which("dot"):
        raise Failed("Graphviz is missing: install it (apt-get install graphviz)")
    execute()
    assemble()
    draft = SITE.with_name("draft")
    shutil.rmtree(draft, ignore_errors=True)
    # -n: each reference has its target, -W: a warning is an error.
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "--keep-going"]
    command += ["-q", "-d", str(BUILD / "doctrees"), str(SOURCE), str(draft)]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise Failed("the pages have the faults listed above")
    shutil.rmtree(SITE, ignore_errors=True)
    draft.rename(SITE)
    return SITE


def execute() -> None:
    """Run the series where a notebook changed since it was last executed."""
    if all(map(is_current, NOTEBOOKS)):
        return
    print("The notebooks are executed first.", flush=True)
    command = [sys.executable, "-m", "doggos_helpers.batch", "--out", str(EXECUTED)]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise Failed("a notebook failed: see above")


def assemble() -> None:
    """Put the sources of all pages into one folder."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE)
    series = SOURCE / "series"
    names = terms.read_terms(SOURCE / "reference" / "glossary.md")
    # Beside their pages, under their own names: the notebooks without outputs.
    (series / "download").mkdir()
    for notebook in NOTEBOOKS:
        shutil.copy(notebook, series / "download")
        page, linker = render(notebook), terms.Linker(names)
        for cell in page.cells:
            if cell.cell_type == "markdown":
                cell.source = linker.link(cell.source)
        nbformat.write(page, series / notebook.name)
    generated.write(SOURCE)
    terms.link_pages(SOURCE)
    figures.draw(SOURCE)
