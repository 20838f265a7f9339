"""Scenes outside: a meadow, snow, a beach."""

from random import Random

import numpy as np

from doggos_sample.canvas import Colour, Layers, mix
from doggos_sample.props import add_sky, fir, grass, hills, rgb, tree, umbrella
from doggos_sample.shapes import box, ellipse, limb
from doggos_sample.things import barn, fence, palm, rocks, snow_on, snowman

Shades = tuple[tuple[Colour, Colour], tuple[Colour, Colour]]
"""Colours of the sky, top and bottom, and of the ground, far and near."""


def beach(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    """Add sea, sand and umbrellas; return sky and ground."""
    sky = mix(rgb(120, 196, 236), rgb(252, 196, 150), rng.random() ** 2)
    sea = mix(rgb(52, 146, 178), rgb(86, 176, 186), rng.random())
    sand = mix(rgb(238, 216, 166), rgb(226, 198, 150), rng.random())
    add_sky(layers, horizon, wide, rng)
    shore = horizon * rng.uniform(0.55, 0.75)
    _sea(layers, shore, horizon, wide, sea, sand, rng)
    if rng.random() < 0.3:
        stone = mix(rgb(130, 124, 128), sand, 0.3)
        rocks(layers, rng.uniform(0, wide), shore + 0.01, 0.16, stone)
    if rng.random() < 0.3:
        x, size = rng.choice((0.1, wide - 0.1)), rng.uniform(0.4, 0.55)
        palm(layers, x, shore - 0.03, size, rng)
    elif rng.random() < 0.5:
        umbrella(layers, rng.choice((0.12, wide - 0.12)), shore - 0.05, rng)
    for _ in range(18):
        spot = ellipse(
            rng.uniform(0, wide),
            shore * rng.random() * 0.9,
            rng.uniform(0.004, 0.02),
            0.004,
        )
        layers.fill(spot, mix(sand, rgb(150, 110, 70), 0.4), alpha=0.7)
    return (sky, mix(sky, (1, 1, 1), 0.55)), (sand, mix(sand, rgb(200, 160, 110), 0.35))


def _sea(
    layers: Layers,
    shore: float,
    horizon: float,
    wide: float,
    sea: Colour,
    sand: Colour,
    rng: Random,
) -> None:
    """Add the sea between shore and horizon, its foam, and perhaps a boat."""
    layers.fill(box(-1, shore, wide + 1, horizon), sea)
    layers.fill(
        box(-1, (shore + 2 * horizon) / 3, wide + 1, horizon),
        mix(sea, (0, 0.2, 0.4), 0.15),
    )
    xs = np.linspace(-0.1, wide + 0.1, 9)
    edge = [(x, shore + rng.uniform(-0.012, 0.012)) for x in xs]
    foam = limb(edge, [0.012] * 9)
    wet = limb([(x, y - 0.02) for x, y in edge], [0.022] * 9)
    layers.fill(wet, mix(sand, rgb(150, 120, 90), 0.35))
    layers.fill(foam, (0.97, 0.99, 1.0))
    for _ in range(rng.randint(2, 5)):
        x, y = rng.uniform(0, wide), rng.uniform(shore + 0.03, horizon - 0.01)
        layers.fill(ellipse(x, y, rng.uniform(0.03, 0.09), 0.004), (1, 1, 1), alpha=0.6)
    if rng.random() < 0.4:
        x = rng.uniform(0.1, wide - 0.1)
        boat = np.array(
            [
                (x - 0.05, horizon),
                (x + 0.05, horizon),
                (x + 0.035, horizon - 0.02),
                (x - 0.035, horizon - 0.02),
            ]
        )
        layers.fill(boat, rgb(190, 80, 70))
        layers.fill(
            np.array(
                [(x, horizon + 0.01), (x, horizon + 0.12), (x + 0.045, horizon + 0.02)]
            ),
            (0.98, 0.97, 0.94),
        )


def meadow(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    """Add hills, trees and flowers; return sky and ground."""
    green = mix(rgb(122, 172, 84), rgb(152, 168, 78), rng.random())
    sky = mix(rgb(126, 190, 232), rgb(190, 216, 230), rng.random())
    add_sky(layers, horizon, wide, rng)
    hills(layers, horizon, 0.16, wide, mix(green, sky, 0.55), rng)
    hills(layers, horizon, 0.08, wide, mix(green, sky, 0.25), rng)
    for _ in range(rng.randint(0, 4)):
        x, size = rng.uniform(0, wide), rng.uniform(0.15, 0.4)
        leaf = mix(mix(green, (0.1, 0.3, 0.12), rng.uniform(0.25, 0.5)), sky, 0.15)
        tree(layers, x, horizon - 0.01, size, leaf, rng)
    if rng.random() < 0.25:
        barn(layers, rng.uniform(0, wide - 0.2), horizon - 0.01, 0.26, rng)
    if rng.random() < 0.3:
        fence(layers, horizon - 0.05, wide, rng)
    for _ in range(26):
        y = horizon * (1 - rng.random() ** 0.7)
        size = 0.015 + 0.045 * (1 - y / horizon)
        x = rng.uniform(0, wide)
        if rng.random() < 0.25:
            petal = rng.choice(
                [rgb(250, 240, 240), rgb(250, 214, 90), rgb(226, 120, 140)]
            )
            layers.fill(ellipse(x, y, 0.25 * size, 0.22 * size), petal)
        else:
            grass(
                layers,
                x,
                y,
                size,
                mix(green, (0.1, 0.3, 0.1), rng.uniform(0.1, 0.35)),
                rng,
            )
    light = mix(sky, (1, 1, 1), 0.6)
    return (sky, light), (mix(green, (1, 1, 0.8), 0.18), mix(green, (0, 0.2, 0), 0.12))


def snow(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    """Add firs and drifts; return sky and ground."""
    sky = mix(rgb(176, 200, 226), rgb(214, 214, 226), rng.random())
    white = mix(rgb(240, 245, 252), rgb(226, 234, 248), rng.random())
    hills(layers, horizon, 0.24, wide, mix(rgb(170, 186, 212), sky, 0.3), rng)
    hills(layers, horizon, 0.1, wide, mix(white, sky, 0.45), rng)
    for _ in range(rng.randint(1, 6)):
        x, size = rng.uniform(0, wide), rng.uniform(0.2, 0.45)
        tone = mix(rgb(72, 110, 104), sky, rng.uniform(0, 0.4))
        fir(layers, x, horizon - 0.02, size, tone, rng.random() < 0.7)
    if rng.random() < 0.25:
        x = rng.uniform(0, wide - 0.3)
        barn(layers, x, horizon - 0.03, 0.28, rng)
        snow_on(layers, x, horizon - 0.03, 0.28)
    if rng.random() < 0.25:
        x = rng.choice((0.12, wide - 0.12))
        snowman(layers, x, horizon - 0.1, 0.34, rng)
    for _ in range(5):
        y = horizon * rng.uniform(0.05, 0.9)
        drift = ellipse(rng.uniform(0, wide), y, rng.uniform(0.15, 0.5), 0.015)
        layers.fill(drift, mix(white, rgb(150, 176, 220), 0.3), alpha=0.6)
    if rng.random() < 0.5:
        for _ in range(40):
            r = rng.uniform(0.003, 0.008)
            layers.fill(
                ellipse(rng.uniform(0, wide), rng.random(), r, r), (1, 1, 1), alpha=0.9
            )
    return (sky, mix(sky, (1, 1, 1), 0.6)), (white, mix(white, rgb(190, 208, 238), 0.5))
