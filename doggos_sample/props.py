"""Things that stand in scenes: hills, clouds, trees, furniture, houses."""

from random import Random

import numpy as np

from doggos_sample.canvas import Colour, Layers, mix
from doggos_sample.shapes import box, ellipse, fringed, limb, spline


def rgb(r: int, g: int, b: int) -> Colour:
    """Return a colour from 0 to 255 as one from 0 to 1."""
    return r / 255, g / 255, b / 255


def hills(
    layers: Layers, y: float, height: float, wide: float, colour: Colour, rng: Random
) -> None:
    """Add a ridge above the line y."""
    n = 7
    xs = np.linspace(-0.2, wide + 0.2, n)
    ys = [y + height * rng.uniform(0.15, 1) for _ in range(n)]
    ridge = spline(
        [*zip(xs, ys, strict=True), (wide + 0.5, y - 0.05), (-0.5, y - 0.05)], 8
    )
    layers.fill(ridge, colour, clip=box(-1, y - 0.002, wide + 1, 2))


def cloud(layers: Layers, x: float, y: float, size: float, alpha: float) -> None:
    """Add a cloud."""
    for dx, dy, r in ((-0.9, 0, 0.6), (0, 0.15, 0.9), (0.9, 0, 0.65), (0.3, -0.1, 0.8)):
        puff = ellipse(x + dx * size, y + dy * size, r * size, 0.55 * r * size)
        layers.fill(puff, (1, 1, 1), alpha=alpha)


def add_sky(layers: Layers, horizon: float, wide: float, rng: Random) -> None:
    """Add perhaps a sun, and some clouds."""
    if rng.random() < 0.45:
        x, y = rng.uniform(0.1, wide - 0.1), rng.uniform(horizon + 0.2, 0.95)
        layers.fill(ellipse(x, y, 0.09, 0.09), rgb(255, 244, 200), alpha=0.45)
        layers.fill(ellipse(x, y, 0.06, 0.06), rgb(255, 240, 180))
    for _ in range(rng.randint(0, 3)):
        x, y = rng.uniform(0, wide), rng.uniform(horizon + 0.15, 0.98)
        cloud(layers, x, y, rng.uniform(0.04, 0.09), 0.75)


def tree(
    layers: Layers, x: float, y: float, size: float, colour: Colour, rng: Random
) -> None:
    """Add a round tree."""
    trunk = box(x - 0.03 * size, y, x + 0.03 * size, y + 0.4 * size)
    layers.fill(trunk, rgb(112, 84, 66))
    crown = fringed(
        ellipse(x, y + 0.62 * size, 0.3 * size, 0.36 * size),
        rng,
        0.2 * size,
        0.05 * size,
        curly=True,
    )
    layers.fill(crown, colour)
    layers.shade(crown, (-0.05 * size, 0.06 * size))


def fir(
    layers: Layers, x: float, y: float, size: float, colour: Colour, snow: bool
) -> None:
    """Add a fir, with snow on it or without."""
    layers.fill(
        box(x - 0.03 * size, y, x + 0.03 * size, y + 0.2 * size), rgb(96, 76, 66)
    )
    for k in range(3):
        base, half = y + (0.12 + 0.26 * k) * size, (0.3 - 0.07 * k) * size
        tip = base + 0.42 * size
        part = np.array([(x - half, base), (x + half, base), (x, tip)])
        layers.fill(part, mix(colour, (1, 1, 1), 0.06 * k))
        if snow:
            cap = np.array(
                [
                    (x - 0.35 * half, tip - 0.35 * (tip - base)),
                    (x + 0.35 * half, tip - 0.35 * (tip - base)),
                    (x, tip),
                ]
            )
            layers.fill(cap, (0.96, 0.98, 1.0))


def grass(
    layers: Layers, x: float, y: float, size: float, colour: Colour, rng: Random
) -> None:
    """Add three blades of grass."""
    for k in (-1, 0, 1):
        lean = 0.35 * k + rng.uniform(-0.15, 0.15)
        blade = np.array(
            [
                (x + 0.16 * k * size - 0.07 * size, y),
                (x + 0.16 * k * size + 0.07 * size, y),
                (x + lean * size, y + size * rng.uniform(0.7, 1.1)),
            ]
        )
        layers.fill(blade, colour)


