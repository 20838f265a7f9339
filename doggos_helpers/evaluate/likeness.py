"""Likeness: the nearest images of other splits, and whether one of them is a copy."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view

from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage, upright
from doggos_helpers.data.listing import CLASS, PATH, SPLIT
from doggos_helpers.embed.table import LABELLED, Contents, read_file, vectors_of

if TYPE_CHECKING:
    from PIL.Image import Image

NEAREST = 5  # that are looked at
ALIKE = 0.9  # cosine similarity from which pictures are compared
SAME = 0.86  # correlation from which they are the same
WHOLE, PART = 32, 22  # pixels of the longer edge that they are compared at


def nearest(contents: Contents, vectors: np.ndarray, splits: np.ndarray) -> Any:
    """Find the images of other splits that are most similar, file by file.

    Args:
        contents: Of the table.
        vectors: float32 [n, d], of length one.
        splits: The split of each.

    Returns:
        Cosine similarities, paths and classes, [n, `NEAREST`], the most similar first;
        fewer where there are fewer.
    """
    best = [np.empty((len(vectors), 0))] * 3
    for file in contents.files:
        rows = _file(contents.folder, file)
        paths, classes, theirs = (rows[k].to_numpy() for k in (PATH, CLASS, SPLIT))
        scores = vectors @ vectors_of(rows).T
        scores[splits[:, None] == theirs] = -1
        near = np.argpartition(-scores, min(NEAREST, len(rows)) - 1)[:, :NEAREST]
        found = (np.take_along_axis(scores, near, 1), paths[near], classes[near])
        both = [np.hstack(pair) for pair in zip(best, found, strict=True)]
        order = np.argsort(-both[0], axis=1)[:, :NEAREST]
        best = [np.take_along_axis(one, order, 1) for one in both]
    return best


@functools.lru_cache(maxsize=64)  # files of some 16 MB
def _file(folder: str, path: str) -> pa.Table:
    return read_file(folder, path, LABELLED)


def copied(root: str, path: str, others: np.ndarray, scores: np.ndarray) -> str:
    """Return which of the images most similar to one is a copy of it, or "".

    Embeddings say which may be one; then the pictures are compared. A copy may be cut
    to two thirds, scaled, or encoded anew.

    Args:
        root: Of the data set.
        path: Of the image.
        others: Paths of those like it.
        scores: Their cosine similarities.
    """
    for other in others[scores >= ALIKE]:
        one, two = picture(root, path), picture(root, other)
        if one and two and max(within(one, two), within(two, one)) >= SAME:
            return other
    return ""


@functools.lru_cache(maxsize=2000)
def picture(root: str, path: str) -> "Image | None":
    """Read an image, small and grey; None where it can't be read."""
    try:
        image = upright(read_bytes(root, path), least_edge=2 * WHOLE).convert("L")
    except BadImage:
        return None
    image.thumbnail((4 * WHOLE, 4 * WHOLE))
    return image


def within(part: "Image", whole: "Image") -> float:
    """Return how well an image fits somewhere into another one: -1 to 1.

    It is tried at every place and several sizes; the figure is the correlation of how
    steep the grey values are.
    """
    field, best = _edges(whole, WHOLE), -1.0
    for edge in range(PART, WHOLE + 1):
        patch = _edges(part, edge)
        if (np.array(patch.shape) <= field.shape).all():
            windows = sliding_window_view(field, patch.shape).reshape(-1, patch.size)
            centred = patch.ravel() - patch.mean()
            spread = patch.size * windows.std(axis=1) * patch.std()
            best = max(best, (windows @ centred / (spread + 1e-6)).max())
    return best


def _edges(image: "Image", edge: int) -> np.ndarray:
    """Return how steep the grey values are, with so many pixels along the longer edge.

    The values themselves are alike wherever two dogs stand alike before a plain sky.
    """
    scale = edge / max(image.size)
    width, height = (max(2, round(pixels * scale)) for pixels in image.size)
    return np.hypot(*np.gradient(np.asarray(image.resize((width, height)), float)))
