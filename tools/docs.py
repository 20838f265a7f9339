"""The rendered pages: `python -m tools.docs build`, or `serve` to look at them.

Sources are put together under build/docs/source: the pages of docs/, the notebooks as
`make tutorial` left them in build/tutorial, executed, and one page a module of the
package. Notebooks that weren't executed since they changed are executed first.
"""

import argparse
import functools
import http.server
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parents[1]
EXECUTED, BUILD = ROOT / "build" / "tutorial", ROOT / "build" / "docs"
SOURCE, SITE = BUILD / "source", BUILD / "html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
NAMED = ("ray", "torch", "transformers", "mlflow", "pyarrow", "lancedb")
PORT = 8080
ABOUT = """```{{admonition}} This page is an executed notebook
:class: note

{{download}}`Download it <download/{name}>` and run it as it is, or open it with `make lab`.
It ran on {day} in {minutes:.1f} minutes, on the drawn sample, with {versions}.
```"""


def is_current(notebook: Path) -> bool:
    """Tell whether the executed copy of a notebook is of its present cells."""
    copy = EXECUTED / notebook.name
    if not copy.is_file():
        return False
    sources = []
    for path in (notebook, copy):
        cells = nbformat.read(path, as_version=4).cells
        injected = "injected-parameters"
        sources.append(
            [c.source for c in cells if injected not in c.metadata.get("tags", [])]
        )
    return sources[0] == sources[1]


def execute() -> None:
    """Run the series where a notebook changed since it was last executed."""
    if all(map(is_current, NOTEBOOKS)):
        return
    print("The notebooks are executed first.", flush=True)
    command = [sys.executable, "-m", "doggos_helpers.batch", "--out", str(EXECUTED)]
    subprocess.run(command, cwd=ROOT, check=True)


def render(notebook: Path) -> NotebookNode:
    """Return an executed notebook as a page: with what it ran on, and figures in words.

    Papermill's own cell goes, and the caption below a figure becomes its alternative
    text.
    """
    page = nbformat.read(EXECUTED / notebook.name, as_version=4)
    ran = page.metadata.papermill
    page.cells = [
        cell
        for cell in page.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for cell, after in zip(page.cells, page.cells[1:], strict=False):
        cell.metadata.pop("papermill", None)
        first = after.source.split("\n")[0]
        if cell.cell_type == "code" and first.startswith("*") and first.endswith("*"):
            alt = first.strip("*").replace("*", "")
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
    about = ABOUT.format(
        name=notebook.name,
        day=ran.end_time[:10],
        minutes=ran.duration / 60,
        versions=", ".join(f"{name} {version(name)}" for name in NAMED),
    )
    page.cells.insert(1, new_markdown_cell(about))
    return page


def assemble() -> None:
    """Put the sources of all pages into one folder."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE)
    folder = SOURCE / "notebooks"
    folder.mkdir()
    for notebook in NOTEBOOKS:
        nbformat.write(render(notebook), folder / f"{notebook.stem}.ipynb")
        (SOURCE / "_static").mkdir(exist_ok=True)
        # Beside its page, under its own name: the one without outputs.
        (folder / "download").mkdir(exist_ok=True)
        shutil.copy(notebook, folder / "download" / notebook.name)


def build() -> Path:
    """Build the site, strictly; return its folder."""
    execute()
    assemble()
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "--keep-going"]
    command += ["-q", "-d", str(BUILD / "doctrees"), str(SOURCE), str(SITE)]
    subprocess.run(command, cwd=ROOT, check=True)
    print(f"The pages: {SITE / 'index.html'}")
    return SITE


def serve(port: int) -> None:
    """Serve the site on this machine until Ctrl-C."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{port}/  Ctrl-C stops it.", flush=True)
        server.serve_forever()


def main() -> None:
    """Build or serve."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("what", choices=["build", "serve"])
    parser.add_argument("--port", type=int, default=PORT)
    chosen = parser.parse_args()
    if chosen.what == "build":
        build()
    else:
        serve(chosen.port)


if __name__ == "__main__":
    main()
