"""Notebooks run as people run them: twice, out of order, interrupted, killed, in pairs.

Each kernel is a real one. All of them join one Ray of one node, with few small images.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from doggos_helpers.artefacts import read_json
from doggos_helpers.batch.notebooks import declared_parameters
from doggos_helpers.clip.encoder import ClipEncoder
from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage, decode
from doggos_helpers.embed.table import find_table
from doggos_helpers.evaluate.stage import METRICS
from doggos_helpers.settings import Settings
from tests.notebooks.copies import NOTEBOOKS
from tools.local_cluster import free_ports

CELL_TIMEOUT_S, PROGRESS_S, PAUSE_S = 300, 180, 2
COLOURS = {"basset": (40, 160, 80), "collie": (200, 80, 40), "pug": (60, 60, 200)}
# Five undisturbed trainings and evaluations gave the same figures to the last digit,
# here and on the sample; embeddings may differ by 1e-5, and so may what rests on them.
FIGURES_SPREAD = 1e-4
EACH, BAD = 24, ("train/pug/empty.jpg", "test/pug/page.png")
EMBEDDING = next(path for path in NOTEBOOKS if path.stem == "03_embedding")
# The cell of each notebook that takes longest, and what shows that it is under way.
LONG_CELLS = {
    "01_local_run": ("embedded.to_pandas()", ""),
    "02_cluster_connection": ("ray.get(references)", ""),
    "03_embedding": ("embed(inputs, cluster)", "*/embeddings/table/**/*.parquet"),
    "04_training": ("fit(trainer)", "*/training/runs/*/checkpoint_*"),
    "05_evaluation": ("evaluate(inputs, cluster)", ""),
    "06_serving": ("start(settings, cluster)", ""),
}
MISSING = {"04": "03_embedding", "05": "04_training", "06": "03_embedding"}


class Kernel:
    """A Python kernel that runs cells one by one, as someone at a keyboard does."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        empty = nbformat.v4.new_notebook()
        # An error is an output, and the kernel goes on: so it is in JupyterLab.
        self.client = NotebookClient(empty, timeout=CELL_TIMEOUT_S, allow_errors=True)
        self.client.create_kernel_manager()
        quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "CI": "true"}
        self.client.start_new_kernel(
            env=os.environ | dict(variables) | quiet,
            cwd=str(NOTEBOOKS[0].parent),
        )
        self.client.start_new_kernel_client()

    def run(self, cell: NotebookNode) -> NotebookNode | None:
        """Run a code cell; return its error."""
        self.client.nb.cells = [cell]
        self.client.execute_cell(cell, 0)
        errors = [o for o in cell.outputs if o.output_type == "error"]
        return errors[0] if errors else None

    def interrupt(self) -> None:
        """Press the stop button."""
        asyncio.run(self.client.km.interrupt_kernel())

    def kill(self) -> None:
        """End the kernel's process at once."""
        os.kill(self.client.km.provisioner.pid, signal.SIGKILL)

    def close(self) -> None:
        self.client._cleanup_kernel()


def all_well(kernel: Kernel, cells: Sequence[NotebookNode], times: int = 1) -> None:
    """Run cells, each so many times, none of which may fail."""
    for cell in cells:
        for _ in range(times):
            error = kernel.run(cell)
            assert error is None, f"{cell.source}\n{error.ename}: {error.evalue}"


def code_cells(path: Path, parameters: Mapping[str, Any]) -> list[NotebookNode]:
    """Return the code cells of a notebook with those parameters that it declares."""
    known = declared_parameters(path)
    given = {n: v for n, v in parameters.items() if n in known}
    notebook = parameterize_notebook(load_notebook_node(str(path)), given)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def long_cell(path: Path, cells: Sequence[NotebookNode]) -> int:
    words, _ = LONG_CELLS[path.stem]
    (found,) = [i for i, cell in enumerate(cells) if words in cell.source]
    return found


def once_under_way(path: Path, storage: Path, action: Callable[[], None]) -> None:
    """Do something, in a thread of its own, once the long cell is under way."""
    _, pattern = LONG_CELLS[path.stem]
    before = set(storage.glob(pattern)) if pattern else set()

    def wait() -> None:
        deadline = time.monotonic() + (PROGRESS_S if pattern else PAUSE_S)
        while time.monotonic() < deadline:
            if pattern and set(storage.glob(pattern)) - before:
                break
            time.sleep(0.02)
        action()

    threading.Thread(target=wait, daemon=True).start()


