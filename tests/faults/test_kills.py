"""SIGKILL in the middle of an embedding, and the same command again.

``DOGGOS_TEST_EMBED_KILLS=200 pytest -m long tests/faults/test_kills.py -k many`` kills
as often; DOGGOS_TEST_KILL_SEED is the first seed, and DOGGOS_TEST_KILL_REPORT a CSV
file that is added to.
"""

import bisect
import csv
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.artefacts import read_json
from doggos_helpers.cluster.plan import StagePlan
from doggos_helpers.embed.pipeline import block_rows
from doggos_helpers.embed.table import table_folder
from doggos_helpers.settings import Settings
from tests.faults.case import Place
from tests.faults.datasets import dogs
from tests.faults.drivers import SLEEP_S, Driver, begun, drivers
from tests.faults.kennel import Kennel, kennel, kill_writer
from tests.faults.test_interrupts import START_S, drafts, running

EACH, BATCH, WORKERS = 300, 4, 3
ROWS = 6 * EACH
KINDS = ("driver", "writer", "worker", "node")
COMMAND_EACH = 60
Start = Callable[[Settings], Driver]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return dogs(tmp_path_factory.mktemp("kills") / "dogs", each=EACH)


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Iterator[Kennel]:
    """A head and two nodes, on which three workers embed."""
    with kennel(tmp_path_factory.mktemp("kennel"), 2, **{SLEEP_S: "0.1"}) as made:
        yield made


@pytest.fixture(scope="module")
def start(pack, tmp_path_factory) -> Iterator[Start]:
    with drivers(pack.environment, tmp_path_factory.mktemp("logs")) as function:
        yield function


def settings_of(data: Path, storage: Path) -> Settings:
    storage.mkdir()
    return Settings(
        dataset=str(data),
        storage=str(storage),
        embed_batch_size=BATCH,
        embed_workers=WORKERS,
    )


def files(settings: Settings) -> list[Path]:
    found = Path(table_folder(settings)).glob("*/*.parquet")
    return [path for path in found if not path.name.startswith(".")]


def paths(settings: Settings) -> Counter[str]:
    """Count each path of the table as readers see it: every file is whole."""
    counted: Counter[str] = Counter()
    for file in files(settings):
        counted.update(pq.read_table(file, columns=["path"])["path"].to_pylist())
    return counted


def check_whole(settings: Settings, data: Path) -> None:
    """Each image is there once, with its own embedding, and nothing else is."""
    table = pq.read_table(table_folder(settings)).to_pandas()
    there = sorted(str(p.relative_to(data)) for p in data.rglob("*.jpg"))
    assert sorted(table.path) == there
    for path, embedding in zip(table.path, table.embedding, strict=True):
        with Image.open(data / path) as image:
            mean = np.array(image).mean((0, 1))
        assert embedding @ mean / np.linalg.norm(mean) > 0.999, path
    counts = read_json(settings.embeddings_dir / "run.json", "03_embedding")["counts"]
    assert counts["embedded"] == counts["manifest"] == len(there)
    assert not drafts(settings.embeddings_dir)


@dataclass
class Kill:
    """What was killed when, and what that cost.

    `again` are the images with which the model began once more, up to the next kill;
    `stored_again` are those of them that had been in the table by then.
    """

    round: int
    number: int
    kind: str
    what: str
    second: float
    stored: int
    again: int = 0
    stored_again: int = 0
    result: str = "exactly once"
    at: float = field(default=0, repr=False)
    table: frozenset[str] = field(default=frozenset(), repr=False)


def kill(kind: str, pack: Kennel, driver: Driver, table: Path, random: Random) -> str:
    """Kill something; say what, or nothing where there was none."""
    if kind == "driver":
        driver.kill()
        return "driver"
    if kind == "writer":
        return kill_writer(table)
    return pack.kill_node(random) if kind == "node" else pack.kill_worker(random)


def one_round(
    number: int,
    most: int,
    settings: Settings,
    pack: Kennel,
    start: Start,
    kinds: Sequence[str] = KINDS,
) -> list[Kill]:
    """Embed a data set, and kill one thing after the other until all is embedded."""
    random, kills, table = Random(number), [], Path(table_folder(settings))
    record = settings.embeddings_dir / "run.json"
    began, driver, seen = time.time(), start(settings), 0
    while True:
        after, pause = seen + random.randint(1, 3), random.uniform(0, 1)
        while len(files(settings)) < after and not driver.ended():
            time.sleep(0.02)
        time.sleep(pause)
        if driver.ended() or record.exists() or len(kills) == most:
            break
        kind = random.choice(kinds)
        if kind == "node":
            pack.wait()
        stored, seen, at = paths(settings), len(files(settings)), time.time()
        if what := kill(kind, pack, driver, table, random):
            at = time.time()
            one = Kill(number, len(kills), kind, what, at - began, stored.total())
            kills.append(replace(one, at=at, table=frozenset(stored)))
        assert not stored or max(stored.values()) == 1, "a row is doubled"
        if kind == "driver":
            driver = start(settings)
    assert driver.wait() == 0, driver.log.read_text()
    attribute(kills, begun(Path(settings.storage)))
    return kills


