"""Ctrl-C in the middle of a command, and the same command again."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.artefacts import read_json
from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.embed.table import table_folder
from doggos_helpers.evaluate.prediction import read_predictions
from doggos_helpers.settings import Settings
from doggos_helpers.train.registry import versions
from doggos_helpers.train.tracking import open_tracking
from tests.faults import services
from tests.faults.case import Place
from tests.processes import at_a_terminal, end, family
from tests.synthetic import write_embeddings
from tools.local_cluster import free_ports

START_S, END_S = 300, 60
GO_ON = "Interrupted. Run the same command to go on."
EACH, EPOCHS = 60, 12


@dataclass
class Command:
    """A command that runs in a process group of its own, as in a terminal."""

    process: "subprocess.Popen[bytes]"
    log: Path
    started: list[psutil.Process] = field(default_factory=list)

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + START_S
        while not happened():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def wait_for_words(self, words: str) -> None:
        self.wait_for(lambda: words in self.said())

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit code once it and its children are gone."""
        self.started = family(self.process.pid)[1:]
        os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(END_S)
        _, left = psutil.wait_procs(self.started, timeout=END_S)
        assert not left
        assert "Traceback" not in self.said(), self.said()
        return code


@pytest.fixture
def place(tmp_path: Path, cluster_variables: Mapping[str, str]) -> Place:
    (tmp_path / "here").mkdir()
    own = {
        "DOGGOS_STORAGE": str(tmp_path / "storage"),
        "DOGGOS_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    return Place(tmp_path / "here", {**cluster_variables, **own})


@contextlib.contextmanager
def running(place: Place, stage: str, *options: str) -> Iterator[Command]:
    log = place.folder / f"{time.monotonic()}.log"
    with open(log, "wb") as output:
        process = at_a_terminal(
            [sys.executable, "-m", f"doggos_helpers.{stage}", *options],
            env=os.environ | place.environment | {"PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    command = Command(process, log)
    try:
        yield command
    finally:
        running = family(process.pid) if process.poll() is None else []
        end([*command.started, *running])


def finish(place: Place, stage: str, *options: str) -> str:
    with running(place, stage, *options) as command:
        assert command.process.wait(START_S) == 0, command.said()
        return command.said()


def drafts(folder: Path) -> list[Path]:
    """Return what a write that was cut short would leave."""
    return [p for p in folder.rglob(".*") if p.is_file() and "crc" not in p.suffix]


def draw(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("beagle", "corgi"):
            (folder / split / name).mkdir(parents=True)
            for i in range(EACH):
                pixels = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def test_embed_goes_on_where_it_was_interrupted(place: Place) -> None:
    data = draw(place.folder / "dogs")
    settings = Settings(dataset=str(data), storage=str(place.storage))
    options = (f"--dataset={data}", "--embed-batch-size=4")
    folder = settings.embeddings_dir
    with running(place, "embed", *options) as command:
        command.wait_for(lambda: list(folder.glob("table/*/*.parquet")))
        assert command.interrupt() == 130
        assert command.said().rstrip().endswith(GO_ON)
    assert not (folder / "run.json").exists()
    manifest = build_manifest(settings)
    stored = pq.read_table(table_folder(settings))
    assert 0 < stored.num_rows < manifest.rows

    finish(place, "embed", *options)
    counts = read_json(folder / "run.json", "03_embedding")["counts"]
    assert counts["embedded"] == counts["manifest"] == 6 * EACH
    assert counts["computed"] == counts["manifest"] - stored.num_rows
    done = pq.read_table(table_folder(settings))["path"].to_pylist()
    assert sorted(done) == manifest.table["path"].to_pylist()
    assert not drafts(folder)


@pytest.mark.long
def test_the_series_goes_on_after_its_notebook_was_interrupted(place: Place) -> None:
    data, out = draw(place.folder / "dogs"), place.folder / "out"
    settings = Settings(dataset=str(data), storage=str(place.storage))
    options = (f"--dataset={data}", f"--out={out}", "--only=03", "--embed-batch-size=4")
    with running(place, "batch", *options) as command:
        pending = settings.embeddings_dir
        command.wait_for(lambda: list(pending.glob("pending/**/*.parquet")))
        assert command.interrupt() == 130
        assert command.said().rstrip().endswith(GO_ON)
    assert not (settings.embeddings_dir / "run.json").exists()

    assert f"The executed notebooks are in {out}" in finish(place, "batch", *options)
    counts = read_json(settings.embeddings_dir / "run.json", "03_embedding")["counts"]
    assert counts["embedded"] == counts["manifest"] == 6 * EACH
    assert not drafts(settings.embeddings_dir)


@pytest.mark.long
def test_the_sample_is_drawn_to_the_end_by_the_next_command(place: Place) -> None:
    out = place.folder / "drawn"
    options = ("--images-per-breed=60", f"--out={out}")
    with running(place, "sample", *options) as command:
        command.wait_for(lambda: list(place.folder.glob("**/*.jpg")))
        assert command.interrupt() == 130
        assert command.said().rstrip().endswith(GO_ON)
    finish(place, "sample", *options)
    images = [p for p in out.rglob("*.*") if p.suffix in (".jpg", ".png", ".webp")]
    assert len(images) == pq.read_metadata(out / "attributes.parquet").num_rows == 960
    assert not drafts(place.folder)


@pytest.mark.long
def test_train_goes_on_where_it_was_interrupted(place: Place) -> None:
    """In one MLflow run; `test_training_kills` compares the figures."""
    settings = services.settings_of(place)
    write_embeddings(settings, train=12_001, val=1_001, dimension=64, noise=2.0)
    options = (f"--epochs={EPOCHS}", "--patience=0")
    with running(place, "train", *options) as command:
        runs = settings.training_dir / "runs"
        command.wait_for(lambda: list(runs.glob("*/checkpoint_*/state.pt")))
        assert command.interrupt() == 130
        assert command.said().rstrip().endswith(GO_ON)
    assert not (settings.training_dir / "run.json").exists()
    assert versions(settings) == [] and statuses(settings) == ["KILLED"]

    assert "Going on with the training" in finish(place, "train", *options)
    assert [v.champion for v in versions(settings)] == [True]
    record = read_json(settings.training_dir / "run.json", "04_training")
    assert record["counts"]["train_seen"] == record["counts"]["train"] == 12_001
    assert len(record["history"]) == 2 * EPOCHS
    assert {row["attempt"] for row in record["history"]} == {1, 2}
    assert statuses(settings) == ["FINISHED"]


def statuses(settings: Settings) -> list[str]:
    """Return how the runs that MLflow knows of ended."""
    client = open_tracking(settings.tracking)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return [run.info.status for run in client.search_runs(experiments)]


@pytest.mark.long
def test_evaluate_leaves_nothing_half_written(place: Place) -> None:
    services.champion(place)
    settings = services.settings_of(place)
    with running(place, "evaluate") as command:
        command.wait_for_words("Joined")
        time.sleep(1)  # it makes its workers now, and takes longer than that
        assert command.interrupt() == 130
        assert command.said().rstrip().endswith(GO_ON)
    assert not list(settings.evaluation_dir.glob("*"))

    finish(place, "evaluate")
    record = read_json(settings.evaluation_dir / "run.json", "05_evaluation")
    counts = record["counts"]
    assert counts["test"] == counts["predicted"] == len(read_predictions(settings))
    assert not drafts(settings.evaluation_dir)


@pytest.mark.long
def test_serve_takes_its_app_away(place: Place) -> None:
    services.embedded(place)
    port = free_ports(1)[0]
    options = (f"--champion={services.classifier(place)}", f"--port={port}")
    health = f"http://127.0.0.1:{port}/healthz"
    with running(place, "serve", *options) as command:
        command.wait_for_words("Joined")
        time.sleep(3)  # Serve starts now; the app needs longer than that
        assert command.interrupt() == 130
        assert command.said().rstrip().endswith(GO_ON)
    with pytest.raises(httpx.ConnectError):
        httpx.get(health)

    with running(place, "serve", *options) as command:
        command.wait_for_words("Ctrl-C stops it.")
        assert httpx.get(health).json()["status"] == "ok"
        with running(place, "serve", *options) as other:  # it runs already
            other.wait_for_words("Ctrl-C stops it.")
            assert "The app doggos runs already: it is updated." in other.said()
            assert httpx.get(health).json()["status"] == "ok"
            assert other.interrupt() == 0
        assert command.interrupt() == 0
        assert command.said().rstrip().endswith("Stopping.")
    with pytest.raises(httpx.ConnectError):
        httpx.get(health)
