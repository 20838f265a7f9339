"""Real papermill runs of a tiny notebook: parameter, environment, default."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

PARAMETERS = """dataset: str = ""  # empty: DOGGOS_DATASET, else the sample
use_gpu: str = ""  # yes, no, empty: where there is one
epochs: int = 0  # 0: DOGGOS_EPOCHS, else the default
seed: str = ""  # empty: DOGGOS_SEED, else 0"""
USE = """import json
from doggos_helpers.settings import Settings
settings = Settings.given(dataset=dataset, use_gpu=use_gpu, epochs=epochs, seed=seed)
shown = settings.model_dump(include={"dataset", "use_gpu", "epochs", "seed"})
print(json.dumps(shown))"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """Write a notebook with a parameters cell like those of the series."""
    cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, USE)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    written = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path = tmp_path / "tiny.ipynb"
    nbformat.write(written, path)
    return path


def papermill(
    notebook: Path, *options: str, **environment: str
) -> tuple[nbformat.NotebookNode, str]:
    """Run papermill's own command; return the executed notebook and its log."""
    out = notebook.with_name("out.ipynb")
    command = [sys.executable, "-m", "papermill", str(notebook), str(out), *options]
    ran = subprocess.run(
        [*command, "--no-progress-bar"],
        env=dict(os.environ) | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return nbformat.read(out, as_version=4), ran.stderr


def run(notebook: Path, *options: str, **environment: str) -> dict[str, object]:
    """Run papermill's own command and return what the notebook printed."""
    executed, _ = papermill(notebook, *options, **environment)
    return json.loads(executed.cells[-1].outputs[0]["text"])


def test_papermill_wins_over_environment_and_that_over_default(notebook: Path) -> None:
    options = ("-p", "dataset", "s3://given/dogs", "-p", "epochs", "3", "-p", "seed")
    environment = {"DOGGOS_DATASET": "/env", "DOGGOS_EPOCHS": "5", "DOGGOS_SEED": "8"}
    values = run(notebook, *options, "0", DOGGOS_USE_GPU="no", **environment)
    assert values["dataset"] == "s3://given/dogs"  # papermill over environment
    assert values["epochs"] == 3
    assert values["seed"] == 0  # a seed of 0 is a value
    assert values["use_gpu"] == "no"  # environment over default


def test_what_is_empty_falls_through(notebook: Path) -> None:
    options = ("-p", "dataset", "", "-p", "epochs", "0")
    values = run(notebook, *options, DOGGOS_DATASET="/env/dogs")
    assert values["dataset"] == "/env/dogs"
    assert values["epochs"] == 15 and values["seed"] == 0
    assert values["use_gpu"] is None


def test_papermill_itself_warns_of_what_a_notebook_does_not_declare(notebook) -> None:
    _, log = papermill(notebook, "-p", "epocs", "3")
    assert "Passed unknown parameter: epocs" in log
