"""How far an embedding grows: simulated GPUs, and what limits a hundred million images.

usage: python -m benchmarks.scale [SECONDS_A_GPU]

Images are keys, and the model is an actor that sleeps for each batch and holds an
eighth of a logical GPU, on two Ray nodes of this machine. All else is the pipeline as
it is: the manifest is settled, shared out, read by tasks, embedded by the actors, and
written as Parquet with 512 numbers a row. What isn't there is the traffic of pixels.

1. Efficiency: batches of a second on 1, 4, 16 and 32 actors. What the actors slept,
   over actors x time: once from the first batch's start to the last one's end, and once
   while all work, from when the last actor begins until the first one has no more. In
   between two cores start a process for each task and actor, which real nodes do at the
   same time.
2. Where the driver saturates: 32 actors, one batch a block (the worst case: three tasks
   a block), and ever shorter sleeps; a curve is fitted through blocks offered and done.
3. What a part of half a million rows takes to settle.

With these and the rates that other benchmarks measured, a table of hours for a million,
a hundred million and a billion images, and what they wait for. The nodes share this
machine's cores: the figures are a lower bound for a driver with cores of its own.
"""

import json
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from doggos_helpers.data.files import write_parquet
from doggos_helpers.data.images import Preprocessing
from doggos_helpers.data.listing import SCHEMA
from doggos_helpers.data.manifest import part_file
from doggos_helpers.embed import pipeline
from doggos_helpers.embed.settle import settle_one
from doggos_helpers.settings import Settings
from tests.faults import drivers
from tests.faults.kennel import kennel

RESULTS = Path(__file__).parent / "results"
PICTURE = RESULTS.parents[1] / "docs" / "images" / "scale.svg"
LIMIT_S, LEAST_S = 600, 5
GPUS, NODES, PER_GPU = (1, 4, 16, 32), 2, 8
SLEEPS = (2.0, 1.0, 0.5, 0.25)  # of 32 actors, a block each
BATCH, DIMENSION, PART_ROWS, FILE_ROWS = 256, 512, 500_000, 4096
ONE = 16  # rows of a batch where each block is one
SMALL = Preprocessing(shortest_edge=8, crop=(8, 8), resample=3)
GPU_RATE = 2000  # images/s of a ViT-B/32 on one GPU: an assumption, none is here
PIXELS_A_BLOCK = 2**24 // (224 * 224 * 3)
SIZES = (1_000_000, 100_000_000, 1_000_000_000)
# Name, model workers, images/s of each, cores that decode, seconds to start.
MACHINES = (
    ("this machine, 2 cores", 1, None, 1, 15),
    ("1 GPU, 16 cores", 1, GPU_RATE, 8, 60),
    ("8 GPUs, 128 cores", 8, GPU_RATE, 64, 120),
    ("32 GPUs, 512 cores", 32, GPU_RATE, 256, 300),
)


def decode(batch: dict[str, np.ndarray], root: str, preprocessing: Any) -> Any:
    """Make pixels of keys, as a stand-in for `read_and_decode`."""
    count = len(batch["path"])
    pixels = np.ones((count, 8, 8, 3), np.uint8)
    return batch | {"pixels": pixels, "reason": np.array([""] * count, object)}


class Sleeper(pipeline.Embedder):
    """A model that sleeps; it notes when it began and ended with how many rows."""

    def __init__(self, settings: Settings, plan: Any) -> None:
        """Remember how long: a name that the model setting stands for."""
        self.encoder, self.node = self, "somewhere"  # type: ignore[assignment]
        self.reasons, self.max_bad_share = Counter[str](), 1
        self.sleep_s = float(settings.model_revision)
        self.notes = Path(settings.storage, "notes", uuid.uuid4().hex)

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Embed a batch."""
        began = time.time()
        done = super().__call__(batch)
        with self.notes.open("a") as file:
            file.write(f"{began} {time.time()} {len(done)}\n")
        return done

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Sleep."""
        time.sleep(self.sleep_s)
        return np.full((len(pixels), DIMENSION), DIMENSION**-0.5, np.float32)


def run(settings: Settings) -> None:
    """Embed keys. Runs in a forked driver."""
    pipeline.read_and_decode = decode  # type: ignore[assignment]
    if settings.embed_batch_size == ONE:
        pipeline.MAX_BLOCK_ROWS = ONE
    drivers.embed(settings, Sleeper)


