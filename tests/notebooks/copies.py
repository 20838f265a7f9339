"""Reading the notebooks, and making the copies that tests execute.

In a copy each exercise runs three times: as the untouched starter, as a wrong answer,
whose check must fail, and as the solution that its `<details>` cell shows.
"""

import copy
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
ACCEPTED = "the check accepted a wrong answer"
REJECTED = "rejected:"
# `await` at the top level of a check must go on working, hence no exec().
MUST_FAIL = f"""try:
{{check}}
except AssertionError as error:
    print("{REJECTED}", error)
else:
    raise RuntimeError("{ACCEPTED}")
"""


@dataclass(frozen=True)
class Exercise:
    """An exercise: the place of its starter cell, and its four pieces of code."""

    position: int
    starter: str
    check: str
    wrong: str
    solution: str


def tags(cell: NotebookNode) -> list[str]:
    """Return a cell's tags."""
    return cell.metadata.get("tags", [])


def read(path: Path) -> NotebookNode:
    """Read a notebook."""
    return nbformat.read(path, as_version=4)


def exercises(notebook: NotebookNode) -> list[Exercise]:
    """Return the exercises of a notebook; what is missing is an empty string."""
    found = []
    for i, cell in enumerate(notebook.cells):
        if "exercise" not in tags(cell):
            continue
        check, details = (*notebook.cells[i + 1 : i + 3], None, None)[:2]
        has_check = check is not None and "check" in tags(check)
        is_solution = details is not None and "<details>" in details.source
        fence = FENCE.search(details.source) if is_solution and details else None
        found.append(
            Exercise(
                position=i,
                starter=cell.source,
                check=check.source if has_check and check else "",
                wrong=cell.metadata.get("wrong_answer", ""),
                solution=fence.group(1).strip() if fence else "",
            )
        )
    return found


def try_everything(notebook: NotebookNode) -> NotebookNode:
    """Return a copy in which each exercise runs as starter, wrong and solved."""
    result = copy.deepcopy(notebook)
    for number, exercise in reversed(list(enumerate(exercises(notebook), start=1))):
        check = textwrap.indent(exercise.check, "    ")
        extra = {
            "wrong": exercise.wrong,
            "wrong-check": MUST_FAIL.format(check=check),
            "solution": exercise.solution,
            "solution-check": exercise.check,
        }
        cells = [
            nbformat.v4.new_code_cell(source, id=f"try-{number}-{name}")
            for name, source in extra.items()
        ]
        after = exercise.position + 2  # behind the starter and its own check
        result.cells[after:after] = cells
    return result


def make_copies(folder: Path, notebooks: list[Path]) -> list[Path]:
    """Write the copies of all notebooks into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for path in notebooks:
        copies.append(folder / path.name)
        nbformat.write(try_everything(read(path)), copies[-1])
    return copies
