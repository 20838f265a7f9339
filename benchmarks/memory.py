"""How much memory each stage takes: does it grow with the number of images?

usage: python -m benchmarks.memory [STAGE[:ROWS[,ROWS...]] ...]

Training, evaluation and search read a made-up table of 1,000 to a million embeddings of
512 numbers; embedding takes the sample's small CLIP and links to drawn dogs, by default
a hundred thousand: a million take hours on two cores (`embed:1000000`). Each runs in a
process of its own, on a Ray that it starts. The figures are the most that the driver,
and that any one worker, held and didn't share with others, in MiB, seen every fifth of
a second. A training worker's budget is set to 64 MiB: by default it is 2 GiB, and a
million rows of two workers would fit.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.search import DIMENSION, write_table
from doggos_helpers.cluster.connect import connected
from doggos_helpers.settings import Settings

RESULTS = Path(__file__).parent / "results" / "memory.json"
TABLES = (1_000, 10_000, 100_000, 1_000_000)
IMAGES = TABLES[:-1]
STAGES = {"train": TABLES, "evaluate": TABLES, "search": TABLES, "embed": IMAGES}
BREEDS, FILE_ROWS, MIB = 16, 4096, 2**20
BUDGET_GIB = 2 * 64 / 1024  # half of it is for vectors


class Watch(threading.Thread):
    """Remember the most that the driver, a worker and the object store held."""

    def __init__(self) -> None:
        """Start to look."""
        super().__init__(daemon=True)
        self.peaks: dict[str, float] = {"driver": 0, "worker": 0}
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Look until it is told to end."""
        here = psutil.Process()
        while not self.ended.wait(0.2):
            for one in [here, *here.children(recursive=True)]:
                try:
                    name = "driver" if one == here else one.cmdline()[0]
                    held = one.memory_full_info().uss / MIB
                except (psutil.Error, IndexError):
                    continue
                kind = "worker" if name.startswith("ray::") else name
                if kind in self.peaks:
                    self.peaks[kind] = max(self.peaks[kind], held)


def prepare(place: Path, stage: str, rows: int) -> Settings:
    """Make what a stage reads."""
    settings = Settings(
        storage=str(place),
        tracking_uri=f"sqlite:///{place}/mlflow.db",
        dataset=str(place / "dogs") if stage == "embed" else "sample",
        epochs=2,
        memory_per_worker=BUDGET_GIB if stage == "train" else None,
    )
    if stage == "embed":
        link_images(place / "dogs", rows)
        return settings
    random = np.random.default_rng(0)
    centres = random.normal(size=(BREEDS, DIMENSION)) / np.sqrt(DIMENSION)
    shape = centres, np.full(DIMENSION, 0.03, np.float32), np.eye(DIMENSION)
    write_table(settings, rows, shape, FILE_ROWS)
    if stage == "evaluate":
        make_champion(settings)
    return settings


def link_images(folder: Path, count: int) -> None:
    """Lay out links to some drawn dogs, all in the split train."""
    from doggos_sample import write_dataset

    drawn = folder.parent / "drawn"
    write_dataset(drawn, images_per_breed=8)
    files = sorted(drawn.rglob("*.jpg"))
    for number in range(count):
        one = files[number % len(files)]
        link = folder / "train" / one.parent.name / f"{number:06}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(one)


def make_champion(settings: Settings) -> None:
    """Register a classifier that has learnt nothing."""
    from doggos_helpers.train.classifier import Classifier, save
    from doggos_helpers.train.registry import register
    from doggos_helpers.train.tracking import tracked_run

    folder = settings.training_dir / "made-up"
    classes = [f"breed_{number:02}" for number in range(BREEDS)]
    about = {"encoder": "made up", "fingerprint": "", "val_loss": 1.0, "epoch": 1}
    save(Classifier(DIMENSION, 64, BREEDS), folder, classes, **about)
    with tracked_run(settings) as run_id:
        register(settings, run_id, folder)


def run(stage: str, settings: Settings) -> None:
    """Run a stage as its command does."""
    if stage == "search":
        from doggos_helpers.search.index import open_index

        index = open_index(settings)
        for seed in range(100):
            vector = np.random.default_rng(seed).normal(size=DIMENSION)
            index.top_k(np.float32(vector / np.linalg.norm(vector)), 10)
        return
    if stage == "train":
        from doggos_helpers.train.stage import check, train

        inputs: Any = check(settings)
        work: Any = train
    elif stage == "evaluate":
        from doggos_helpers.evaluate.stage import check as check_champion
        from doggos_helpers.evaluate.stage import evaluate

        inputs, work = check_champion(settings), evaluate
    else:
        from doggos_helpers.embed.stage import check as check_images
        from doggos_helpers.embed.stage import embed

        inputs, work = check_images(settings), embed
    with connected(settings) as cluster:
        work(inputs, cluster)


def measure(stage: str, rows: int) -> dict[str, Any]:
    """Run one stage at one size, here."""
    with tempfile.TemporaryDirectory(prefix="doggos-memory-") as place:
        settings = prepare(Path(place), stage, rows)
        started, watch = time.monotonic(), Watch()
        run(stage, settings)
        watch.ended.set()
        seconds = time.monotonic() - started
    return {"stage": stage, "rows": rows, "seconds": seconds} | watch.peaks


def main(arguments: list[str]) -> None:
    """Print a table and write the figures."""
    if arguments[:1] == ["--one"]:
        print(json.dumps(measure(arguments[1], int(arguments[2]))))
        return
    figures = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    print(f"{'stage':<10}{'rows':>10}{'seconds':>9}{'driver':>8}{'worker':>8}")
    for argument in arguments or STAGES:
        stage, _, given = argument.partition(":")
        sizes = [int(rows) for rows in given.split(",")] if given else STAGES[stage]
        figures[stage] = [f for f in figures.get(stage, []) if f["rows"] not in sizes]
        for rows in sizes:
            command = [sys.executable, "-m", "benchmarks.memory", "--one"]
            done = subprocess.run(
                [*command, stage, str(rows)], capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(done.stderr)
            one = json.loads(done.stdout.splitlines()[-1])
            figures[stage] = sorted([*figures[stage], one], key=lambda f: f["rows"])
            print(
                f"{stage:<10}{rows:>10,}{one['seconds']:>9.1f}"
                f"{one['driver']:>8.0f}{one['worker']:>8.0f}",
                flush=True,
            )
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