def measure(place: Path, start: Any, actors: int, batches: int, **more: Any) -> dict:
    """Embed so many batches by so many actors; say how busy they were."""
    (place / "notes").mkdir(parents=True)
    sleep, batch = more.pop("sleep"), more.pop("batch", BATCH)
    paths = [f"{number:09}.jpg" for number in range(batches * batch)]
    text, one = [""] * len(paths), [1] * len(paths)
    pq.write_table(pa.table([paths, text, text, one, one], SCHEMA), place / "k.parquet")
    settings = Settings(
        dataset=str(place / "k.parquet"),
        storage=str(place),
        model_revision=str(sleep),
        embed_workers=actors,
        embed_batch_size=batch,
        embed_cpus=0.5,
        gpus_per_worker=1 / PER_GPU,
        use_gpu="yes",
        **more,
    )
    began, driver = time.time(), start(settings)
    assert driver.wait(LIMIT_S) == 0, driver.log.read_text()
    whole = time.time() - began
    notes = [np.loadtxt(file, ndmin=2) for file in (place / "notes").iterdir()]
    rows = np.concatenate(notes)
    first, last = rows[:, 0].min(), rows[:, 1].max()
    assert rows[:, 2].sum() == len(paths)
    from_, to = max(n[0, 0] for n in notes), min(n[-1, 1] for n in notes)
    both = np.clip(rows[:, 1], from_, to) - np.clip(rows[:, 0], from_, to)
    share = {"all_work_s": max(0, to - from_)}
    if to - from_ > LEAST_S:
        share["busy"] = both.sum() / (actors * (to - from_))
        done = ((rows[:, 1] > from_) & (rows[:, 1] <= to)).sum()
        share["rate"] = done / (to - from_)
    return {
        "actors": actors,
        "sleep_s": sleep,
        "blocks": len(rows),
        "seconds": last - first,
        "whole_s": whole,
        "efficiency": len(rows) * sleep / (actors * (last - first)),
        "blocks_per_s": len(rows) / (last - first),
        **share,
    }


def time_settling(place: Path) -> float:
    """Return the seconds that a part of half a million stored rows takes."""
    folders = [str(place / name) for name in ("manifest", "table", "left")]
    paths = [f"train/breed_{n % 120:03}/{n:09}.jpg" for n in range(PART_ROWS)]
    text = ["train"] * PART_ROWS
    rows = pa.table([paths, text, text, range(PART_ROWS), range(PART_ROWS)], SCHEMA)
    write_parquet(rows, folders[0], part_file(0))
    for first in range(0, PART_ROWS, FILE_ROWS):
        some = rows[first : first + FILE_ROWS]
        none = pa.nulls(len(some), pa.string())
        some = some.append_column("reason", none).append_column("node", none)
        write_parquet(some, f"{folders[1]}/00000", f"{first}.parquet")
    began = time.perf_counter()
    settle_one(*folders, 0, True)
    return time.perf_counter() - began


def saturated(offered: Any, most: float, bend: float) -> Any:
    """Give blocks/s done for blocks/s offered: no more than either, with a bend."""
    return (offered**-bend + most**-bend) ** (-1 / bend)


def fit(points: list[dict[str, float]]) -> tuple[float, float]:
    """Fit where the driver saturates."""
    from scipy.optimize import curve_fit

    offered = [p["actors"] / max(p["sleep_s"], 1e-3) for p in points]
    done = [p.get("rate", p["blocks_per_s"]) for p in points]
    (most, bend), _ = curve_fit(
        saturated, offered, done, p0=(max(done), 4), bounds=((1, 0.5), (1e5, 20))
    )
    return float(most), float(bend)


