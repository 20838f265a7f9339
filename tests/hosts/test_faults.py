"""Hosts that die, networks that break: what becomes of an embedding and a training.

The report, docs/faults.md, is written where DOGGOS_TEST_REPORT says so. Times are of
three hosts on one machine of two cores: they compare with each other and nothing else.
"""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.datasets import dogs
from tests.hosts.hosts import ROOT, needs_hosts
from tests.hosts.launched import PROFILE, TOKEN, UP_S, WORKERS, Launched, launched

pytestmark = [needs_hosts, pytest.mark.long]
EACH = 60  # images a class and split, two classes, three splits
STAGE_S, GONE_S = 420, 90
REPORT = ROOT / "docs" / "faults.md"
HEAD = """# Hosts that die, networks that break

Three hosts (network namespaces) by the Cluster Launcher, on a machine of 2 cores:
a head and two workers. `tests/hosts/test_faults.py` breaks one thing in the middle of a
stage, and this is what came of it, on {day}. An embedding is of {rows} images with a
CLIP ViT-B/32 of random weights; `lost` and `doubled` are rows of its table at the end.

| stage | what happened | what came of it | lost | doubled | s | s without | you do |
|---|---|---|---|---|---|---|---|
"""


@dataclass
class Row:
    """One line of the report."""

    stage: str
    fault: str
    outcome: str
    lost: int
    doubled: int
    seconds: float
    undisturbed: float
    you: str


ROWS: list[Row] = []


@pytest.fixture(scope="module")
def cluster(session_folder: Path) -> Iterator[Launched]:
    with launched(session_folder / "faults") as cluster:
        dogs(cluster.hosts.shared / "dogs", each=EACH)
        model = cluster.hosts.shared / "clip"
        cluster.head.run(f"{sys.executable} {ROOT}/tools/random_clip.py {model}", 120)
        yield cluster
        if ROWS and os.environ.get("DOGGOS_TEST_REPORT"):
            lines = [
                "| " + " | ".join(map(str, asdict(r).values())) + " |" for r in ROWS
            ]
            head = HEAD.format(day=date.today(), rows=6 * EACH)
            REPORT.write_text(head + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def undisturbed(cluster: Launched) -> float:
    """How long an embedding takes where nothing happens."""
    run = Run(cluster, "undisturbed")
    assert run.finish() == 0, run.log.read_text()
    assert run.lost_and_doubled() == (0, 0)
    return run.seconds


class Run:
    """An embedding, started from the head, into a storage of its own."""

    def __init__(self, cluster: Launched, name: str) -> None:
        self.cluster, self.storage = cluster, cluster.hosts.shared / name
        self.log = cluster.head.folder / f"{name}.log"
        self.started = time.monotonic()
        self.start()

    def start(self) -> None:
        shared = self.cluster.hosts.shared
        given = (
            f"--dataset {shared}/dogs --model {shared}/clip --storage {self.storage}"
        )
        command = f"{PROFILE}exec python -m doggos_helpers.embed {given}"
        few = " --embed-batch-size 8 --dtype float32"
        self.process = self.cluster.head.popen(command + few, self.log)

    def files(self) -> list[Path]:
        found = self.storage.glob("*/embeddings/table/*/*.parquet")
        return [file for file in found if not file.name.startswith(".")]

    def wait_until_it_writes(self) -> None:
        deadline = time.monotonic() + STAGE_S
        while len(self.files()) < 2:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def finish(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(STAGE_S)
        self.seconds = time.monotonic() - self.started
        return code

    def lost_and_doubled(self) -> tuple[int, int]:
        paths = Counter[str]()
        for file in self.files():
            paths.update(pq.read_table(file, columns=["path"])["path"].to_pylist())
        [record] = self.storage.glob("*/embeddings/run.json")
        counts = json.loads(record.read_text())["counts"]
        assert counts["embedded"] + counts["errors"] == counts["manifest"] == 6 * EACH
        return 6 * EACH - len(paths), sum(n - 1 for n in paths.values())


def disturbed(
    cluster: Launched,
    undisturbed: float,
    fault: str,
    break_it: Callable[[], None],
    you: str = "nothing",
    mend: Callable[[], None] | None = None,
) -> None:
    """Embed, break something once rows are stored, finish, and count every row."""
    run = Run(cluster, re.sub(r"\W+", "-", fault))
    run.wait_until_it_writes()
    break_it()
    code = run.finish()
    outcome = "went on"
    if code:
        assert mend, run.log.read_text()
        mend()
        run.start()
        assert run.finish() == 0, run.log.read_text()
        outcome = "ended; the same command went on where it stopped"
    lost, doubled = run.lost_and_doubled()
    ROWS.append(
        Row("embed", fault, outcome, lost, doubled, round(run.seconds),
            round(undisturbed), you)
    )  # fmt: skip
    assert (lost, doubled) == (0, 0)


def again(cluster: Launched) -> Callable[[], None]:
    """Switch the head on, and run `ray up` as before."""

    def mend() -> None:
        cluster.head.start()
        cluster.laptop.run("ray up -y --no-config-cache ~/onprem.yaml", UP_S, **TOKEN)
        cluster.wait_for(3, UP_S)

    return mend


def test_a_slow_link(cluster, undisturbed):
    worker = cluster.hosts[WORKERS[0]]
    disturbed(
        cluster, undisturbed, "a slow link, 2 Mbit/s", lambda: worker.slow("2mbit")
    )
    worker.slow("1gbit")


def test_a_worker_host_cut_off_for_20_seconds(cluster, undisturbed):
    def cut() -> None:
        cluster.hosts[WORKERS[0]].cut()
        time.sleep(20)
        cluster.hosts[WORKERS[0]].restore()

    disturbed(cluster, undisturbed, "a worker host cut off for 20 s", cut)


def test_a_worker_host_killed(cluster, undisturbed):
    worker = cluster.hosts[WORKERS[0]]
    disturbed(cluster, undisturbed, "a worker host killed", worker.kill)
    worker.start()
    cluster.wait_for(3, UP_S)  # the launcher starts Ray there again by itself


def test_a_worker_host_cut_off_for_good(cluster, undisturbed):
    worker = cluster.hosts[WORKERS[1]]
    disturbed(cluster, undisturbed, "a worker host cut off for good", worker.cut)
    worker.restore()


def test_the_head_restarted(cluster, undisturbed):
    you = "`ray up` again, then the same command"
    disturbed(
        cluster,
        undisturbed,
        "the head restarted",
        cluster.head.kill,
        you,
        again(cluster),
    )
