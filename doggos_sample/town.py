"""Scenes in town: a room and a street."""

from random import Random

import numpy as np

from doggos_sample.canvas import Layers, mix
from doggos_sample.nature import Shades
from doggos_sample.props import house, plant, rgb, sofa, window
from doggos_sample.shapes import box, ellipse
from doggos_sample.things import car, floor_lamp, shelf


def room(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    """Add furniture and a rug; return wall and floor."""
    wall = rng.choice(
        [
            rgb(226, 206, 186),
            rgb(196, 210, 204),
            rgb(216, 196, 204),
            rgb(190, 200, 216),
            rgb(232, 220, 190),
        ]
    )
    floor = rng.choice([rgb(186, 138, 98), rgb(160, 116, 86), rgb(206, 168, 126)])
    layers.fill(box(-1, horizon, wide + 1, horizon + 0.03), mix(wall, (1, 1, 1), 0.5))
    for k in range(1, 6):
        y = horizon * (1 - (k / 6) ** 1.4)
        layers.line(
            np.array([(-0.1, y), (wide + 0.1, y)]),
            mix(floor, (0.2, 0.1, 0), 0.25),
            0.004,
        )
    _furnish(layers, horizon, wide, rng)
    return (mix(wall, (1, 1, 1), 0.12), mix(wall, (0.3, 0.2, 0.2), 0.08)), (
        mix(floor, (0, 0, 0), 0.08),
        floor,
    )


def _furnish(layers: Layers, horizon: float, wide: float, rng: Random) -> None:
    """Add a window or pictures, furniture and a rug."""
    x = rng.uniform(0.1, wide - 0.4)
    if rng.random() < 0.6:
        window(layers, x, horizon + 0.16, rng)
    else:
        for dx in (0, 0.24):
            frame = box(x + dx, horizon + 0.2, x + dx + 0.17, horizon + 0.42)
            layers.fill(frame, rgb(250, 246, 240), edge=0.006)
            inner = box(x + dx + 0.02, horizon + 0.22, x + dx + 0.15, horizon + 0.4)
            layers.fill(
                inner,
                rng.choice(
                    [rgb(214, 140, 110), rgb(120, 160, 170), rgb(220, 190, 110)]
                ),
            )
    if rng.random() < 0.35:
        shelf(layers, rng.uniform(0, wide - 0.34), horizon - 0.03, rng)
    if rng.random() < 0.3:
        floor_lamp(layers, rng.choice((0.14, wide - 0.14)), horizon - 0.05, rng)
    if rng.random() < 0.5:
        sofa(layers, rng.uniform(0, wide - 0.2), horizon - 0.04, rng)
    if rng.random() < 0.5:
        plant(layers, rng.choice((0.1, wide - 0.1)), horizon - 0.06, rng)
    if rng.random() < 0.7:
        rug = rng.choice(
            [rgb(180, 90, 84), rgb(88, 120, 140), rgb(214, 186, 140), rgb(120, 130, 96)]
        )
        cx = wide / 2 + rng.uniform(-0.2, 0.2)
        layers.fill(ellipse(cx, 0.42 * horizon, 0.55, 0.3 * horizon), rug)
        layers.fill(
            ellipse(cx, 0.42 * horizon, 0.47, 0.23 * horizon), mix(rug, (1, 1, 1), 0.2)
        )


def street(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    """Add houses and a pavement; return sky and road."""
    sky = mix(rgb(160, 200, 226), rgb(226, 206, 196), rng.random())
    road = mix(rgb(150, 150, 158), rgb(176, 168, 164), rng.random())
    x = -rng.uniform(0, 0.3)
    while x < wide:
        w, top = rng.uniform(0.24, 0.42), rng.uniform(0.35, 0.62)
        wall = rng.choice(
            [
                rgb(206, 130, 100),
                rgb(222, 190, 140),
                rgb(150, 166, 176),
                rgb(196, 170, 170),
                rgb(168, 104, 92),
                rgb(214, 206, 190),
            ]
        )
        house(layers, x, horizon, w, top, wall, rng)
        x += w
    curb = horizon * rng.uniform(0.72, 0.85)
    layers.fill(box(-1, curb, wide + 1, horizon), mix(road, (1, 1, 1), 0.38))
    layers.fill(box(-1, curb - 0.018, wide + 1, curb), mix(road, (1, 1, 1), 0.65))
    if rng.random() < 0.4:
        car(layers, rng.uniform(-0.1, wide - 0.4), curb - 0.02, rng)
    shift = rng.uniform(0, 0.3)
    for k in range(8):
        a = k * 0.36 - shift
        dash = np.array(
            [
                (a, 0.3 * horizon),
                (a + 0.17, 0.3 * horizon),
                (a + 0.19, 0.36 * horizon),
                (a + 0.03, 0.36 * horizon),
            ]
        )
        layers.fill(dash, (0.95, 0.93, 0.86))
    if rng.random() < 0.6:
        lamp = rng.uniform(0.05, wide - 0.05)
        layers.fill(box(lamp - 0.008, curb, lamp + 0.008, curb + 0.6), rgb(70, 74, 84))
        layers.fill(
            ellipse(lamp, curb + 0.62, 0.035, 0.04), rgb(250, 236, 190), edge=0.006
        )
    return (sky, mix(sky, (1, 1, 1), 0.5)), (
        mix(road, (1, 1, 1), 0.1),
        mix(road, (0, 0, 0), 0.15),
    )
