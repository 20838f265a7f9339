"""The hint that a notebook gives for a name that isn't there yet."""

import importlib
import sys
from pathlib import Path

import nbformat
import pytest

from doggos_helpers.cluster.kernel import assigned, forget_half_imports, hint_for

IMPORTS, MAKES, USES = "import numpy as np", "a, b = 1, 2\nc = 3", "print(b)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a notebook, a second one that makes the same name, and a broken one."""
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("# Title\n\n## Make it\nSome words."),
        *map(new.new_code_cell, (IMPORTS, MAKES)),
        new.new_markdown_cell("Only words."),
        new.new_code_cell(USES),
    ]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "two.ipynb")
    other = new.new_notebook(cells=[new.new_code_cell("b = 'other'")])
    nbformat.write(other, tmp_path / "one.ipynb")
    (tmp_path / "zero.ipynb").write_text("{")
    return tmp_path


def test_the_cell_is_named_by_its_heading_and_first_line(folder: Path) -> None:
    hint = hint_for("b", ["", IMPORTS, USES + "\n"], folder)
    assert "the one under “Make it” that begins `a, b = 1, 2`" in hint


def test_no_hint_for_a_name_that_no_cell_makes_or_outside_a_notebook(folder) -> None:
    assert hint_for("typo", [USES], folder) == ""
    assert hint_for("b", ["print('typed by hand')"], folder) == ""
    assert hint_for("b", [USES], folder / "nowhere") == ""


def test_what_counts_as_made_by_a_cell() -> None:
    source = "from x import y as z\nimport p.q\ndef f(): ...\nfor i in w: v: int = 1"
    assert assigned(source) == {"z", "p", "f", "i", "v"}
    assert assigned("%magic") == set()


@pytest.mark.parametrize("name", ["halfway", "outer.halfway"])
def test_an_import_that_was_interrupted_can_begin_anew(
    name: str, tmp_path: Path, monkeypatch
) -> None:
    package = tmp_path.joinpath(*name.split("."))
    package.mkdir(parents=True)
    (package / "version.py").write_text("VERSION = 1\n")
    (package / "first.py").write_text(f"import {name}.version\n")
    needs = f"import sys\nV = sys.modules[{name!r}].version.VERSION\n"
    (package / "second.py").write_text(needs)
    begin, end = f"from {name} import first\n", f"from {name} import second\n"
    (package / "__init__.py").write_text(f"{begin}raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module(name)
    (package / "__init__.py").write_text(begin + end)
    importlib.invalidate_caches()
    with pytest.raises(AttributeError):
        importlib.import_module(name)
    assert forget_half_imports() == [name]
    assert importlib.import_module(name).second.V == 1
    assert forget_half_imports() == []
    root = name.partition(".")[0]
    for module in [n for n in sys.modules if n.partition(".")[0] == root]:
        monkeypatch.delitem(sys.modules, module)
