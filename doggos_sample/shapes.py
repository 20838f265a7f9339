"""Smooth outlines: arrays ``[n, 2]`` of points, y upwards.

Curves are Catmull-Rom splines; a limb is a chain of points with a radius at each; fur
is a fringe along an outline.
"""

from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


def spline(points: ArrayLike, steps: int = 7) -> Points:
    """Return a closed Catmull-Rom curve through the points."""
    p1 = np.asarray(points, float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    return _segments(p0, p1, p2, p3, steps)


def curve(points: ArrayLike, steps: int = 6) -> Points:
    """Return an open Catmull-Rom curve through the points."""
    p = np.asarray(points, float)
    ends = np.concatenate([[2 * p[0] - p[1]], p, [2 * p[-1] - p[-2]]])
    body = _segments(ends[:-3], ends[1:-2], ends[2:-1], ends[3:], steps)
    return np.concatenate([body, p[-1:]])


def _segments(p0: Points, p1: Points, p2: Points, p3: Points, steps: int) -> Points:
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = p0[:, None], p1[:, None], p2[:, None], p3[:, None]
    out = 0.5 * (
        2 * b
        + (c - a) * t
        + (2 * a - 5 * b + 4 * c - d) * t**2
        + (3 * b - a - 3 * c + d) * t**3
    )
    return out.reshape(-1, out.shape[-1])


def limb(points: ArrayLike, radii: Sequence[float], steps: int = 6) -> Points:
    """Return the outline round a chain of points with a radius at each of them."""
    line = np.column_stack([np.asarray(points, float), radii])
    dense = curve(line, steps)
    centre, radius = dense[:, :2], np.maximum(dense[:, 2:], 1e-3)
    along = np.gradient(centre, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    normal = np.column_stack([-along[:, 1], along[:, 0]])
    turn = np.linspace(0, np.pi, 8)[1:-1, None]
    cap = radius[-1] * (np.cos(turn) * normal[-1] + np.sin(turn) * along[-1])
    butt = radius[0] * (-np.cos(turn) * normal[0] - np.sin(turn) * along[0])
    return np.concatenate(
        [
            centre + normal * radius,
            centre[-1] + cap,
            (centre - normal * radius)[::-1],
            centre[0] + butt,
        ]
    )


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Points:
    """Return an ellipse, turned by an angle in radians."""
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return turned(np.column_stack([rx * np.cos(t), ry * np.sin(t)]), angle) + (x, y)


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Return a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def turned(points: ArrayLike, angle: float) -> Points:
    """Return the points turned round the origin by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points, float) @ np.array([[c, s], [-s, c]])


def blob(x: float, y: float, size: float, rng: Random, wobble: float = 0.3) -> Points:
    """Return an irregular round patch."""
    n = 7
    t = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.random()
    r = size * np.array([1 + rng.uniform(-wobble, wobble) for _ in range(n)])
    return spline(np.column_stack([x + r * np.cos(t), y + r * np.sin(t)]), 5)


def fringed(
    outline: Points, rng: Random, size: float, depth: float, *, curly: bool = False
) -> Points:
    """Return the outline with tufts of hair, or with curls.

    Args:
        outline: Closed outline.
        rng: Source of the irregularity.
        size: Length of a tuft along the outline.
        depth: How far tufts stick out.
        curly: Round bumps instead of pointed tufts.
    """
    step = np.linalg.norm(np.roll(outline, -1, 0) - outline, axis=1)
    s = np.concatenate([[0], np.cumsum(step)])
    count = max(int(s[-1] / size), 6)
    grid = np.linspace(0, s[-1], count * 6, endpoint=False)
    ring = np.concatenate([outline, outline[:1]])
    p = np.column_stack([np.interp(grid, s, ring[:, i]) for i in (0, 1)])
    along = np.roll(p, -1, 0) - np.roll(p, 1, 0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    x, y = p.T
    area = np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
    out = np.column_stack([along[:, 1], -along[:, 0]]) * np.sign(area)
    phase = np.tile(np.arange(6) / 6, count)
    high = np.repeat([rng.uniform(0.6, 1.25) for _ in range(count)], 6)
    if curly:
        return p + out * (depth * high * np.sin(np.pi * phase) ** 0.7)[:, None]
    shape = np.interp(phase, (0, 0.6, 1), (0, 1, 0)) ** 1.25
    lift = out * 0.85 + (-0.55, -0.4)  # hair lies backwards and down
    return p + lift * (depth * high * shape)[:, None]
