"""Runs the notebooks in order: ``python -m doggos_helpers.batch``."""

import sys
from collections.abc import Sequence

from doggos_helpers.batch.notebooks import BatchSettings, run_notebooks
from doggos_helpers.batch.report import INDEX
from doggos_helpers.errors import run_command


def main(arguments: Sequence[str]) -> int:
    """Run the notebooks in order and say where the executed copies are."""
    settings = BatchSettings.from_command("doggos_helpers.batch", list(arguments))
    out = run_notebooks(settings)
    print(f"The executed notebooks are in {out}: {INDEX} shows them in a browser,")
    print(f"and JupyterLab with {sys.executable} -m jupyterlab {out}")
    return 0


if __name__ == "__main__":
    run_command(main)
