"""How fast, how exact and how large a search is: 10,000 to a million embeddings.

usage: python -m benchmarks.search [ROWS ...]

Made-up vectors of 512 numbers, with the clusters and the spectrum of the sample's
embeddings: a centre for each breed, and around it a normal cloud whose standard
deviations are those of the sample, stretched from 128 directions to 512. Each way to
search runs in a process of its own, with the same 200 queries, one after the other.
Resident memory is what the process holds beyond that of one that has imported the same.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from doggos_helpers.artefacts import write_run
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.search import index as searching
from doggos_helpers.settings import Settings

RESULTS = Path(__file__).parent / "results" / "search.json"
DIMENSION, QUERIES, K = 512, 200, 10
WAYS = {  # to search, and the most rows of which it is tried
    "NumPy": 2**40,
    "in memory": 100_000,  # a million would take minutes for all queries
    "vector index": 2**40,
    "take_all + cdist": 100_000,  # Python objects of a million would take some 20 GB
}
ASKED = {"in memory": 50, "take_all + cdist": 3}  # queries, where they are slow
MIB = 2**20
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "one class": {"classes": ["breed_03"]},
    "test": {"split": "test"},
    "both": {"classes": ["breed_03"], "split": "test"},
}
Top = Callable[..., list[str]]


def spectrum() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sample's centres [16, 512], deviations [512] and their axes."""
    from doggos_helpers.clip.encoder import ClipEncoder
    from doggos_helpers.data.images import decode
    from doggos_sample import write_dataset

    encoder = ClipEncoder("sample", threads=2)
    with tempfile.TemporaryDirectory() as place:
        write_dataset(Path(place, "dogs"), images_per_breed=60)
        files = sorted(Path(place).rglob("*.jpg"))
        pixels = [decode(f.read_bytes(), encoder.preprocessing) for f in files]
    vectors = encoder.encode_images(np.stack(pixels))
    breeds = np.array([f.parent.name for f in files])
    names, of = np.unique(breeds, return_inverse=True)
    centres = np.stack([vectors[breeds == name].mean(axis=0) for name in names])
    _, spread, axes = np.linalg.svd(vectors - centres[of], full_matrices=False)
    small = spread / np.sqrt(len(vectors))
    stretched = np.interp(
        np.linspace(0, len(small) - 1, DIMENSION), np.arange(len(small)), small
    ) * np.sqrt(len(small) / DIMENSION)
    wide = np.zeros((len(names), DIMENSION))
    wide[:, : len(small)] = centres @ axes.T
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(DIMENSION, DIMENSION)))[0]
    return (wide @ turn).astype(np.float32), stretched.astype(np.float32), turn


def write_table(
    settings: Settings, rows: int, shape: Any, file_rows: int = 50_000
) -> np.ndarray:
    """Write the table that an embedding would leave; return queries [n, 512]."""
    centres, deviations, turn = shape
    random, turn = np.random.default_rng(0), turn.astype(np.float32)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        of = random.integers(0, len(centres), count)
        noise = random.normal(size=(count, DIMENSION)).astype(np.float32)
        vectors = centres[of] + (noise * deviations) @ turn
        return of, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    for number in range(-(-rows // file_rows)):
        count = min(file_rows, rows - number * file_rows)
        of, vectors = draw(count)
        ids = number * file_rows + np.arange(count)
        splits = np.where(ids % 10 < 8, "train", np.where(ids % 10 == 8, "val", "test"))
        flat = pa.array(vectors.astype(np.float32).ravel())
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * DIMENSION)
        table = pa.table(
            {
                "path": [f"{i:09}.jpg" for i in ids],
                "class": [f"breed_{c:02}" for c in of],
                "split": splits.tolist(),
                "embedding": pa.ListArray.from_arrays(offsets, flat),
                "reason": pa.nulls(count, pa.string()),
            }
        )
        folder = settings.embeddings_dir / "table" / "00000"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"{number:05}.parquet")
    write_run(
        settings.embeddings_dir, "embed", settings, time.time(),
        fingerprint=str(rows), counts={"embedded": rows}, nodes={},
        classes=[f"breed_{c:02}" for c in range(len(centres))],
        encoder={"model": "made up"},
    )  # fmt: skip
    return draw(QUERIES)[1].astype(np.float32)


