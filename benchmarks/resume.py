"""What a kill costs: this project's way to go on, and Ray Data's checkpoints.

usage: python -m benchmarks.resume [KEYS]

The same made-up work, killed at the same moments and started again, goes through

- ours: `embed`, which compares the table with the manifest and computes what it lacks;
- Ray Data's: `read_parquet` -> decode -> embed -> `write_parquet`, under
  `CheckpointConfig(id_column="path", delete_checkpoint_on_success=False)`.

Images are keys, and the model sleeps for each batch. Three workers of one logical CPU,
on a head and two nodes of two, begin with blocks of the same size. A kill comes as the
model begins with a certain image. Printed are the rows that the table then lacks, has
twice, and that the model began with twice; the seconds from the new start to the end;
and the most CPUs and memory that the job reserved.
"""

import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from doggos_helpers.data.images import Preprocessing
from doggos_helpers.data.listing import SCHEMA
from doggos_helpers.embed import pipeline
from doggos_helpers.embed.table import table_folder
from doggos_helpers.settings import Settings
from tests.faults import drivers
from tests.faults.drivers import SLEEP_S, Driver, begun
from tests.faults.kennel import Kennel, kennel

RESULTS = Path(__file__).parent / "results" / "resume.json"
BATCH, WORKERS, SLEEP = 4, 3, 0.1
DESIGNS = ("ours", "checkpoint")
MOMENTS = (0.2, 0.4, 0.6, 0.8)
SMALL = Preprocessing(shortest_edge=8, crop=(8, 8), resample=3)
GIB = 2**30


def decode(batch: dict[str, np.ndarray], root: str, preprocessing: Any) -> Any:
    """Make pixels of keys, as a stand-in for `read_and_decode`."""
    values = [int(path.partition(".")[0]) % 251 + 1 for path in batch["path"]]
    pixels = np.zeros((len(values), 8, 8, 3), np.uint8) + 1
    pixels[..., 0] = np.array(values)[:, None, None]
    return batch | {"pixels": pixels, "reason": np.array([""] * len(values), object)}


def keys_of(count: int) -> pa.Table:
    """Make up a manifest."""
    paths = [f"{number:06}.jpg" for number in range(count)]
    text, one = [""] * count, [1] * count
    return pa.table([paths, text, text, one, one], SCHEMA)


def run_ours(settings: Settings) -> None:
    """Embed as the command does. Runs in a forked driver."""
    pipeline.read_and_decode = decode  # type: ignore[assignment]
    drivers.embed(settings)


