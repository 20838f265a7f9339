"""The pictures of the data set: each is drawn from its breed, its number and a seed."""

import io
from random import Random
from typing import Any

import numpy as np

from doggos_sample import VERSION
from doggos_sample.breeds import TABLE
from doggos_sample.picture import random_framing, render
from doggos_sample.traits import of_breed

SPLITS = ("train", "val", "test")
_CYCLE = 20
_VAL, _TEST = (3, 10, 16), (6, 13, 19)
_COPIES = 0.011
_REACH = 60  # how many pictures back the original of a near duplicate may be


def split_of(index: int) -> str:
    """Return the split of the picture with that number: 70, 15 and 15 %."""
    place = index % _CYCLE
    return "val" if place in _VAL else "test" if place in _TEST else "train"


def draw(breed: str, index: int, seed: int) -> tuple[bytes, dict[str, Any]]:
    """Draw one picture.

    About one in 100 is a near duplicate of an earlier picture in another split, as
    every real collection has them: the same dog and scene, cut, lit and encoded anew.

    Returns:
        The bytes of the file, and its row of the attributes table.
    """
    source, rng = _original_of(breed, index, seed)
    if source is None:
        _, data, row = _draw_original(breed, index, seed)
        return data, row
    pixels, _, row = _draw_original(breed, source, seed)
    encoded = encode(_cut_and_relit(pixels, rng), rng)
    file = _file(breed, index, encoded)
    return encoded[0], {**row, **file, "duplicate_of": row["path"]}


def _draw_original(
    breed: str, index: int, seed: int
) -> tuple[np.ndarray, bytes, dict[str, Any]]:
    rng = Random(f"{VERSION}/{seed}/{breed}/{index}")
    dog = of_breed(TABLE[breed], rng)
    frame = random_framing(rng)
    pixels = render(dog, frame, rng)
    encoded = encode(pixels, rng)
    row = {
        **_file(breed, index, encoded),
        "breed": breed,
        **dog.values,
        **frame.attributes(),
        "duplicate_of": None,
    }
    return pixels, encoded[0], row


def _file(
    breed: str, index: int, encoded: tuple[bytes, str, int, int]
) -> dict[str, Any]:
    split = split_of(index)
    data, suffix, orientation, quality = encoded
    return {
        "path": f"{split}/{breed}/{breed}_{index:05d}.{suffix}",
        "split": split,
        "quality": quality,
        "orientation": orientation,
        "bytes": len(data),
    }


def _original_of(breed: str, index: int, seed: int) -> tuple[int | None, Random]:
    """Return what a picture is a near duplicate of, if of any, and its randomness."""

    def dice(number: int) -> Random:
        return Random(f"{VERSION}/{seed}/{breed}/{number}/copy")

    rng = dice(index)
    if rng.random() >= _COPIES:
        return None, rng
    originals = [
        number
        for number in range(max(0, index - _REACH), index)
        if split_of(number) != split_of(index) and dice(number).random() >= _COPIES
    ]
    return (rng.choice(originals) if originals else None), rng


def _cut_and_relit(pixels: np.ndarray, rng: Random) -> np.ndarray:
    from PIL import Image

    height, width = pixels.shape[:2]
    left, right = (round(width * rng.uniform(0.005, 0.04)) for _ in range(2))
    top, bottom = (round(height * rng.uniform(0.005, 0.04)) for _ in range(2))
    cut = Image.fromarray(pixels[top : height - bottom, left : width - right])
    light = rng.uniform(0.9, 1.08) * np.array([rng.uniform(0.98, 1.02) for _ in "rgb"])
    full = np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(full * light, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, rng: Random) -> tuple[bytes, str, int, int]:
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
