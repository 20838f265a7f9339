"""The notebooks on a Ray cluster of three nodes, once, by nbmake; then what they left.

The copies try each exercise three times; see `copies.py`. Figures hold for the sample.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from copies import NOTEBOOKS, REJECTED, ROOT, exercises, make_copies, read
from nbformat import NotebookNode

from doggos_helpers.cluster.connect import disconnect
from doggos_helpers.settings import Settings
from tools.local_cluster import free_ports, local_cluster

COPIES = ROOT / "build" / "notebooks"
CELL_TIMEOUT_S, ALL_TIMEOUT_S = 300, 1500
NODES = 3
MIN_NODES_USED = 2
# The sample's test split: its CLIP reads drawn dogs well, so this should be far better
# than chance. A step outside means that a model, a split or a label has changed.
TIMES_CHANCE, MIN_TOP1, MAX_TOP1 = 8, 0.85, 0.995


@pytest.fixture(scope="session")
def executed(session_folder: Path) -> Iterator[Path]:
    """Run the copies in order on the cluster and return their folder."""
    disconnect()  # of the tests on a local Ray, which are done
    shutil.rmtree(COPIES, ignore_errors=True)
    copies = make_copies(COPIES, NOTEBOOKS)
    command = [
        *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
        *("-c", os.devnull, f"--rootdir={COPIES}"),  # not the options of our tests
        *("--nbmake", "--overwrite", f"--nbmake-timeout={CELL_TIMEOUT_S}"),
    ]
    with local_cluster(session_folder / "cluster") as cluster:
        environment = dict(os.environ) | cluster.environment
        environment |= {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "CI": "true"}
        # A service of the user's may listen on the usual port. Two replicas of each
        # kind, on three nodes: each costs a machine of two cores seconds.
        environment |= {"DOGGOS_PORT": str(free_ports(1)[0]), "DOGGOS_REPLICAS": "2"}
        log = session_folder / "nbmake.log"
        with open(log, "w") as output:
            ran = subprocess.run(
                [*command, *map(str, copies)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=ALL_TIMEOUT_S,
            )
    if ran.returncode:
        lines = log.read_text().splitlines()[-60:]
        pytest.fail("\n".join([f"nbmake failed; see {COPIES}", *lines]), pytrace=False)
    yield COPIES


@pytest.fixture
def notebook(executed: Path, notebook_path: Path) -> NotebookNode:
    """Return the executed copy of a notebook."""
    return read(executed / notebook_path.name)


def record(folder: Path) -> dict[str, Any]:
    """Read the run.json of a stage."""
    return json.loads((folder / "run.json").read_text())


def needs(name: str) -> pytest.MarkDecorator:
    """Skip, visibly, what belongs to a notebook that isn't written yet."""
    there = any(path.stem == name for path in NOTEBOOKS)
    return pytest.mark.skipif(not there, reason=f"no notebook {name}")


def printed(cell: NotebookNode) -> str:
    """Return what a cell wrote to standard output."""
    return "".join(o["text"] for o in cell.outputs if o.get("name") == "stdout")


def test_every_cell_ran_without_an_error(notebook: NotebookNode) -> None:
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert cells
    for cell in cells:
        assert cell.execution_count, f"{cell.id} didn't run"
        assert not [o for o in cell.outputs if o.output_type == "error"], cell.id
        errors = "".join(o["text"] for o in cell.outputs if o.get("name") == "stderr")
        assert "Traceback" not in errors, f"{cell.id}: {errors[-2000:]}"


def test_it_joined_the_cluster(notebook: NotebookNode) -> None:
    said = "".join(printed(c) for c in notebook.cells if c.cell_type == "code")
    assert "Joined " in said and f"{NODES} nodes, 6 CPUs" in said


def test_exercises_know_untried_wrong_and_right(
    notebook: NotebookNode, notebook_path: Path
) -> None:
    cells = {cell.id: cell for cell in notebook.cells}
    original = read(notebook_path)
    for number, exercise in enumerate(exercises(original), start=1):
        untouched = cells[original.cells[exercise.position + 1].id]
        assert "not tried yet" in printed(untouched), f"exercise {number}"
        assert REJECTED in printed(cells[f"try-{number}-wrong-check"])
        assert "not tried yet" not in printed(cells[f"try-{number}-solution-check"])


@needs("03_embedding")
def test_every_image_is_accounted_for(executed: Path) -> None:
    run = record(Settings().embeddings_dir)
    counts = run["counts"]
    assert counts["manifest"] > 0
    assert counts["embedded"] + counts["errors"] == counts["manifest"]
    assert counts["errors"] == 0  # the sample has no bad image
    # Of the job that the notebook stops, and of the run after it.
    assert sum(run["nodes"].values()) == counts["manifest"] > counts["computed"] > 0


@needs("03_embedding")
def test_embedding_used_the_nodes(executed: Path) -> None:
    nodes = record(Settings().embeddings_dir)["nodes"]
    # How much each did follows from whose worker was ready first in two short runs.
    assert len(nodes) >= MIN_NODES_USED, nodes


@needs("04_training")
def test_training_used_two_nodes_and_all_rows(executed: Path) -> None:
    run, embedded = record(Settings().training_dir), record(Settings().embeddings_dir)
    assert len(run["nodes"]) >= MIN_NODES_USED, run["nodes"]
    assert run["fingerprint"] == embedded["fingerprint"]
    counts = run["counts"]
    assert counts["train_seen"] == counts["train"] > 0
    assert counts["val_seen"] == counts["val"] > 0
    for name in ("linear", "network"):
        mine = [row for row in run["history"] if row["candidate"] == name]
        assert [row["epoch"] for row in mine] == list(range(1, len(mine) + 1))
        assert len(mine) <= run["settings"]["epochs"]
        lowest = min(row["val_loss"] for row in mine)
        assert lowest < mine[0]["val_loss"]
        if name == run["best"]["candidate"]:
            assert run["best"]["val_loss"] == lowest
    assert {row["attempt"] for row in run["history"]} == {1, 2}, "no worker was lost"


@needs("05_evaluation")
def test_accuracy_is_in_bounds(executed: Path) -> None:
    folder = Settings().evaluation_dir
    metrics = json.loads((folder / "metrics.json").read_text())
    chance = metrics["chance"]["uniform"]
    assert max(MIN_TOP1, TIMES_CHANCE * chance) <= metrics["top1"] <= MAX_TOP1
    assert metrics["top1"] <= metrics["top5"] <= 1
    counts = record(folder)["counts"]
    assert counts["predicted"] == counts["test"] > 0
    assert counts["correct"] / counts["test"] == pytest.approx(metrics["top1"])
    # The sample hides ten pairs of copies across its splits.
    assert 9 <= counts["copies"] <= 12


@needs("06_serving")
def test_serving_answered_from_several_nodes(executed: Path) -> None:
    run = record(Settings().serving_dir)
    assert len(run["nodes"]) >= MIN_NODES_USED, run["nodes"]
    assert run["counts"]["failed"] == 0
    assert sum(run["nodes"].values()) == run["counts"]["succeeded"] > 0


def test_the_originals_are_as_they_were(executed: Path) -> None:
    for path in NOTEBOOKS:
        stored = nbformat.read(path, as_version=4)
        assert not any(c.get("outputs") for c in stored.cells), path.name
