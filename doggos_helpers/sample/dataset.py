"""Writes the drawn data set: pictures by split and breed, and a table of attributes."""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from doggos_helpers.sample import BREEDS, VERSION
from doggos_helpers.sample.breeds import TABLE
from doggos_helpers.sample.picture import random_framing, render
from doggos_helpers.sample.traits import of_breed

SPLITS = ("train", "val", "test")
_CYCLE = 20
_VAL, _TEST = (3, 10, 16), (6, 13, 19)
_MOST = 1_000_000


def split_of(index: int) -> str:
    """Return the split of the picture with that number: 70, 15 and 15 %."""
    place = index % _CYCLE
    return "val" if place in _VAL else "test" if place in _TEST else "train"


def write(out: Path, images_per_breed: int, seed: int, workers: int) -> int:
    """Draw the data set into a new folder; see `doggos_helpers.sample`."""
    _check(out, images_per_breed, workers)
    out.parent.mkdir(parents=True, exist_ok=True)
    total = len(BREEDS) * images_per_breed
    workers = workers or min(os.cpu_count() or 1, 8)
    workers = max(1, min(workers, total // 40))
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for split in SPLITS:
            for breed in BREEDS:
                (temporary / split / breed).mkdir(parents=True)
        rows = list(_draw_all(temporary, images_per_breed, seed, workers))
        _write_table(temporary / "attributes.parquet", rows, seed)
        temporary.chmod(0o755)
        _publish(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return len(rows)


def _publish(temporary: Path, out: Path) -> None:
    try:
        temporary.rename(out)  # an empty folder is replaced
    except OSError as error:
        if out.exists():
            raise FileExistsError(f"{out} was made by another process") from error
        raise


def _check(out: Path, images_per_breed: int, workers: int) -> None:
    if not 1 <= images_per_breed <= _MOST:
        raise ValueError(f"images per breed is {images_per_breed}: give 1 to {_MOST:,}")
    if workers < 0:
        raise ValueError(f"workers is {workers}: give 0 (one a core) or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already: remove it or name another folder")


def _draw_all(
    root: Path, images_per_breed: int, seed: int, workers: int
) -> Iterator[dict[str, Any]]:
    tasks = [
        (str(root), breed, range(start, min(start + 20, images_per_breed)), seed)
        for start in range(0, images_per_breed, 20)
        for breed in BREEDS
    ]
    if workers == 1:
        for task in tasks:
            yield from draw_some(task)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for rows in pool.map(draw_some, tasks):
            yield from rows


def draw_some(task: tuple[str, str, range, int]) -> list[dict[str, Any]]:
    """Draw some pictures of one breed; runs in a worker process."""
    root, breed, indices, seed = task
    return [_draw_one(Path(root), breed, index, seed) for index in indices]


def _draw_one(root: Path, breed: str, index: int, seed: int) -> dict[str, Any]:
    rng = Random(f"{VERSION}/{seed}/{breed}/{index}")
    dog = of_breed(TABLE[breed], rng)
    frame = random_framing(rng)
    data, suffix, orientation, quality = encode(render(dog, frame, rng), rng)
    split = split_of(index)
    path = f"{split}/{breed}/{breed}_{index:05d}.{suffix}"
    (root / path).write_bytes(data)
    return {
        "path": path,
        "breed": breed,
        "split": split,
        **dog.values,
        **frame.attributes(),
        "quality": quality,
        "orientation": orientation,
        "bytes": len(data),
    }


def encode(pixels: Any, rng: Random) -> tuple[bytes, str, int, int]:
    """Return the file's bytes, its suffix, EXIF orientation and JPEG quality.

    Most files are JPEGs; one in 30 is a PNG, one in 30 a WebP, and one JPEG in 12 is
    stored turned, with an EXIF orientation that says so.
    """
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    kind, quality = rng.random(), rng.randint(72, 92)
    turn = rng.random() < 1 / 12
    if kind < 1 / 30:
        image = image.quantize(128)
        image.save(buffer, "PNG", optimize=True)
        return buffer.getvalue(), "png", 1, 0
    if kind < 2 / 30:
        image.save(buffer, "WEBP", quality=quality, method=2)
        return buffer.getvalue(), "webp", 1, quality
    exif = Image.Exif()
    if turn:
        orientation = rng.choice((3, 6, 8))
        undo = {
            3: Image.Transpose.ROTATE_180,
            6: Image.Transpose.ROTATE_90,
            8: Image.Transpose.ROTATE_270,
        }[orientation]
        image = image.transpose(undo)
        exif[0x0112] = orientation
        image.save(buffer, "JPEG", quality=quality, exif=exif)
        return buffer.getvalue(), "jpg", orientation, quality
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue(), "jpg", 1, quality


def _write_table(path: Path, rows: list[dict[str, Any]], seed: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = sorted(rows, key=lambda row: row["path"])
    table = pa.Table.from_pylist(rows)
    notes = {"version": VERSION, "seed": str(seed)}
    pq.write_table(table.replace_schema_metadata(notes), path)
