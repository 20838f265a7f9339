"""Paints the places that dogs stand in: a limited palette, a horizon, some props.

Coordinates are fractions of the picture's height, from the bottom left corner.
"""

from random import Random

import numpy as np

from doggos_sample.canvas import Canvas, Colour, Layers, mix
from doggos_sample.nature import beach, meadow, snow
from doggos_sample.props import grass, rgb
from doggos_sample.shapes import Points, ellipse, spline
from doggos_sample.town import room, street

SCENES = ("beach", "meadow", "room", "snow", "street")


def paint_scene(canvas: Canvas, scene: str, horizon: float, rng: Random) -> None:
    """Paint a scene over the whole canvas.

    Args:
        canvas: What to paint on.
        scene: One of `SCENES`.
        horizon: Height of the horizon, as a fraction of the height.
        rng: Source of palette and props.
    """
    painter = {
        "beach": beach,
        "meadow": meadow,
        "room": room,
        "snow": snow,
        "street": street,
    }[scene]
    layers = Layers()
    wide = canvas.width / canvas.height
    high, low = painter(layers, horizon, wide, rng)
    _gradient(canvas, horizon, high, low)
    canvas.paint(layers, canvas.height)


def _gradient(
    canvas: Canvas,
    horizon: float,
    high: tuple[Colour, Colour],
    low: tuple[Colour, Colour],
) -> None:
    y = 1 - (np.arange(canvas.height) + 0.5) / canvas.height
    up = np.clip((y - horizon) / (1 - horizon), 0, 1)[:, None]
    down = np.clip(1 - y / horizon, 0, 1)[:, None]
    sky = np.array(high[1]) * (1 - up) + np.array(high[0]) * up
    ground = np.array(low[0]) * (1 - down) + np.array(low[1]) * down
    canvas.backdrop(np.where((y > horizon)[:, None], sky, ground))


def foreground(
    scene: str, x: float, y: float, size: float, rng: Random
) -> tuple[Layers, Points]:
    """Return something small that stands before the dog, and its outline."""
    layers = Layers()
    if scene == "meadow":
        leaf = mix(rgb(92, 146, 66), rgb(110, 130, 60), rng.random())
        for k in range(9):
            grass(
                layers,
                x + (k - 4) * 0.22 * size,
                y - 0.1 * size,
                size * rng.uniform(0.5, 1),
                leaf,
                rng,
            )
        return layers, ellipse(x, y, size, 0.4 * size)
    if scene == "snow":
        mound = spline(
            [
                (x - 1.3 * size, y - 0.3 * size),
                (x - 0.5 * size, y + 0.35 * size),
                (x + 0.4 * size, y + 0.5 * size),
                (x + 1.3 * size, y - 0.3 * size),
                (x, y - 0.6 * size),
            ]
        )
        layers.fill(mound, rgb(246, 249, 254))
        layers.shade(mound, (-0.02, 0.03), (0.3, 0.45, 0.75))
        return layers, mound
    tone = rng.choice(
        [rgb(226, 84, 80), rgb(70, 130, 190), rgb(246, 190, 70), rgb(110, 170, 110)]
    )
    ball = ellipse(x, y + 0.5 * size, 0.5 * size, 0.5 * size)
    layers.fill(ball, tone)
    layers.fill(
        ellipse(x, y + 0.5 * size, 0.18 * size, 0.5 * size, 0.4),
        (0.98, 0.96, 0.9),
        ball,
    )
    layers.shade(ball, (-0.04, 0.05))
    return layers, ball