def attribute(kills: list[Kill], noted: list[tuple[float, str]]) -> None:
    """Count what was begun again after each kill, and before the next one."""
    times, seen = [one.at for one in kills], set()
    for at, path in noted:
        if path in seen:
            place = bisect.bisect(times, at) - 1
            assert place >= 0, f"{path} was embedded twice, and nothing was killed"
            kills[place].again += 1
            kills[place].stored_again += path in kills[place].table
        seen.add(path)


def block() -> int:
    """How many images a worker has at a time."""
    stage = StagePlan(WORKERS, 1, 1, 0, 1, BATCH, "float32")
    return block_rows(ROWS, stage)


def check_cost(kills: list[Kill]) -> None:
    """At most a block an actor, of those that the kill may have hit.

    A driver's death is that of all actors; a node's, of those on it, and of the blocks
    that lay there embedded and not yet in a file.
    """
    actors = {"driver": WORKERS, "node": WORKERS, "worker": 1, "writer": 0}
    for one in kills:
        assert one.again <= actors[one.kind] * block(), one


def check_stored(kills: list[Kill]) -> None:
    """What is in the table stays, but for what a lost node had not yet reported.

    How much is begun again beyond that depends on how much waits to be written.
    """
    nodes = stored_again = 0
    for one in kills:
        nodes += one.kind == "node"
        stored_again += one.stored_again
        assert stored_again <= nodes * WORKERS * block(), one


def report(kills: list[Kill]) -> None:
    """Print the kills, and add them to the report."""
    names = [f.name for f in fields(Kill) if f.repr]
    rows = [[getattr(one, name) for name in names] for one in kills]
    for row in rows:
        print(*row, sep=" | ", flush=True)
    if file := os.environ.get("DOGGOS_TEST_KILL_REPORT"):
        with open(file, "a", newline="") as out:
            writer = csv.writer(out)
            if not out.tell():
                writer.writerow(names)
            writer.writerows(
                [f"{v:.1f}" if isinstance(v, float) else v for v in r] for r in rows
            )


@pytest.mark.long
def test_many_kills_of_an_embedding_whose_model_sleeps(
    tmp_path, data, pack, start
) -> None:
    wanted = int(os.environ.get("DOGGOS_TEST_EMBED_KILLS", "12"))
    number, done = int(os.environ.get("DOGGOS_TEST_KILL_SEED", "0")), 0
    while done < wanted:
        settings = settings_of(data, tmp_path / str(number))
        kills = one_round(number, wanted - done, settings, pack, start)
        check_whole(settings, data)
        report(kills)
        check_stored(kills)
        done, number = done + len(kills), number + 1


@pytest.mark.long
def test_two_at_once_of_which_one_is_killed(tmp_path, data, pack, start) -> None:
    """The second waits, and ends what the first began; with a model that sleeps."""
    settings = settings_of(data, tmp_path / "storage")
    first = start(settings)
    while not files(settings):
        assert not first.ended(), first.log.read_text()
        time.sleep(0.02)
    second = start(settings)
    while "Waiting for another embed" not in second.log.read_text():
        assert not second.ended(), second.log.read_text()
        time.sleep(0.02)
    first.kill()
    assert second.wait() == 0, second.log.read_text()
    check_whole(settings, data)


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_loses_and_doubles_nothing_with_a_model_that_sleeps(
    seed, tmp_path, data, pack, start
) -> None:
    settings = settings_of(data, tmp_path / "storage")
    kills = one_round(seed, 1, settings, pack, start, KINDS[seed : seed + 1])
    check_whole(settings, data)
    check_cost(kills)
    report(kills)
    assert len(kills) == 1, "nothing was killed"


@pytest.mark.long
def test_the_command_goes_on_where_it_was_killed(tmp_path, pack) -> None:
    """As a user runs it, with the model of the sample."""
    data = dogs(tmp_path / "dogs", each=COMMAND_EACH)
    storage = {"DOGGOS_STORAGE": str(tmp_path / "storage")}
    place = Place(tmp_path, {**pack.environment, **storage})
    settings = Settings(dataset=str(data), storage=str(place.storage))
    options = (f"--dataset={data}", "--embed-batch-size=4", "--embed-workers=1")
    with running(place, "embed", *options) as command:
        command.wait_for(lambda: len(files(settings)) >= 2)
        os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait(START_S)
    assert not (settings.embeddings_dir / "run.json").exists()
    stored, there = (
        paths(settings),
        {str(p.relative_to(data)) for p in data.rglob("*.jpg")},
    )
    with running(place, "embed", *options) as command:
        assert command.process.wait(START_S) == 0, command.said()
    counts = read_json(settings.embeddings_dir / "run.json", "03_embedding")["counts"]
    assert counts["embedded"] == counts["manifest"] == len(there)
    assert 0 < counts["computed"] <= len(there) - stored.total() < len(there)
    assert paths(settings) == dict.fromkeys(there, 1)
    assert not drafts(settings.embeddings_dir)
