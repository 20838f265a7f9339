"""SIGKILL in the middle of a training: it goes on, and ends where it would have.

``DOGGOS_TEST_KILLS=0-19 pytest -m long -s tests/faults/test_training_kills.py`` kills
twenty times and prints what came of each.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from doggos_helpers.artefacts import read_json
from doggos_helpers.settings import Settings
from doggos_helpers.train.tracking import open_tracking
from tests.faults.case import Place
from tests.faults.test_interrupts import START_S, Command, finish, running
from tests.processes import family
from tests.synthetic import write_embeddings
from tools.local_cluster import LocalCluster, local_cluster

KINDS = ("worker", "driver", "node")
EPOCHS = 12  # of each of two candidates
OPTIONS = (f"--epochs={EPOCHS}", "--patience=0", "--train-batch-size=64")
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
WITHIN = 1e-5  # relative: the tolerance of every figure of every epoch


@pytest.fixture(scope="module")
def kennel(tmp_path_factory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("kennel"), workers=1) as cluster:
        yield cluster


def prepared(folder: Path, cluster: LocalCluster) -> tuple[Place, Settings]:
    """Write embeddings of which an epoch takes some tenths of a second."""
    folder.mkdir(exist_ok=True)
    variables = {
        "DOGGOS_STORAGE": str(folder / "storage"),
        "DOGGOS_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    settings = Settings(
        storage=variables["DOGGOS_STORAGE"],
        tracking_uri=variables["DOGGOS_TRACKING_URI"],
    )
    write_embeddings(settings, train=12_001, val=1_001, dimension=64, noise=2.0)
    return Place(folder, {**cluster.environment, **variables}), settings


def history_of(settings: Settings) -> list[dict[str, Any]]:
    return read_json(settings.training_dir / "run.json", "04_training")["history"]


@pytest.fixture(scope="module")
def undisturbed(kennel, tmp_path_factory) -> list[dict[str, Any]]:
    """The figures of a training that nobody disturbs."""
    place, settings = prepared(tmp_path_factory.mktemp("undisturbed"), kennel)
    finish(place, "train", *OPTIONS)
    return history_of(settings)


def after_checkpoints(
    command: Command, settings: Settings, count: int, seen: set[Path]
) -> None:
    """Wait until so many checkpoints were written; old ones are deleted meanwhile."""

    def enough() -> bool:
        seen.update(settings.training_dir.glob("runs/*/checkpoint_*/state.pt"))
        return len({path.parent for path in seen}) >= count

    command.wait_for(enough)


def kill(kind: str, command: Command, cluster: LocalCluster, random: Random) -> None:
    if kind == "driver":
        os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait(START_S)
        return
    if kind == "node":
        for process in reversed(family(cluster.processes[1][0])):
            process.kill()
        return
    workers = []
    for pid, _ in cluster.processes:
        for process in family(pid):
            if "TrainWorker" in " ".join(process.cmdline()[:1]):
                workers.append(process)
    assert len(workers) == 2, workers
    random.choice(workers).kill()


def kills(
    kinds: Sequence[str],
    random: Random,
    folder: Path,
    cluster: LocalCluster,
    undisturbed: list[dict[str, Any]],
) -> str:
    """Train, kill at random moments, go on, and compare every figure."""
    place, settings = prepared(folder, cluster)
    moments = sorted(random.sample(range(1, 2 * EPOCHS - 4), len(kinds)))
    left, seen = list(zip(kinds, moments, strict=True)), set[Path]()
    started, goes_on, ended = time.monotonic(), False, False
    while not ended:
        with running(place, "train", *OPTIONS) as command:
            while left:
                kind, after = left.pop(0)
                after_checkpoints(command, settings, after, seen)
                time.sleep(random.uniform(0, 0.3))
                kill(kind, command, cluster, random)
                if kind == "driver":
                    assert not (settings.training_dir / "run.json").exists()
                    break
            else:  # Ray starts the workers again, and the job goes on
                assert command.process.wait(START_S) == 0, command.said()
                ended = True
            assert ("Going on with the training" in command.said()) == goes_on
        goes_on = True
    history = history_of(settings)
    first = sum(row["attempt"] == 1 for row in history)
    worst = 0.0
    for row, expected in zip(history, undisturbed, strict=True):
        assert [row[k] for k in ("candidate", "epoch", "train_rows", "val_rows")] == [
            expected[k] for k in ("candidate", "epoch", "train_rows", "val_rows")
        ]
        for name in FIGURES:
            worst = max(worst, abs(row[name] / expected[name] - 1))
    assert worst <= WITHIN, worst
    client = open_tracking(settings.tracking)
    [run] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FINISHED"
    logged = client.get_metric_history(run.info.run_id, "network/val_loss")
    assert sorted(m.step for m in logged) == list(range(1, EPOCHS + 1))
    return (
        f"{', '.join(kinds)} killed after epoch {moments}, first gone on with after"
        f" epoch {first}, in {time.monotonic() - started:.0f} s; largest relative"
        f" difference {worst:.1g}"
    )


@pytest.mark.long
def test_many_kills_cost_nothing(tmp_path, kennel, undisturbed) -> None:
    first, last = map(int, os.environ.get("DOGGOS_TEST_KILLS", "0-5").split("-"))
    print(time.strftime("%Y-%m-%d"))
    for seed in range(first, last + 1):
        folder, random = tmp_path / str(seed), Random(seed)
        kind = KINDS[seed % len(KINDS)]
        if kind == "node":
            with local_cluster(tmp_path / f"cluster-{seed}", workers=1) as own:
                told = kills([kind], random, folder, own, undisturbed)
        else:
            told = kills([kind], random, folder, kennel, undisturbed)
        print(f"{seed:>3}: {told}", flush=True)


def test_a_worker_the_driver_and_a_node_killed_cost_nothing(
    tmp_path, kennel, undisturbed
) -> None:
    """The node goes last: no other test has it."""
    print(kills(KINDS, Random(0), tmp_path / "here", kennel, undisturbed))
