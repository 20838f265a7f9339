"""The executed notebooks as pages: with what they ran on, and figures in words."""

import re
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from doggos_helpers.batch.report import is_done

ROOT = Path(__file__).resolve().parents[2]
EXECUTED = ROOT / "build" / "tutorial"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
NAMED = ("ray", "torch", "transformers", "mlflow", "pyarrow", "lancedb")
INJECTED = "injected-parameters"  # papermill's own cell
ABOUT = """:::{{admonition}} This page is an executed notebook
:class: note

{{download}}`Download {name} <download/{name}>` to run it, or open it with `make lab`.
It ran on {day}, in {minutes}, on {data}.
Versions: {versions}.
What it takes on four L4 GPUs stands in {{ref}}`the table of costs <costs>`.
:::"""


def is_current(notebook: Path) -> bool:
    """Tell whether the executed copy of a notebook is of its present cells."""
    return is_done(notebook, EXECUTED / notebook.name)


def read_executed(notebook: Path) -> NotebookNode:
    """Read the executed copy of a notebook."""
    return nbformat.read(EXECUTED / notebook.name, as_version=4)


def minutes(executed: NotebookNode) -> str:
    """Say how long a notebook ran."""
    return f"{executed.metadata.papermill.duration / 60:.1f} minutes"


def render(notebook: Path) -> NotebookNode:
    """Return an executed notebook as a page.

    Papermill's own cell goes, a box with date and versions comes, and the caption
    below a figure becomes its alternative text.
    """
    page = read_executed(notebook)
    given = page.metadata.papermill.parameters
    page.cells = [cell for cell in page.cells if not _injected(cell)]
    for cell in page.cells:  # pictures of docs/ lie beside the pages here
        cell.source = cell.source.replace("](../docs/", "](../")
    below = "A figure of the cell above"
    for cell in reversed(page.cells):
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "markdown":
            below = _caption(cell.source) or below
        cell.metadata["mystnb"] = {"image": {"alt": below}}
        for output in cell.get("outputs", []):
            _as_fence(output)
    about = ABOUT.format(
        name=notebook.name,
        day=page.metadata.papermill.end_time[:10],
        minutes=minutes(page),
        data=_data(given),
        versions=", ".join(f"{name} {version(name)}" for name in NAMED),
    )
    page.cells.insert(1, new_markdown_cell(about))
    return page


def _as_fence(output: NotebookNode) -> None:
    """Make shown source code a fence, which looks and copies like all other code."""
    data = output.get("data", {})
    if "text/latex" in data and "text/html" in data:  # IPython.display.Code
        source = data["text/plain"].rstrip()
        output.data = {"text/markdown": f"````python\n{source}\n````"}


def _data(given: dict[str, object]) -> str:
    """Say on what a notebook ran, by the parameters that it was given."""
    own = dict(given)
    name = own.pop("dataset", "") or "sample"
    data = "the drawn sample" if name == "sample" else f"`{name}`"
    rest = ", ".join(f"`{key}={value}`" for key, value in sorted(own.items()))
    return f"{data} with {rest}" if rest else data


def _caption(markdown: str) -> str:
    """Return what the text below a figure says it shows: its caption, or a sentence."""
    lines = [line for line in markdown.strip().splitlines() if line[:1] != "#"]
    first = " ".join(lines).strip()
    if first.startswith("*") and not first.startswith("**"):
        first = first[1:].partition("*")[0]
    return re.sub(r"[*`#]", "", first.split(". ")[0]).strip()


def _injected(cell: NotebookNode) -> bool:
    return INJECTED in cell.metadata.get("tags", [])
