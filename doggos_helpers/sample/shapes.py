"""Smooth closed outlines, and the layers and canvas that paint them.

Outlines are arrays ``[n, 2]`` of points, y upwards. Drawing happens in two steps:
shapes are collected in `Layers` in units of their own, then painted on a `Canvas`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
Colour = tuple[float, float, float]


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


@dataclass
class Op:
    """One thing to paint: an outline, how, and where it is clipped to."""

    kind: str
    points: Points
    colour: Colour
    alpha: float = 1.0
    clip: Points | None = None
    width: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass
class Layers:
    """Shapes collected from back to front."""

    ops: list[Op] = field(default_factory=list)

    def fill(
        self,
        points: Points,
        colour: Colour,
        clip: Points | None = None,
        alpha: float = 1.0,
        edge: float = 0.0,
    ) -> Points:
        """Add a filled outline, with an edge of that width a shade darker."""
        self.ops.append(Op("fill", points, colour, alpha, clip, edge))
        return points

    def shade(
        self,
        points: Points,
        shift: tuple[float, float],
        colour: Colour = (0.1, 0.08, 0.2),
        alpha: float = 0.16,
    ) -> None:
        """Darken the part of an outline that its shifted copy leaves uncovered."""
        self.ops.append(Op("shade", points, colour, alpha, points, 0, shift))

    def line(
        self,
        points: Points,
        colour: Colour,
        width: float,
        clip: Points | None = None,
        alpha: float = 1.0,
    ) -> None:
        """Add an open line with round ends."""
        self.ops.append(Op("line", points, colour, alpha, clip, width))

    def bounds(self) -> tuple[float, float, float, float]:
        """Return left, bottom, right and top of everything that is filled."""
        every = np.concatenate([o.points for o in self.ops if o.clip is None])
        (x0, y0), (x1, y1) = every.min(0), every.max(0)
        return float(x0), float(y0), float(x1), float(y1)


class Canvas:
    """Pixels that layers are painted on, with anti-aliasing."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import RendererAgg

        self.width, self.height = width, height
        self._agg = RendererAgg(width, height, 72)
        # Agg knows its last clip path by address alone: none may be freed meanwhile.
        self._kept: list[dict[int, Any]] = []

    def paint(
        self,
        layers: Layers,
        scale: float,
        offset: tuple[float, float] = (0, 0),
        mirror: bool = False,
    ) -> None:
        """Paint layers; a unit is ``scale`` pixels, the origin at ``offset``."""
        factor = np.array([-scale if mirror else scale, scale])
        clips: dict[int, Any] = {}
        self._kept.append(clips)
        for op in layers.ops:
            self._paint(op, factor, np.asarray(offset, float), clips)

    def _paint(
        self, op: Op, factor: Points, offset: Points, clips: dict[int, Any]
    ) -> None:
        from matplotlib.path import Path
        from matplotlib.transforms import IdentityTransform, TransformedPath

        still = IdentityTransform()
        context = self._agg.new_gc()
        context.set_antialiased(True)
        context.set_alpha(op.alpha)
        points = op.points * factor + offset
        if op.clip is not None:
            key = id(op.clip)
            if key not in clips:
                path = Path(_closed(op.clip * factor + offset))
                clips[key] = TransformedPath(path, still)
            context.set_clip_path(clips[key])
        unit = abs(float(factor[1]))
        rgb: Any = op.colour
        if op.kind == "line":
            context.set_linewidth(max(op.width * unit, 0.6))
            context.set_capstyle("round")
            context.set_joinstyle("round")
            context.set_foreground((*op.colour, op.alpha))
            path, rgb = Path(points), None
        elif op.kind == "shade":
            moved = (points + np.asarray(op.shift) * factor)[::-1]
            path = _compound(points, moved)
            context.set_linewidth(0)
        else:
            path = Path(_closed(points))
            context.set_linewidth(op.width * unit)
            context.set_joinstyle("round")
            context.set_foreground((*(0.72 * c for c in op.colour), op.alpha))
        self._agg.draw_path(context, path, still, rgb)

    def pixels(self) -> NDArray[np.uint8]:
        """Return the picture as ``uint8 [height, width, 3]``."""
        return np.asarray(self._agg.buffer_rgba())[..., :3].copy()

    def backdrop(self, rows: Points) -> None:
        """Set a colour a row, from the top: ``float [height, 3]``, 0 to 1."""
        buffer = np.asarray(self._agg.buffer_rgba())
        buffer[..., :3] = np.clip(rows * 255, 0, 255).astype(np.uint8)[:, None]
        buffer[..., 3] = 255


def _closed(points: Points) -> Points:
    return np.concatenate([points, points[:1]])


def _compound(outer: Points, inner: Points) -> Any:
    from matplotlib.path import Path

    codes = [Path.MOVETO] + [Path.LINETO] * len(outer)
    codes += [Path.MOVETO] + [Path.LINETO] * len(inner)
    return Path(np.concatenate([_closed(outer), _closed(inner)]), codes)
