"""What a notebook says when a cell runs before one that it needs."""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def explain_missing_names() -> None:
    """Have the kernel add to a NameError which cell of the notebook makes the name.

    Harmless if called twice, and outside of IPython.
    """
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    if shell := get_ipython():
        shell.set_custom_exc((NameError,), _explain)


def _explain(
    shell: Any, kind: type, error: NameError, trace: Any, tb_offset: int | None = None
) -> list[str]:
    if hint := hint_for(error.name or "", shell.user_ns.get("In", [])):
        error.add_note(hint)
    lines: list[str] = shell.InteractiveTB.structured_traceback(
        kind, error, trace, tb_offset=tb_offset
    )
    shell._showtraceback(kind, error, lines)
    return lines


def hint_for(name: str, inputs: Sequence[str], folder: Path | None = None) -> str:
    """Say which cell of the notebook that is running makes a name; else nothing.

    Args:
        name: What isn't defined.
        inputs: The cells that ran in this kernel, the last one last. By them, the
            notebook is recognised: a kernel isn't told which one it runs.
        folder: Where the notebook is; None: the current folder.
    """
    ran = {text.strip() for text in inputs if text.strip()}
    found = (list(_cells(file)) for file in sorted((folder or Path()).glob("*.ipynb")))
    cells = max(found, key=lambda c: sum(s in ran for _, s in c), default=[])
    if not any(source in ran for _, source in cells):
        return ""
    for heading, source in cells:
        if name in assigned(source):
            first = source.splitlines()[0]
            return (
                f"{name} is made by a cell that has not run in this kernel: the one"
                f" under “{heading}” that begins `{first}`. Run it and those between:"
                " in JupyterLab, Run > Run All Above Selected Cell."
            )
    return ""


def _cells(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the code cells of a notebook with the heading that each stands under."""
    import nbformat

    try:
        notebook = nbformat.read(file, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError):
        return
    heading = file.name
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield heading, cell.source.strip()
        else:
            titles = [s for s in cell.source.splitlines() if s.startswith("#")]
            heading = titles[-1].lstrip("# ") if titles else heading


def assigned(source: str) -> set[str]:
    """Return the names that a cell gives a value to, functions and imports included."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names