def umbrella(layers: Layers, x: float, y: float, rng: Random) -> None:
    """Add a beach umbrella."""
    tone = rng.choice([rgb(226, 92, 84), rgb(60, 140, 170), rgb(240, 180, 70)])
    layers.fill(box(x - 0.006, y, x + 0.006, y + 0.42), rgb(240, 236, 228))
    dome = spline(
        [
            (x - 0.2, y + 0.36),
            (x - 0.12, y + 0.47),
            (x, y + 0.51),
            (x + 0.12, y + 0.47),
            (x + 0.2, y + 0.36),
            (x, y + 0.39),
        ]
    )
    layers.fill(dome, tone)
    layers.fill(
        limb([(x, y + 0.5), (x, y + 0.38)], [0.01, 0.055]), (0.98, 0.96, 0.92), dome
    )


def window(layers: Layers, x: float, y: float, rng: Random) -> None:
    """Add a window with curtains."""
    layers.fill(box(x - 0.02, y - 0.02, x + 0.36, y + 0.38), rgb(250, 248, 244))
    for dx in (0, 0.175):
        layers.fill(box(x + dx, y, x + dx + 0.165, y + 0.36), rgb(176, 212, 232))
        layers.fill(box(x + dx, y, x + dx + 0.165, y + 0.1), rgb(150, 190, 140))
    curtain = rng.choice([rgb(214, 120, 100), rgb(110, 140, 160), rgb(226, 196, 130)])
    for a, b in ((x - 0.08, x + 0.02), (x + 0.32, x + 0.42)):
        layers.fill(box(a, y - 0.06, b, y + 0.42), curtain)


def sofa(layers: Layers, x: float, y: float, rng: Random) -> None:
    """Add a sofa."""
    tone = rng.choice(
        [rgb(90, 130, 140), rgb(190, 120, 90), rgb(130, 130, 150), rgb(120, 140, 100)]
    )
    parts = (
        (0, 0.06, 0.62, 0.3),
        (-0.06, 0.02, 0.06, 0.2),
        (0.56, 0.02, 0.68, 0.2),
        (0, 0.03, 0.62, 0.14),
    )
    for k, (a, b, c, d) in enumerate(parts):
        part = spline(
            [(x + a, y + b), (x + c, y + b), (x + c, y + d), (x + a, y + d)], 6
        )
        layers.fill(part, mix(tone, (1, 1, 1), 0.08 * (k > 0)), edge=0.004)


def plant(layers: Layers, x: float, y: float, rng: Random) -> None:
    """Add a potted plant."""
    for k in range(-3, 4):
        tip = (x + 0.07 * k, y + 0.42 - 0.025 * abs(k) + rng.uniform(-0.03, 0.03))
        leaf = limb(
            [
                (x, y + 0.12),
                ((x + tip[0]) / 2 + 0.02 * k, (y + tip[1]) / 2 + 0.06),
                tip,
            ],
            [0.01, 0.035, 0.004],
        )
        layers.fill(leaf, mix(rgb(74, 128, 86), (0.5, 0.7, 0.4), 0.12 * abs(k)))
    pot = np.array(
        [(x - 0.07, y + 0.14), (x + 0.07, y + 0.14), (x + 0.05, y), (x - 0.05, y)]
    )
    layers.fill(pot, rgb(206, 120, 86))


def house(
    layers: Layers, x: float, y: float, w: float, top: float, wall: Colour, rng: Random
) -> None:
    """Add a house front."""
    layers.fill(box(x, y, x + w, y + top), wall)
    if rng.random() < 0.6:
        roof = np.array(
            [
                (x - 0.01, y + top),
                (x + w + 0.01, y + top),
                (x + 0.8 * w, y + top + 0.1),
                (x + 0.2 * w, y + top + 0.1),
            ]
        )
        layers.fill(roof, mix(wall, (0.3, 0.15, 0.15), 0.6))
    pane = mix(rgb(120, 150, 170), rgb(250, 230, 160), rng.choice((0.0, 0.0, 0.9)))
    for row in range(1, 4):
        for k in (0.28, 0.72):
            a, b = x + k * w, y + 0.17 * row - 0.02
            if b + 0.1 < y + top and not (row == 0):
                layers.fill(
                    box(a - 0.045, b - 0.01, a + 0.045, b + 0.1),
                    mix(wall, (1, 1, 1), 0.6),
                )
                layers.fill(box(a - 0.035, b, a + 0.035, b + 0.09), pane)
    door = x + rng.choice((0.3, 0.7)) * w
    layers.fill(
        box(door - 0.04, y, door + 0.04, y + 0.13), mix(wall, (0.2, 0.1, 0.1), 0.6)
    )
