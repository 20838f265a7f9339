"""How fast an embedding is, beside a plain loop and beside what most examples show.

One run on one machine, the same JPEGs and the same CLIP ViT-B/32 of random weights:

    python -m benchmarks.embed [IMAGES [REPEATS]]

(a) the forward pass in a plain loop; (b) decoding and forward pass in a plain loop;
(c) `read_images`, a row map, `map_batches` with the whole CLIPModel in float32, PIL and
the processor inside the actor, with the best of some thread counts and batch sizes;
(d) ours: the stage, as the command runs it. They alternate; each figure is the median
of the repeats: images/s of the whole job and from its first batch on, what is left for
the start, the most memory that all processes held, the most that the object store held,
and CPU seconds for 1,000 images. On a machine with a GPU all models are on one.

Beside that, how fast one core decodes, and what reading several files at a time is
worth where each answer takes 50 ms.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from PIL import Image

from doggos_helpers.clip.encoder import ClipEncoder, load_preprocessing
from doggos_helpers.cluster.connect import connect, disconnect
from doggos_helpers.cluster.plan import plan_workers
from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import decode
from doggos_helpers.embed import pipeline, stage
from doggos_helpers.settings import Settings

RESULTS = Path(__file__).parent / "results" / "embed.json"
BATCH, CORES = 32, os.cpu_count() or 1
TRIED = [(threads, batch) for threads in (1, CORES) for batch in (16, 64)]
MIB, LATENCY_S = 2**20, 0.05
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_photos(folder: Path, count: int) -> None:
    """Write JPEGs of 500 to 1200 pixels a side: smooth noise with some grain."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        size = tuple(int(n) for n in random.integers(500, 1201, 2))
        rough = random.integers(0, 256, (24, 24, 3)).astype(np.uint8)
        image = np.asarray(
            Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
        )
        grain = random.integers(-12, 13, image.shape)
        pixels = (image + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=90)


def make_model(folder: Path) -> None:
    """Save a CLIP ViT-B/32 of random weights, with its image processor."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)


class Watch(threading.Thread):
    """Follow memory and CPU time of this process and all that it started."""

    def __init__(self) -> None:
        """Start to look, every half second."""
        super().__init__(daemon=True)
        self.peak, self.store, self.ended = 0, 0.0, threading.Event()
        self.cpu: dict[int, float] = {}
        self.first: dict[int, float] = {}
        self._look()
        self.first = dict(self.cpu)
        self.start()

    def _look(self) -> None:
        here, used = psutil.Process(), 0
        for one in [here, *here.children(recursive=True)]:
            try:
                times = one.cpu_times()
                self.cpu[one.pid] = times.user + times.system
                used += one.memory_full_info().pss
            except psutil.Error:
                continue
        self.peak = max(self.peak, used)
        if ray.is_initialized():
            name = "object_store_memory"
            free = ray.available_resources().get(name, 0.0)
            self.store = max(self.store, ray.cluster_resources()[name] - free)

    def run(self) -> None:
        """Look until it is told to end."""
        while not self.ended.wait(0.5):
            self._look()

    def figures(self, images: int) -> dict[str, float]:
        """End, and say what was seen."""
        self.ended.set()
        self.join()
        self._look()
        spent = sum(self.cpu.values()) - sum(self.first.values())
        return {
            "peak_mib": self.peak / MIB,
            "store_mib": self.store / MIB,
            "cpu_s_per_1000": 1000 * spent / images,
        }


def forward(settings: Settings, dtype: str, paths: list[Path], read: bool) -> list:
    """Return the times after each batch of a plain loop, with or without decoding."""
    encoder = ClipEncoder(settings.model, "", DEVICE, dtype, CORES)
    kind = encoder.preprocessing
    same = np.stack([decode(p.read_bytes(), kind) for p in paths[:BATCH]])
    encoder.encode_images(same)
    ends = [(time.time(), 0)]
    for first in range(0, len(paths), BATCH):
        chosen = paths[first : first + BATCH]
        if read:
            same = np.stack([decode(p.read_bytes(), kind) for p in chosen])
        encoder.encode_images(same[: len(chosen)])
        ends.append((time.time(), len(chosen)))
    return ends


class TimedEmbedder(pipeline.Embedder):
    """Ours, which writes down when each batch was done."""

    def __call__(self, batch: Any) -> Any:
        """Embed a batch."""
        done = super().__call__(batch)
        _tell(len(done))
        return done


def _tell(rows: int) -> None:
    line = f"{time.time()} {rows}\n"
    with open(os.environ["BENCHMARK_TIMES"], "a") as file:
        file.write(line)


def ours(settings: Settings, dtype: str, number: int) -> None:
    """Embed all with the command's own stage, into a table of its own."""
    with tempfile.TemporaryDirectory() as place:
        mine = settings.model_copy(update={"storage": place, "dtype": dtype})
        plan = plan_workers(ray_cluster.nodes, mine)
        cluster = dataclasses.replace(ray_cluster, plan=plan)
        run = stage.embed(stage.check(mine), cluster)
        assert run["counts"]["embedded"] == number, run["counts"]