def plot(efficient: list[dict], points: list[dict], most: float, bend: float) -> None:
    """Draw both as an SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "doggos"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    gpus = [p["actors"] for p in efficient]
    busy = [p.get("busy", np.nan) for p in efficient]
    left.plot(gpus, busy, "o-", color="#4477aa", label="while all work")
    whole = [p["efficiency"] for p in efficient]
    left.plot(gpus, whole, "s--", color="#4477aa", label="with the start")
    left.set(xscale="log", xticks=gpus, xticklabels=gpus, ylim=(0, 1.05))
    left.set(xlabel="simulated GPUs", ylabel="efficiency, batches of 1 s")
    offered = [p["actors"] / max(p["sleep_s"], 1e-3) for p in points]
    curve = np.geomspace(min(offered), max(offered), 100)
    done = [p.get("rate", p["blocks_per_s"]) for p in points]
    right.plot(offered, done, "o", color="#4477aa")
    label = f"fitted: at most {most:.0f} blocks/s"
    right.plot(curve, saturated(curve, most, bend), color="#ee6677", label=label)
    right.plot(curve, curve, color="grey", ls=":", label="as offered")
    right.set(xscale="log", ylim=(0, 2 * most), xticks=offered)
    right.set_xticklabels([f"{rate:.0f}" for rate in offered])
    right.minorticks_off()
    right.set(xlabel="blocks/s that 32 actors could do", ylabel="blocks/s done")
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None})


def hours(most: float, settle_s: float) -> list[dict[str, Any]]:
    """Say how long sizes take on machines, and what they wait for.

    Of the driver's blocks/s one is a block of 16 MiB of pixels.
    """
    embedded = json.loads((RESULTS / "embed.json").read_text())
    listed = json.loads((RESULTS / "manifest.json").read_text())[1]
    per_core = embedded["decode_per_s"]
    here = embedded["medians"]["d bfloat16"]["steady"]
    table = []
    for name, workers, rate, cores, start_s in MACHINES:
        for images in SIZES:
            rates = {
                "the model": workers * (rate or here),
                "decoding": cores * per_core,
                "the driver": most * PIXELS_A_BLOCK,
            }
            slowest = min(rates, key=lambda what: rates[what])
            listing = images * listed["seconds"] / listed["rows"]
            settling = 2 * images / PART_ROWS * settle_s / 4  # four parts at a time
            seconds = {
                slowest: images / rates[slowest],
                "listing": listing,
                "settling": settling,
                "starting": start_s,
            }
            total = sum(seconds.values())
            longest = max(seconds, key=lambda what: seconds[what])
            table.append(
                {
                    "machine": name,
                    "images": images,
                    "hours": total / 3600,
                    "waits for": longest,
                    "share": seconds[longest] / total,
                }
            )
    return table


def main(seconds: int = 80) -> None:
    """Measure, print the tables, draw the plot, and write the results."""
    with (
        tempfile.TemporaryDirectory(prefix="doggos-scale-") as folder,
        kennel(Path(folder, "kennel"), NODES, 10, GPUS[-1] // PER_GPU // NODES) as pack,
    ):
        place = Path(folder)
        settle_s = time_settling(place)
        print(f"a part of {PART_ROWS:,} rows settles in {settle_s:.1f} s")
        serve = "benchmarks.scale", "--serve"
        with drivers.drivers(pack.environment, place / "logs", *serve) as start:
            efficient, points = [], []
            for actors in GPUS:
                at, batches = place / f"gpus-{actors}", actors * seconds
                efficient.append(measure(at, start, actors, batches, sleep=1.0))
                show(efficient[-1])
            for sleep in SLEEPS:
                blocks = int(GPUS[-1] * max(8, min(20 / max(sleep, 0.1), 80)))
                more = {"batch": ONE, "sleep": sleep}
                at = place / f"sleep-{sleep}"
                points.append(measure(at, start, GPUS[-1], blocks, **more))
                show(points[-1])
    most, bend = fit(points)
    plot(efficient, points, most, bend)
    table = hours(most, settle_s)
    print(f"the driver saturates at {most:.0f} blocks/s")
    for row in table:
        print(
            f"{row['machine']:<24}{row['images']:>15,}{row['hours']:>10.2f} h"
            f"  {row['share']:4.0%} {row['waits for']}"
        )
    about = {"batch": BATCH, "settle_s": settle_s, "saturates": most, "bend": bend}
    about |= {"efficiency": efficient, "driver": points, "hours": table}
    (RESULTS / "scale.json").write_text(json.dumps(about, indent=1) + "\n")


def show(one: dict[str, float]) -> None:
    """Print a measurement."""
    print(*(f"{k} {v:.3g}" for k, v in one.items()), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        import ray  # noqa: F401

        import doggos_helpers.embed.stage  # noqa: F401

        drivers.serve(run)
    else:
        main(*map(int, sys.argv[1:]))
