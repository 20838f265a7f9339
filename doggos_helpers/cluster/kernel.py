"""What a notebook does about a cell that runs too early, or is interrupted."""

import ast
import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def prepare_kernel() -> None:
    """Have the kernel explain missing names, and let go of what was interrupted.

    A NameError then names the cell of the notebook that makes the name. After an
    interrupt, the traceback would keep what the cell held until the next error: the
    workers of a Ray Data pipeline, too, and the same cell, run again, would wait for
    their CPUs for ever. Harmless if called twice, and outside of IPython.
    """
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    if shell := get_ipython():
        shell.set_custom_exc((NameError,), _explain)
        shell.events.register("post_run_cell", _let_go)


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


def _let_go(result: Any) -> None:
    """Forget the traceback of an interrupted cell, which has been shown.

    Half an import is forgotten as well: else it would fail each time from now on.
    """
    from IPython import get_ipython

    error, shell = result.error_in_exec, get_ipython()
    if isinstance(error, KeyboardInterrupt) and shell:
        error.__traceback__ = shell.InteractiveTB.tb = None
        for name in ("last_exc", "last_value", "last_traceback"):
            setattr(sys, name, None)
        gc.collect()  # an actor pool and its operator refer to each other
        if halves := forget_half_imports():
            print(
                f"The import of {', '.join(halves)} was interrupted. It begins anew;"
                " if it fails, restart the kernel.",
                file=sys.stderr,
            )


def forget_half_imports() -> list[str]:
    """Forget the modules of packages whose import was broken off; return those.

    Python forgets the package and keeps its modules. Then the next import finds them
    loaded, and the package lacks them.
    """
    halves = {name: half for name in sys.modules if (half := _missing_parent(name))}
    for name in halves:
        del sys.modules[name]
    return sorted(set(halves.values()))


def _missing_parent(module: str) -> str:
    """Return the outermost package of a module that isn't loaded, or nothing."""
    parts = module.split(".")
    parents = (".".join(parts[:i]) for i in range(1, len(parts)))
    return next((name for name in parents if name not in sys.modules), "")


def hint_for(name: str, inputs: Sequence[str], folder: Path | None = None) -> str:
    """Say which cell of the notebook that is running makes a name; else nothing.

    Args:
        name: What isn't defined.
        inputs: The cells that ran in this kernel, the last one last. By them, the
            notebook is recognised: a kernel isn't told which one it runs.
        folder: Where the notebook is; None: the current folder.
    """
    ran = {text.strip() for text in inputs if text.strip()}
    files = sorted((folder or Path()).glob("*.ipynb"))
    notebooks = [list(_cells(file)) for file in files]
    known = [sum(source in ran for _, source in cells) for cells in notebooks]
    most = max(known, default=0)
    makers = {
        next((cell for cell in cells if name in assigned(cell[1])), None)
        for cells, count in zip(notebooks, known, strict=True)
        if count == most > 0
    } - {None}
    if not makers:
        return ""
    which = "one above"  # while several notebooks have the cells that ran
    if len(makers) == 1:
        ((heading, source),) = filter(None, makers)
        which = f"the one under “{heading}” that begins `{source.splitlines()[0]}`"
    return (
        f"{name} is made by a cell that has not run in this kernel: {which}. Run it and"
        " those between: in JupyterLab, Run > Run All Above Selected Cell."
    )


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