class FullModel:
    """What most examples show: the whole model, PIL and the processor in the actor."""

    def __init__(self, model: str, threads: int) -> None:
        """Load everything."""
        from transformers import CLIPModel
        from transformers.models.clip import CLIPImageProcessorPil

        torch.set_num_threads(threads)
        self.model = CLIPModel.from_pretrained(model).eval().to(DEVICE)
        self.processor = CLIPImageProcessorPil.from_pretrained(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed a batch of whole images."""
        images = [Image.fromarray(image) for image in batch["image"]]
        with torch.inference_mode():
            inputs = self.processor(images=images, return_tensors="pt").to(DEVICE)
            vectors = self.model.get_image_features(**inputs).pooler_output
        _tell(len(images))
        return {"path": batch["path"], "embedding": vectors.cpu().numpy()}


def usual(folder: Path, model: Path, threads: int, batch: int) -> None:
    """Embed all as most examples do."""
    with tempfile.TemporaryDirectory() as place:
        rows = ray.data.read_images(str(folder), mode="RGB", include_paths=True)
        rows.map(lambda row: {"image": row["image"], "path": row["path"]}).map_batches(
            FullModel,
            fn_constructor_args=(str(model), threads),
            compute=ray.data.ActorPoolStrategy(size=1),
            batch_size=batch,
            num_cpus=1,
            num_gpus=float(DEVICE == "cuda"),
        ).write_parquet(place)


def measure(work: Callable[[], list | None], images: int) -> dict[str, float]:
    """Time a job: all of it, and from the end of its first batch on."""
    times = Path(os.environ["BENCHMARK_TIMES"])
    times.write_text("")
    watch, started = Watch(), time.time()
    ends = work()
    seconds = time.time() - started
    figures = watch.figures(images)
    if ends is None:
        lines = [line.split() for line in times.read_text().splitlines()]
        ends = sorted((float(at), int(rows)) for at, rows in lines)
    steady = sum(rows for _, rows in ends[1:]) / (ends[-1][0] - ends[0][0])
    return {
        "whole": images / seconds,
        "steady": steady,
        "start_up_s": max(0.0, seconds - images / steady),
        **figures,
    }


def reading(folder: Path, model: str) -> dict[str, float]:
    """Say how fast one core decodes, and how long a slow store keeps a task waiting."""
    kind, names = load_preprocessing(model), sorted(p.name for p in folder.iterdir())
    batch = {"path": np.array(names[:64], object)}
    data = [(folder / name).read_bytes() for name in names[:64]]
    started = time.perf_counter()
    for content in data:
        decode(content, kind)
    found = {"decode_per_s": len(data) / (time.perf_counter() - started)}

    def slow(root: str, path: str) -> bytes:
        time.sleep(LATENCY_S)
        return read_bytes(root, path)

    pipeline.read_bytes, readers = slow, pipeline.READERS
    for pipeline.READERS in (1, readers):
        started = time.perf_counter()
        pipeline.read_and_decode(batch, str(folder), kind)
        name = f"{LATENCY_S * 1000:.0f} ms away, {pipeline.READERS} at a time"
        found[f"images/s {name}"] = len(data) / (time.perf_counter() - started)
    pipeline.read_bytes = read_bytes
    return found


def variants(
    settings: Settings, folder: Path, images: int, best: tuple[int, int]
) -> Iterator[tuple[str, Callable[[], list | None]]]:
    """Name what is compared."""
    paths = sorted(folder.iterdir())
    for dtype in ("float32", "bfloat16"):
        yield f"a {dtype}", lambda d=dtype: forward(settings, d, paths, False)
        yield f"b {dtype}", lambda d=dtype: forward(settings, d, paths, True)
        yield f"d {dtype}", lambda d=dtype: ours(settings, d, images)
    yield "c float32", lambda: usual(folder, Path(settings.model), *best)


def main(images: int = 512, repeats: int = 5) -> None:
    """Measure, print a table, and write the results."""
    global ray_cluster
    with tempfile.TemporaryDirectory(prefix="doggos-embed-") as place:
        folder, model = Path(place, "photos"), Path(place, "model")
        os.environ["BENCHMARK_TIMES"] = str(Path(place, "times"))
        make_photos(folder, images)
        make_model(model)
        settings = Settings(
            dataset=str(folder), model=str(model), storage=place, address="local"
        )
        read = reading(folder, str(model))
        for name, figure in read.items():
            print(f"{name:<40}{figure:8.1f}")
        pipeline.Embedder = TimedEmbedder  # type: ignore[misc]
        ray_cluster = connect(settings)
        print(ray_cluster.plan)
        tried = {
            at: measure(lambda a=at: usual(folder, model, *a), images)["steady"]
            for at in TRIED
        }
        best = max(tried, key=lambda at: tried[at])
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(repeats):
            for name, work in variants(settings, folder, images, best):
                found.setdefault(name, []).append(measure(work, images))
                print(name, {k: round(v, 1) for k, v in found[name][-1].items()})
        disconnect()
    middle = {
        name: {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        for name, runs in sorted(found.items())
    }
    rate = {name: figures["steady"] for name, figures in middle.items()}
    ratios = {
        "steady of (b), float32": rate["d float32"] / rate["b float32"],
        "steady of (b), bfloat16": rate["d bfloat16"] / rate["b bfloat16"],
        "steady of (c), float32": rate["d float32"] / rate["c float32"],
        "steady of (c), bfloat16": rate["d bfloat16"] / rate["c float32"],
        "whole job of (c), bfloat16": middle["d bfloat16"]["whole"]
        / middle["c float32"]["whole"],
    }
    for name, figures in middle.items():
        print(f"{name:<12}", *(f"{k} {v:8.1f}" for k, v in figures.items()))
    for name, ratio in ratios.items():
        print(f"{name:<28}{ratio:6.2f}")
    usual_tried = {f"{t} threads, batch {b}": rate for (t, b), rate in tried.items()}
    about = {"images": images, "repeats": repeats, "cores": CORES}
    about |= {
        "device": DEVICE,
        **read,
        "usual": usual_tried,
        "medians": middle,
        "ratios": ratios,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


ray_cluster: Any = None
if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