@pytest.fixture(scope="module")
def dogs(tmp_path_factory) -> Path:
    """Draw noise around a colour a class, and spoil two files."""
    folder, random = tmp_path_factory.mktemp("dogs"), np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(EACH):
                noisy = random.normal(colour, 40, (60, 80, 3)).clip(0, 255)
                image = Image.fromarray(noisy.astype(np.uint8))
                image.save(folder / split / name / f"{i:02}.jpg")
    (folder / BAD[0]).touch()
    (folder / BAD[1]).write_text("<html>404</html>")
    return folder


@dataclass
class Rows:
    """What the table shall hold: embeddings and reasons by path."""

    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def expected(dogs: Path) -> Rows:
    """Embed every image in a plain loop, without Ray or a notebook."""
    encoder, rows = ClipEncoder("sample", threads=2), Rows()
    for path in sorted(str(p.relative_to(dogs)) for p in dogs.rglob("*.*")):
        try:
            pixels = decode(read_bytes(str(dogs), path), encoder.preprocessing)
            rows.embeddings[path] = encoder.encode_images(pixels[None])[0]
        except BadImage as error:
            rows.reasons[path] = str(error)
    assert sorted(rows.reasons) == sorted(BAD)
    return rows


def small(dogs: Path, storage: Path) -> dict[str, Any]:
    """Choose parameters of a small run; a notebook takes those that it declares."""
    return {
        "dataset": str(dogs),
        "storage": str(storage),
        "tracking_uri": f"sqlite:///{storage}/mlflow.db",
        "embed_batch_size": 4,
        "dtype": "float32",  # bfloat16 rounds by what shares a batch
        "epochs": 6,
        "port": free_ports(1)[0],
        "serve_images": "yes",
    }


def check_table(dogs: Path, storage: Path, expected: Rows) -> None:
    """The same counts, paths and reasons, and embeddings within 1e-5."""
    settings = Settings(dataset=str(dogs), storage=str(storage))
    table = pd.read_parquet(find_table(settings)).set_index("path")
    assert table.index.is_unique
    good, bad = table[table.reason.isna()], table[table.reason.notna()]
    assert dict(bad.reason) == expected.reasons and bad.embedding.isna().all()
    assert sorted(good.index) == list(expected.embeddings)
    got = np.stack([good.embedding[path] for path in expected.embeddings])
    wanted = np.stack(list(expected.embeddings.values()))
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert not list(settings.embeddings_dir.glob("table/**/.*"))


def figures(dogs: Path, storage: Path) -> tuple[float, float, float]:
    """Return the best validation loss and accuracy, and the accuracy on the test."""
    settings = Settings(dataset=str(dogs), storage=str(storage))
    best = read_json(settings.training_dir / "run.json", "04_training")["best"]
    metrics = read_json(settings.evaluation_dir / METRICS, "05_evaluation")
    return best["val_loss"], best["val_accuracy"], metrics["top1"]


@pytest.fixture
def kernel(cluster_variables: Mapping[str, str]) -> Iterator[Kernel]:
    started = Kernel(cluster_variables)
    yield started
    started.close()


def out_of_order(kernel: Kernel, path: Path) -> None:
    """Run the cells from the last to the first: what isn't there is named."""
    for cell in reversed(code_cells(path, {})):
        if error := kernel.run(cell):
            assert error.ename == "NameError", f"{cell.source}\n{error.evalue}"


def interrupted(
    kernel: Kernel, path: Path, cells: Sequence[NotebookNode], storage: Path
) -> None:
    """Stop the long cell in its middle, and go on from that cell."""
    at = long_cell(path, cells)
    all_well(kernel, cells[:at])
    once_under_way(path, storage, kernel.interrupt)
    error = kernel.run(cells[at])
    assert error and error.ename == "KeyboardInterrupt", f"{path.stem}: {error}"
    all_well(kernel, cells[at:])


@pytest.mark.long
def test_embedding_out_of_order_twice_and_interrupted(
    kernel: Kernel, dogs: Path, tmp_path: Path, expected: Rows
) -> None:
    """All of it in one kernel, as somebody who tries things would."""
    out_of_order(kernel, EMBEDDING)
    all_well(kernel, code_cells(EMBEDDING, small(dogs, tmp_path / "twice")), times=2)
    check_table(dogs, tmp_path / "twice", expected)

    storage = tmp_path / "interrupted"
    cells = code_cells(EMBEDDING, small(dogs, storage))
    interrupted(kernel, EMBEDDING, cells, storage)
    check_table(dogs, storage, expected)


