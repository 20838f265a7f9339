"""Layers of shapes from back to front, and the canvas that paints them.

Shapes are collected in `Layers` in units of their own, y upwards, then painted on a
`Canvas` by matplotlib's Agg renderer, which anti-aliases and clips.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from doggos_sample.shapes import Points

Colour = tuple[float, float, float]
Drawing = TypeVar("Drawing", bound=Callable[..., Any])


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return a colour between two; ``share`` is that of the second."""
    x, y, z = (p * (1 - share) + q * share for p, q in zip(a, b, strict=True))
    return x, y, z


def toned(colour: Colour, factor: float) -> Colour:
    """Return the colour darker (below 1) or lighter (above 1)."""
    if factor <= 1:
        r, g, b = (c * factor for c in colour)
    else:
        r, g, b = (1 - (1 - c) / factor for c in colour)
    return r, g, b


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
    part: str = ""


@dataclass
class Layers:
    """Shapes collected from back to front.

    `part` names the part of a dog that is being drawn; the training of the model asks
    where parts are (`doggos_sample.parts`).
    """

    ops: list[Op] = field(default_factory=list)
    part: str = ""

    def fill(
        self,
        points: Points,
        colour: Colour,
        clip: Points | None = None,
        alpha: float = 1.0,
        edge: float = 0.0,
    ) -> Points:
        """Add a filled outline, with an edge of that width a shade darker."""
        self.ops.append(Op("fill", points, colour, alpha, clip, edge, part=self.part))
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

    def light(self, points: Points, shift: tuple[float, float]) -> None:
        """Lighten the part of an outline that its shifted copy leaves uncovered."""
        self.shade(points, shift, (1.0, 0.98, 0.92), 0.13)

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


def part(name: str) -> Callable[[Drawing], Drawing]:
    """Mark what a drawing method adds to ``self.layers`` as that part of the dog."""

    def decorate(draw: Drawing) -> Drawing:
        @functools.wraps(draw)
        def marked(self: Any, *args: Any, **options: Any) -> Any:
            before, self.layers.part = self.layers.part, name
            try:
                return draw(self, *args, **options)
            finally:
                self.layers.part = before

        return cast(Drawing, marked)

    return decorate


class Canvas:
    """Pixels that layers are painted on, with anti-aliasing unless it is off."""

    def __init__(self, width: int, height: int, smooth: bool = True) -> None:
        """Start with an empty picture."""
        from matplotlib.backends.backend_agg import RendererAgg

        self.width, self.height, self.smooth = width, height, smooth
        self.painted: list[tuple[Layers, float, tuple[float, float], bool]] = []
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
        self.painted.append((layers, scale, offset, mirror))
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
        context.set_antialiased(self.smooth)
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
            context.set_foreground((*_rim(op.colour), op.alpha))
        self._agg.draw_path(context, path, still, rgb)

    def pixels(self) -> NDArray[np.uint8]:
        """Return the picture as ``uint8 [height, width, 3]``."""
        return np.asarray(self._agg.buffer_rgba())[..., :3].copy()

    def backdrop(self, rows: Points) -> None:
        """Set a colour a row, from the top: ``float [height, 3]``, 0 to 1."""
        buffer = np.asarray(self._agg.buffer_rgba())
        buffer[..., :3] = np.clip(rows * 255, 0, 255).astype(np.uint8)[:, None]
        buffer[..., 3] = 255


def _rim(colour: Colour) -> Colour:
    # On a black coat a darker edge is lost: legs and ears would melt together.
    return toned(colour, 1.3 if sum(colour) < 0.8 else 0.7)


def _closed(points: Points) -> Points:
    return np.concatenate([points, points[:1]])


def _compound(outer: Points, inner: Points) -> Any:
    from matplotlib.path import Path

    codes = [Path.MOVETO] + [Path.LINETO] * len(outer)
    codes += [Path.MOVETO] + [Path.LINETO] * len(inner)
    return Path(np.concatenate([_closed(outer), _closed(inner)]), codes)
