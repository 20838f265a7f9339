"""What a batch leaves to read without Jupyter: a page a notebook, and one of all."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from upath import UPath

from doggos_helpers.artefacts import write_whole

INDEX = "index.html"
GOOD = "All good"  # what a notebook's check prints, with its figures


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
    injected = "injected-parameters"
    own = [c.source for c in then.cells if injected not in c.metadata.get("tags", [])]
    ended = ran.get("end_time") and not ran.get("exception")
    same = own == [c.source for c in now.cells]
    return bool(ended and same and given in (None, ran.get("parameters")))


def row(copy: Path) -> dict[str, str]:
    """Return a row of the page: minutes, and what the check or the failure said."""
    notebook = nbformat.read(copy, as_version=4)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    lines = [line for o in outputs for line in o.get("text", "").splitlines()]
    found = [line for line in lines if line.startswith(GOOD)]
    found += [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"]
    minutes = (notebook.metadata.get("papermill", {}).get("duration") or 0) / 60
    said = "; ".join(found) or "not finished"
    return {"name": copy.stem, "minutes": f"{minutes:.1f}", "found": said}


def publish(copy: Path, copies: Sequence[Path], about: str, folder: UPath) -> None:
    """Write an executed notebook as HTML, and the page of all, here and on the storage.

    Args:
        copy: Just executed; what is written stands beside it.
        copies: Of all notebooks, in order, executed or not yet.
        about: The run, in a sentence.
        folder: Where all of it goes as well.
    """
    from jinja2 import Template
    from nbconvert import HTMLExporter

    # What Jupyter's page would load from the internet are scripts, all of them.
    text = HTMLExporter(template_name="lab").from_filename(str(copy))[0]
    text = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    page = Template(Path(__file__).with_name("page.html").read_text(), autoescape=True)
    index = page.render(about=about, rows=[row(p) for p in copies if p.is_file()])
    for place in (UPath(copy.parent), folder):
        write_whole(place / copy.name, copy.read_bytes())
        write_whole(place / f"{copy.stem}.html", text.encode())
        write_whole(place / INDEX, index.encode())