# --- every notebook: make test-long ----------------------------------------------

each_notebook = pytest.mark.parametrize(
    "notebook_path", NOTEBOOKS, ids=lambda p: p.stem
)


@dataclass(frozen=True)
class Series:
    """All notebooks run in order, undisturbed; the disturbed ones share the storage."""

    storage: Path
    figures: tuple[float, float, float]


@pytest.fixture(scope="module")
def series(
    dogs: Path, cluster_variables: Mapping[str, str], tmp_path_factory
) -> Series:
    """Run all notebooks in order, undisturbed."""
    storage = tmp_path_factory.mktemp("series")
    for path in NOTEBOOKS:
        complete_run(cluster_variables, path, small(dogs, storage))
    return Series(storage, figures(dogs, storage))


def complete_run(
    variables: Mapping[str, str], path: Path, parameters: Mapping[str, Any]
) -> None:
    """Run a notebook from top to bottom in a kernel of its own."""
    kernel = Kernel(variables)
    try:
        all_well(kernel, code_cells(path, parameters))
    finally:
        kernel.close()


def storage_for(path: Path, series: Series, tmp_path: Path) -> Path:
    """Take an empty storage for 03, which would find nothing to do in the series'."""
    return tmp_path if path == EMBEDDING else series.storage


def check(dogs: Path, storage: Path, expected: Rows, series: Series) -> None:
    """The table and the figures are those of an undisturbed run."""
    check_table(dogs, storage, expected)
    if storage == series.storage:
        now = figures(dogs, storage)
        np.testing.assert_allclose(now, series.figures, atol=FIGURES_SPREAD)


@pytest.mark.long
@each_notebook
def test_every_cell_twice(notebook_path, kernel, dogs, series, expected, tmp_path):
    storage = storage_for(notebook_path, series, tmp_path)
    out_of_order(kernel, notebook_path)
    cells = code_cells(notebook_path, small(dogs, storage))
    all_well(kernel, cells, times=2)
    check(dogs, storage, expected, series)


@pytest.mark.long
@each_notebook
def test_interrupted_and_continued(
    notebook_path, kernel, dogs, series, expected, tmp_path
):
    storage = storage_for(notebook_path, series, tmp_path)
    cells = code_cells(notebook_path, small(dogs, storage))
    interrupted(kernel, notebook_path, cells, storage)
    check(dogs, storage, expected, series)


@pytest.mark.long
@each_notebook
def test_killed_and_run_again(
    notebook_path, kernel, cluster_variables, dogs, series, expected, tmp_path
):
    storage = storage_for(notebook_path, series, tmp_path)
    parameters = small(dogs, storage)
    cells = code_cells(notebook_path, parameters)
    at = long_cell(notebook_path, cells)
    all_well(kernel, cells[:at])
    once_under_way(notebook_path, storage, kernel.kill)
    with pytest.raises(Exception, match="Kernel died"):
        kernel.run(cells[at])
    complete_run(cluster_variables, notebook_path, parameters)
    check(dogs, storage, expected, series)


@pytest.mark.long
@pytest.mark.parametrize(
    "names", [("03_embedding", "04_training"), ("04_training", "05_evaluation")]
)
def test_two_at_the_same_time(
    names, cluster_variables, dogs, series, expected, tmp_path
):
    paths = [path for path in NOTEBOOKS if path.stem in names]
    storages = [storage_for(path, series, tmp_path) for path in paths]
    with ThreadPoolExecutor(len(paths)) as pool:
        runs = [
            pool.submit(complete_run, cluster_variables, path, small(dogs, storage))
            for path, storage in zip(paths, storages, strict=True)
        ]
        for run in runs:
            run.result()
    for storage in storages:
        check(dogs, storage, expected, series)


@pytest.mark.long
@pytest.mark.parametrize("number", MISSING)
def test_before_its_time_a_notebook_names_the_other(number, kernel, dogs, tmp_path):
    path = next(path for path in NOTEBOOKS if path.stem.startswith(number))
    cells = code_cells(path, small(dogs, tmp_path))
    error = next(filter(None, map(kernel.run, cells)))
    assert error.ename == "StorageError"
    assert MISSING[number] in error.evalue
    assert len(error.traceback) == 1, "a traceback that is not the reader's"
