"""What a batch leaves to read without Jupyter: a page a notebook, and one of all."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from upath import UPath

from doggos_helpers.artefacts import write_whole

INDEX = "index.html"
GOOD = "All good"  # what a notebook's check prints, with its figures
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body {{font: 1rem/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding:
0 1rem}} td, th {{text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top}}
</style><h1>{title}</h1><p>{about}</p><table>
<tr><th>notebook</th><th>minutes</th><th>what it found</th><th>with outputs</th></tr>
{rows}</table></html>
"""
ROW = (
    '<tr><td><a href="{name}.html">{name}</a></td><td>{minutes:.1f}</td>'
    '<td>{found}</td><td><a href="{name}.ipynb">.ipynb</a></td></tr>\n'
)


@dataclass(frozen=True)
class Executed:
    """An executed copy: its path, minutes, and what its check or its failure says."""

    path: Path
    minutes: float
    found: str


def is_done(notebook: Path, copy: Path, given: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a copy ran to its end on the present cells and these parameters.

    Args:
        notebook: As it is stored.
        copy: As papermill left it, if it did.
        given: The parameters; None: whichever.
    """
    if not copy.is_file():
        return False
    now, then = (nbformat.read(path, as_version=4) for path in (notebook, copy))
    ran = then.metadata.get("papermill", {})
    own = [c.source for c in then.cells if "injected-parameters" not in c.metadata.tags]
    return (
        bool(ran.get("end_time"))
        and not ran.get("exception")
        and own == [c.source for c in now.cells]
        and given in (None, ran.get("parameters"))
    )


def describe(copy: Path, failure: str = "") -> Executed:
    """Read an executed copy: how long it took, and the figures of its check."""
    notebook = nbformat.read(copy, as_version=4)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    lines = [line for o in outputs for line in o.get("text", "").splitlines()]
    good = [line.removeprefix(GOOD).strip(" :.") for line in lines if GOOD in line]
    minutes = (notebook.metadata.papermill.duration or 0) / 60
    return Executed(copy, minutes, failure or "; ".join(["ok", *filter(None, good)]))


def publish(done: list[Executed], about: str, folders: list[UPath]) -> None:
    """Write the last notebook that was executed as HTML, and the page of all.

    Args:
        done: The executed notebooks, in order.
        about: The run, in a sentence.
        folders: Where to, local ones or in a bucket; the notebook goes there as well.
    """
    from nbconvert import HTMLExporter

    last = done[-1].path
    # What Jupyter's page would load from the internet are scripts, all of them.
    text = HTMLExporter(template_name="lab").from_filename(str(last))[0]
    text = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    rows = [
        ROW.format(
            name=one.path.stem, minutes=one.minutes, found=html.escape(one.found)
        )
        for one in done
    ]
    title, about = "The series, executed", html.escape(about)
    index = PAGE.format(title=title, about=about, rows="".join(rows))
    for folder in folders:
        write_whole(folder / last.name, last.read_bytes())
        write_whole(folder / f"{last.stem}.html", text.encode())
        write_whole(folder / INDEX, index.encode())
