"""SIGKILL in the middle of an embedding, and the same command again.

``DOGGOS_KILLS=200 python -m pytest -m long tests/faults/test_kills.py`` kills as often.
"""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import pyarrow.parquet as pq
import pytest

from doggos_helpers.artefacts import read_json
from doggos_helpers.embed.table import table_folder
from doggos_helpers.settings import Settings
from tests.faults.case import Place
from tests.faults.datasets import dogs
from tests.faults.test_interrupts import START_S, Command, drafts, running
from tests.processes import family
from tools.local_cluster import LocalCluster, local_cluster

EACH = 120
KINDS = ("driver", "write", "worker")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return dogs(tmp_path_factory.mktemp("kills") / "dogs", each=EACH)


@pytest.fixture(scope="module")
def kennel(tmp_path_factory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("kennel"), workers=1) as cluster:
        yield cluster


@pytest.fixture
def place(tmp_path: Path, kennel: LocalCluster) -> Place:
    variables = {"DOGGOS_STORAGE": str(tmp_path / "storage")}
    return Place(tmp_path, {**kennel.environment, **variables})


def files(table: Path) -> list[Path]:
    return [p for p in table.glob("*/*.parquet") if not p.name.startswith(".")]


def workers_of(cluster: LocalCluster, since: float) -> list[psutil.Process]:
    """Return the processes that read, decode, embed or write since a time."""
    found = []
    for pid, _ in cluster.processes:
        for process in family(pid):
            try:
                title = process.cmdline()[0]
                if title.startswith("ray::") and process.create_time() > since:
                    found.append(process)
            except (psutil.Error, IndexError):
                continue
    return found


def kill(kind: str, command: Command, cluster: LocalCluster, random: Random) -> str:
    """Kill the driver's group, a worker, or a whole node; say what it was."""
    if kind == "driver":
        os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait(START_S)
        return "driver"
    if kind == "node":
        for process in reversed(family(cluster.processes[1][0])):
            process.kill()
        return "node"
    # Those of an earlier run have ended, or are idle.
    names = {p: p.cmdline()[0] for p in workers_of(cluster, 0) if p.is_running()}
    busy = sorted((p for p, n in names.items() if "Map" in n or "Write" in n), key=hash)
    assert busy, names
    victim = random.choice(busy)
    victim.kill()
    return names[victim]


def kill_a_writer(table: Path) -> str:
    """Kill the next process that writes a file: a draft, which names it, has begun."""
    until = time.monotonic() + START_S  # a draft lives for milliseconds
    while time.monotonic() < until:
        for draft in table.glob("*/.*"):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int(draft.name.rpartition(".")[2]), signal.SIGKILL)
                return "writer, half a file" if draft.exists() else "writer"
    raise AssertionError("nothing was written any more")


def one_kill(
    kind: str, random: Random, place: Place, data: Path, cluster: LocalCluster
) -> str:
    """Embed, kill at a random moment, embed again, and look at every row."""
    settings = Settings(dataset=str(data), storage=str(place.storage))
    table = Path(table_folder(settings))
    options = (f"--dataset={data}", "--embed-batch-size=4")
    after = random.randint(1, 7)
    with running(place, "embed", *options) as command:
        command.wait_for(lambda: len(files(table)) >= after)
        if kind == "write":
            what = kill_a_writer(table)
        else:
            what = kill(kind, command, cluster, random)
        if what != "driver":  # Ray starts it again, and the job goes on by itself
            assert command.process.wait(START_S) == 0, command.said()
    whole = (settings.embeddings_dir / "run.json").exists()
    assert whole == (what != "driver")
    stored = sum(pq.read_metadata(file).num_rows for file in files(table))
    with running(place, "embed", *options) as command:
        assert command.process.wait(START_S) == 0, command.said()
    counts = read_json(settings.embeddings_dir / "run.json", "03_embedding")["counts"]
    rows = 6 * EACH
    assert counts["embedded"] == counts["manifest"] == rows
    paths = Counter(pq.read_table(table)["path"].to_pylist())
    there = {str(p.relative_to(data)) for p in data.rglob("*.jpg")}
    assert set(paths) == there and set(paths.values()) == {1}
    assert not drafts(table)
    assert stored == rows if whole else counts["computed"] == rows - stored
    return f"{what} after {after} files: {stored} rows stored"


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_a_kill_loses_and_doubles_nothing(seed, place, data, kennel) -> None:
    print(one_kill(KINDS[seed], Random(seed), place, data, kennel))


@pytest.mark.long
def test_a_lost_node_loses_and_doubles_nothing(tmp_path, data) -> None:
    with local_cluster(tmp_path / "cluster", workers=1) as cluster:
        variables = {"DOGGOS_STORAGE": str(tmp_path / "storage")}
        place = Place(tmp_path, {**cluster.environment, **variables})
        print(one_kill("node", Random(0), place, data, cluster))


@pytest.mark.long
def test_many_kills_lose_and_double_nothing(tmp_path, data, kennel) -> None:
    count = int(os.environ.get("DOGGOS_KILLS", "6"))
    for seed in range(count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        variables = {"DOGGOS_STORAGE": str(folder / "storage")}
        place = Place(folder, {**kennel.environment, **variables})
        kind = KINDS[seed % len(KINDS)]
        print(
            f"{seed}: {one_kill(kind, Random(seed), place, data, kennel)}", flush=True
        )
