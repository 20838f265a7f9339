"""Draws the pictures that the model learns from, and keeps them on disk."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np

from doggos_sample import VERSION
from doggos_sample.breeds import TABLE
from doggos_sample.parts import part_map, visible
from doggos_sample.picture import random_framing, render_parts
from doggos_sample.traits import ATTRIBUTES, at_random, breed_combinations, combinations

KEYS = (*ATTRIBUTES, "pose", "scene")
"""What captions can state, in the order of every table of codes."""

SIZE = 112
COARSE = 2
"""A part map keeps one pixel in so many, in each direction."""

_PART = 200


def training_combinations() -> list[dict[str, str]]:
    """Return the attribute combinations that no breed has."""
    taken = set().union(*(breed_combinations(breed) for breed in TABLE.values()))
    return [c for c in combinations() if tuple(c.values()) not in taken]


def balanced(allowed: set[tuple[str, ...]], rng: Random) -> dict[str, str]:
    """Draw an allowed combination; each value of an attribute is about as likely."""
    while True:
        values = {name: rng.choice(options) for name, options in ATTRIBUTES.items()}
        if tuple(values.values()) in allowed:
            return values


@dataclass
class Pool:
    """Preprocessed pictures ``uint8 [n, 3, s, s]``, part maps, and what they show."""

    pixels: np.ndarray
    parts: np.ndarray
    rows: list[dict[str, str]]


def draw_some(
    task: tuple[str, int, int, int],
) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    """Draw pictures first to last of a pool and seed; runs in a worker."""
    from PIL import Image

    from doggos_sample.train.model import build_processor

    name, seed, first, last = task
    processor = build_processor()
    allowed = {tuple(c.values()) for c in training_combinations()}
    pixels, parts, rows = [], [], []
    for index in range(first, last):
        rng = Random(f"{name}/{seed}/{index}")
        values = balanced(allowed, rng)
        frame = random_framing(rng, rng.randint(170, 300))
        image, canvas = render_parts(at_random(rng, values), frame, rng)
        out = processor(Image.fromarray(image), do_rescale=False, do_normalize=False)
        pixels.append(np.asarray(out["pixel_values"][0]).astype(np.uint8))
        parts.append(_centre(part_map(canvas, SIZE // COARSE)))
        row = {**values, "pose": frame.pose, "scene": frame.scene}
        rows.append({**row, "seen": " ".join(visible(row, parts[-1]))})
    return np.stack(pixels), np.stack(parts), rows


def _centre(parts: np.ndarray) -> np.ndarray:
    """Crop a part map as the processor does pictures."""
    side = SIZE // COARSE
    top, left = ((length - side) // 2 for length in parts.shape)
    return parts[top : top + side, left : left + side]


def make_pool(work: Path, name: str, seed: int, count: int, workers: int) -> Pool:
    """Draw pictures in parts, keeping those that an earlier run has drawn."""
    starts = range(0, count, _PART)
    tasks = [(name, seed, i, min(i + _PART, count)) for i in starts]
    stem = f"{name}-{VERSION}-{seed}"
    files = [work / f"{stem}-{t[2]}-{t[3]}.npz" for t in tasks]
    lacking = [(t, f) for t, f in zip(tasks, files, strict=True) if not f.exists()]
    if lacking:
        _draw(lacking, workers)
    return _load(files)


def _draw(
    lacking: Sequence[tuple[tuple[str, int, int, int], Path]], workers: int
) -> None:
    tasks, files = zip(*lacking, strict=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn = pool.map(draw_some, tasks)
        for task, file, (pixels, parts, rows) in zip(tasks, files, drawn, strict=True):
            new = file.with_suffix(".new.npz")
            np.savez(new, pixels=pixels, parts=parts, rows=json.dumps(rows))
            os.replace(new, file)
            print(f"{task[0]}: drawn {task[3]}", flush=True)


def _load(files: Sequence[Path]) -> Pool:
    loaded = [dict(np.load(path)) for path in files]
    rows = [row for part in loaded for row in json.loads(str(part["rows"]))]
    pixels = np.concatenate([part["pixels"] for part in loaded])
    return Pool(pixels, np.concatenate([part["parts"] for part in loaded]), rows)