def resident() -> float:
    """Return what this process holds and doesn't share with files, in MiB."""
    return psutil.Process().memory_full_info().uss / MIB


def asker(settings: Settings, way: str) -> Top:
    """Open what a way searches in; return what answers a query with paths."""
    if way == "take_all + cdist":
        from scipy.spatial.distance import cdist

        rows = pq.read_table(str(settings.embeddings_dir / "table")).to_pylist()

        def by_distance(vector: np.ndarray, classes=(), split="") -> list[str]:
            some = [
                row
                for row in rows
                if (not classes or row["class"] in classes)
                and (not split or row["split"] == split)
            ]
            matrix = np.array([row["embedding"] for row in some])
            near = np.argsort(cdist(vector[None], matrix, "cosine")[0])[:K]
            return [some[i]["path"] for i in near]

        return by_distance
    if way == "NumPy":
        table = read_embeddings(settings)

        def by_product(vector: np.ndarray, classes=(), split="") -> list[str]:
            scores = table.vectors @ vector
            if classes:
                scores[~np.isin(table.classes, classes)] = -1
            if split:
                scores[table.splits != split] = -1
            near = np.argpartition(scores, -K)[-K:]
            return table.paths[near[np.argsort(-scores[near])]].tolist()

        return by_product
    searching.EXACT_ROWS = 0 if way == "vector index" else 2**40
    index = searching.open_index(settings, update=False)
    return lambda vector, **only: [m.path for m in index.top_k(vector, K, **only)]


def search(settings: Settings, way: str, queries: np.ndarray) -> dict[str, Any]:
    """Open what a way searches in, and ask."""
    import doggos_helpers.search.stored  # noqa: F401

    queries = queries[: ASKED.get(way, QUERIES)]
    before, started = resident(), time.perf_counter()
    top = asker(settings, way)
    told: dict[str, Any] = {"open_s": time.perf_counter() - started, "found": {}}
    for name, chosen in FILTERS.items():
        seconds, found = [], []
        top(queries[0], **chosen)
        for query in queries:
            started = time.perf_counter()
            found.append(top(query, **chosen))
            seconds.append(time.perf_counter() - started)
        p50, p99 = np.percentile(seconds, [50, 99]) * 1000
        told |= {f"{name} p50_ms": p50, f"{name} p99_ms": p99}
        told["found"][name] = found
    return told | {"resident_mib": resident() - before}


def build(settings: Settings) -> dict[str, float]:
    """Build the vector index."""
    from doggos_helpers.search.stored import update_index

    started = time.perf_counter()
    update_index(settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"build_s": time.perf_counter() - started, "build_peak_mib": peak}


def alone(place: str, job: str) -> dict[str, Any]:
    """Run a job in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.search", place, job]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(rows: int, shape: Any) -> dict[str, Any]:
    """Measure all ways at one size."""
    with tempfile.TemporaryDirectory(prefix="doggos-search-") as place:
        queries = write_table(Settings(storage=place), rows, shape)
        np.save(Path(place, "queries.npy"), queries)
        told = {"vector index": alone(place, "build")}
        ways = [way for way, most in WAYS.items() if rows <= most]
        for way in ways:
            told.setdefault(way, {}).update(alone(place, way))
        true = told["NumPy"]["found"]
        for way in ways:
            for name, found in told[way].pop("found").items():
                pairs = zip(found, true[name], strict=False)
                shared = [len(set(a) & set(b)) for a, b in pairs]
                told[way][f"{name} recall"] = float(np.mean(shared)) / K
    for way, figures in told.items():
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{rows:>9,} {way:<18}{shown}", flush=True)
    return told


def main(arguments: list[str]) -> None:
    """Compare, or do one job of a comparison."""
    if arguments and Path(arguments[0]).is_dir():
        place, job = arguments
        settings = Settings(storage=place)
        queries = np.load(Path(place, "queries.npy"))
        done = build(settings) if job == "build" else search(settings, job, queries)
        print(json.dumps(done))
        return
    sizes = [int(a) for a in arguments] or [10_000, 100_000, 1_000_000]
    shape = spectrum()
    told = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for rows in sizes:
        told[str(rows)] = compare(rows, shape)
        RESULTS.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
