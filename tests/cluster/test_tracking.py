"""A real MLflow server, logged to by a training on two nodes, and one that is away."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from doggos_helpers.settings import Settings
from doggos_helpers.train.registry import champion
from doggos_helpers.train.tracking import open_tracking
from tests.faults.case import Place
from tests.faults.test_interrupts import Command, running
from tests.processes import end, family
from tests.synthetic import write_embeddings
from tools.local_cluster import (
    LocalCluster,
    clean_environment,
    free_ports,
    local_cluster,
)

EPOCHS, START_S, TRAIN_S, AWAY_S = 8, 120, 400, 60
OPTIONS = (f"--epochs={EPOCHS}", "--patience=0", "--train-batch-size=64")


class Server:
    """`mlflow server` with a database of its own, as a team would run it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_ports(1)[0]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = f"sqlite:///{self.folder}/server.db"
        command = [sys.executable, "-m", "mlflow", "server", f"--port={self.port}"]
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(
                [*command, "--backend-store-uri", store, "--workers=1"],
                cwd=self.folder,
                env=clean_environment(),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), urlopen(f"{self.uri}/health") as reply:
                assert reply.status == 200
                return
            log_text = (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline and self.process.poll() is None, log_text
            time.sleep(0.2)

    def stop(self) -> None:
        assert self.process
        end(family(self.process.pid))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    served = Server(tmp_path)
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("nodes"), workers=1) as cluster:
        yield cluster


@contextlib.contextmanager
def training(
    server: Server, nodes: LocalCluster, folder: Path
) -> Iterator[tuple[Command, Settings]]:
    """Run `train` on the nodes, logging to the server."""
    storage = str(folder / "storage")
    settings = Settings(storage=storage, tracking_uri=server.uri)
    write_embeddings(settings, train=12_001, val=1_001, dimension=64, noise=2.0)
    variables = {"DOGGOS_STORAGE": storage, "DOGGOS_TRACKING_URI": server.uri}
    place = Place(folder, {**nodes.environment, **variables})
    with running(place, "train", *OPTIONS) as command:
        yield command, settings


def logged(settings: Settings) -> dict[str, Any]:
    """Return the run record; the server must hold every figure of its history."""
    record = json.loads((settings.training_dir / "run.json").read_text())
    client = open_tracking(settings.tracking)
    for name in ("linear", "network"):
        for figure in ("train_loss", "val_loss", "val_accuracy"):
            history = client.get_metric_history(
                record["mlflow_run"], f"{name}/{figure}"
            )
            found = sorted((metric.step, metric.value) for metric in history)
            mine = [row for row in record["history"] if row["candidate"] == name]
            assert found == [(row["epoch"], row[figure]) for row in mine]
    run = client.get_run(record["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best_val_loss"] == record["best"]["val_loss"]
    return record


@pytest.mark.long
def test_a_training_on_two_nodes_logs_to_a_server(server, nodes, tmp_path) -> None:
    with training(server, nodes, tmp_path) as (command, settings):
        assert command.process.wait(TRAIN_S) == 0, command.said()
    record = logged(settings)
    assert len(record["nodes"]) == 2 and len(record["history"]) == 2 * EPOCHS
    found = champion(settings)
    assert found.champion and str(found.folder) == record["classifier"]


@pytest.mark.long
def test_a_server_that_is_away_for_a_minute_loses_nothing(
    server, nodes, tmp_path
) -> None:
    with training(server, nodes, tmp_path) as (command, settings):
        runs = settings.training_dir / "runs"
        command.wait_for(lambda: list(runs.glob("*/checkpoint_*")))
        server.stop()
        back = threading.Timer(AWAY_S, server.start)
        back.start()
        assert command.process.wait(TRAIN_S) == 0, command.said()
        back.join()
    assert len(logged(settings)["history"]) == 2 * EPOCHS