def run_checkpointed(settings: Settings) -> None:
    """Embed under a checkpoint of Ray Data's. Runs in a forked driver."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    from doggos_helpers.cluster.connect import connect

    storage = settings.storage
    drivers.join()
    plan = connect(settings).plan
    stage, context = plan.embed, ray.data.DataContext.get_current()
    context.target_min_block_size = 1  # else all keys are one block
    context.checkpoint_config = CheckpointConfig(
        id_column="path",
        checkpoint_path=f"{storage}/checkpoint",
        delete_checkpoint_on_success=False,
    )
    rows = ray.data.read_parquet(f"{storage}/keys", num_cpus=stage.task_cpus)
    pixels = rows.map_batches(
        decode,
        fn_kwargs={"root": "", "preprocessing": SMALL},
        batch_size=BATCH,
        num_cpus=stage.task_cpus,
    )
    pixels.map_batches(
        drivers.sleeping(pipeline.Embedder),
        fn_constructor_args=(settings, plan),
        compute=ray.data.ActorPoolStrategy(size=stage.workers),
        batch_size=BATCH,
        num_cpus=stage.cpus,
    ).write_parquet(
        table_folder(settings), ray_remote_args={"num_cpus": stage.task_cpus}
    )


def reserving(run: Callable[[Settings], None]) -> Callable[[Settings], None]:
    """Write down, while a driver runs, the most that is reserved on the cluster."""

    def watch(settings: Settings) -> None:
        import ray

        most: Counter[str] = Counter()
        while True:
            time.sleep(0.1)
            if ray.is_initialized():
                have, free = ray.cluster_resources(), ray.available_resources()
                for name in ("CPU", "memory"):
                    most[name] = max(most[name], have.get(name, 0) - free.get(name, 0))
                Path(settings.storage, "reserved").write_text(json.dumps(most))

    def watched(settings: Settings) -> None:
        threading.Thread(target=watch, args=(settings,), daemon=True).start()
        run(settings)

    return watched


def work(place: Path, keys: pa.Table, block: int) -> Settings:
    """Lay the keys out: one file for ours, and a file a block for `read_parquet`."""
    place.mkdir(exist_ok=True)
    (place / "keys").mkdir(exist_ok=True)
    pq.write_table(keys, place / "keys.parquet")
    for first in range(0, len(keys), block):
        file = place / "keys" / f"{first:06}.parquet"
        if not file.exists():
            pq.write_table(keys[first : first + block], file)
    return Settings(
        dataset=str(place / "keys.parquet"),
        storage=str(place),
        embed_batch_size=BATCH,
        embed_workers=WORKERS,
    )


def outcome(settings: Settings, keys: pa.Table, earlier: int = 0) -> dict[str, int]:
    """Count what the table lacks and has twice, and what was begun twice."""
    found = ds.dataset(table_folder(settings), exclude_invalid_files=False)
    paths = Counter(found.to_table(["path"])["path"].to_pylist())
    wanted = set(keys["path"].to_pylist())
    return {
        "lost": len(wanted - set(paths)),
        "doubled": paths.total() - len(paths),
        "again": len(begun(Path(settings.storage))) - len(wanted) - earlier,
    }


def killed(
    kind: str, moment: float, place: Path, keys: pa.Table, block: int, start: Any,
    pack: Kennel,
) -> dict[str, Any]:  # fmt: skip
    """Run, kill at a moment, go on, and look."""
    settings = work(place, keys, block)
    driver: Driver = start(settings)
    while len(begun(place)) < moment * len(keys):
        assert not driver.ended(), driver.log.read_text()
        time.sleep(0.02)
    began = time.time()
    if kind == "driver":
        driver.kill()
        began = time.time()
        driver = start(settings)
    elif kind == "node":
        pack.kill_node(random.Random(0))
    else:
        actors = [
            p for p, title in pack.workers() if "Embedder" in title or "Sle" in title
        ]
        actors[0].kill()
    code = driver.wait()
    result = {"kind": kind, "moment": moment, "code": code}
    result |= {"seconds": time.time() - began, **outcome(settings, keys)}
    reserved = json.loads((place / "reserved").read_text())
    result |= {"CPUs": reserved["CPU"], "GiB": reserved["memory"] / GIB}
    pack.wait()
    return result


def increment(place: Path, keys: pa.Table, block: int, start: Any) -> dict[str, Any]:
    """Run, add a tenth, and run again."""
    settings = work(place, keys[: len(keys) * 10 // 11], block)
    assert start(settings).wait() == 0
    work(place, keys, block)
    began = time.time()
    driver = start(settings)
    code = driver.wait()
    result = {"kind": "new rows", "moment": 1.0, "code": code}
    result |= {"seconds": time.time() - began, **outcome(settings, keys)}
    reserved = json.loads((place / "reserved").read_text())
    return result | {"CPUs": reserved["CPU"], "GiB": reserved["memory"] / GIB}


def main(count: int = 1320) -> None:
    """Kill both designs at the same moments, print a table, and write the results."""
    keys, block, found = keys_of(count), 48, {name: [] for name in DESIGNS}
    with (
        tempfile.TemporaryDirectory(prefix="doggos-resume-") as folder,
        kennel(Path(folder, "kennel"), 2, **{SLEEP_S: str(SLEEP)}) as pack,
    ):
        cases = [("driver", moment) for moment in MOMENTS]
        cases += [("worker", 0.3), ("worker", 0.7), ("node", 0.5), ("new rows", 1)]
        for number, (kind, moment) in enumerate(cases):
            for name in DESIGNS:
                program = "benchmarks.resume", "--serve", name
                logs, place = (
                    Path(folder, f"logs-{name}-{number}"),
                    Path(folder, f"{name}-{number}"),
                )
                with drivers.drivers(pack.environment, logs, *program) as start:
                    if kind == "new rows":
                        one = increment(place, keys, block, start)
                    else:
                        one = killed(kind, moment, place, keys, block, start, pack)
                found[name].append(one)
                shown = {
                    k: round(v, 1) if isinstance(v, float) else v
                    for k, v in one.items()
                }
                print(
                    f"{name:<11}", *(f"{k} {v}" for k, v in shown.items()), flush=True
                )
    about = {"keys": count, "block": block, "workers": WORKERS, "sleep_s": SLEEP}
    RESULTS.write_text(json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        import ray  # noqa: F401

        import doggos_helpers.embed.stage  # noqa: F401

        ways = {"ours": run_ours, "checkpoint": run_checkpointed}
        drivers.serve(reserving(ways[sys.argv[2]]))
    else:
        main(*map(int, sys.argv[1:]))
