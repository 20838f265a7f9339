"""Larger things that stand about in scenes, far from the dog."""

from random import Random

import numpy as np

from doggos_sample.canvas import Colour, Layers, mix
from doggos_sample.props import rgb
from doggos_sample.shapes import box, ellipse, limb, spline

_WHITE: Colour = (0.97, 0.98, 1.0)


def fence(layers: Layers, y: float, wide: float, rng: Random) -> None:
    """Add a wooden fence along the line y."""
    wood = rng.choice([rgb(196, 164, 126), rgb(236, 230, 218), rgb(150, 120, 96)])
    for dy in (0.035, 0.075):
        layers.fill(box(-0.1, y + dy, wide + 0.1, y + dy + 0.016), wood)
    for x in np.arange(-rng.random() * 0.12, wide + 0.1, 0.12):
        layers.fill(box(x, y - 0.01, x + 0.022, y + 0.11), mix(wood, (0, 0, 0), 0.08))


def barn(layers: Layers, x: float, y: float, size: float, rng: Random) -> None:
    """Add a barn or a cabin."""
    wall = rng.choice([rgb(178, 78, 66), rgb(150, 110, 82), rgb(206, 190, 166)])
    layers.fill(box(x, y, x + size, y + 0.55 * size), wall)
    roof = [(-0.08, 0.5), (1.08, 0.5), (0.82, 0.86), (0.18, 0.86)]
    layers.fill(np.array(roof) * size + (x, y), mix(wall, (0.2, 0.15, 0.2), 0.6))
    door = box(x + 0.36 * size, y, x + 0.64 * size, y + 0.36 * size)
    layers.fill(door, mix(wall, (0.15, 0.1, 0.1), 0.5))
    pane = box(x + 0.1 * size, y + 0.2 * size, x + 0.26 * size, y + 0.36 * size)
    layers.fill(pane, rgb(250, 226, 160))


def snow_on(layers: Layers, x: float, y: float, size: float) -> None:
    """Add the snow on a barn's roof."""
    cap = [(-0.09, 0.52), (0.5, 0.6), (1.09, 0.52), (0.82, 0.9), (0.18, 0.9)]
    layers.fill(np.array(cap) * size + (x, y), _WHITE)


def snowman(layers: Layers, x: float, y: float, size: float, rng: Random) -> None:
    """Add a snowman with a scarf."""
    for dy, r in ((0.2, 0.24), (0.52, 0.17), (0.78, 0.12)):
        ball = ellipse(x, y + dy * size, r * size, r * size)
        layers.fill(ball, _WHITE, edge=0.003)
        layers.shade(ball, (-0.02, 0.03), (0.3, 0.45, 0.75))
    scarf = rng.choice([rgb(206, 70, 66), rgb(60, 120, 160), rgb(230, 170, 60)])
    band = ellipse(x, y + 0.66 * size, 0.13 * size, 0.035 * size)
    layers.fill(band, scarf)
    carrot = [(0.0, 0.8), (0.12, 0.77), (0.0, 0.75)]
    layers.fill(np.array(carrot) * size + (x, y), rgb(236, 140, 60))


def palm(layers: Layers, x: float, y: float, size: float, rng: Random) -> None:
    """Add a palm tree."""
    lean = rng.uniform(-0.2, 0.2) * size
    top = (x + lean, y + size)
    trunk = limb([(x, y), (x + 0.3 * lean, y + 0.5 * size), top], [0.02, 0.014, 0.011])
    layers.fill(trunk, rgb(166, 126, 90))
    leaf = mix(rgb(80, 146, 92), rgb(120, 160, 80), rng.random())
    for k, angle in enumerate(np.linspace(-0.4, np.pi + 0.4, 7)):
        out = 0.42 * size * np.array([np.cos(angle), np.sin(angle)])
        tip = (top[0] + out[0], top[1] + 0.6 * out[1] - 0.16 * size)
        bend = (top[0] + 0.6 * out[0], top[1] + 0.55 * out[1] + 0.03 * size)
        frond = limb([top, bend, tip], [0.008, 0.055 * size, 0.004])
        layers.fill(frond, mix(leaf, (0, 0.1, 0), 0.1 * (k % 2)))


def rocks(layers: Layers, x: float, y: float, size: float, tone: Colour) -> None:
    """Add three rocks."""
    for dx, k in ((-0.5, 0.7), (0.55, 0.55), (0, 1.0)):
        w = k * size
        rock = [(-0.5, 0), (-0.42, 0.4), (-0.05, 0.62), (0.36, 0.4), (0.5, 0)]
        shape = spline(np.array(rock) * w + (x + dx * size, y), 5)
        layers.fill(shape, mix(tone, (1, 1, 1), 0.1 * k))
        layers.shade(shape, (-0.01, 0.03))


def shelf(layers: Layers, x: float, y: float, rng: Random) -> None:
    """Add a shelf with books."""
    wood = rng.choice([rgb(150, 104, 72), rgb(226, 214, 196), rgb(110, 90, 84)])
    layers.fill(box(x, y, x + 0.34, y + 0.56), wood)
    for row in range(3):
        low = y + 0.03 + 0.175 * row
        inner = box(x + 0.02, low, x + 0.32, low + 0.155)
        layers.fill(inner, mix(wood, (0.1, 0.05, 0.05), 0.45))
        at = x + 0.025
        while at < x + 0.29:
            wide, high = rng.uniform(0.014, 0.03), rng.uniform(0.09, 0.14)
            spine = rng.choice(
                [rgb(200, 92, 80), rgb(90, 136, 150), rgb(226, 186, 100)]
            )
            if rng.random() < 0.85:
                layers.fill(box(at, low, at + wide, low + high), spine)
            at += wide + 0.003


def floor_lamp(layers: Layers, x: float, y: float, rng: Random) -> None:
    """Add a lamp that stands on the floor."""
    layers.fill(ellipse(x, y, 0.05, 0.012), rgb(80, 76, 80))
    layers.fill(box(x - 0.005, y, x + 0.005, y + 0.5), rgb(80, 76, 80))
    shade = [(-0.1, 0.44), (0.1, 0.44), (0.055, 0.6), (-0.055, 0.6)]
    tone = rng.choice([rgb(246, 226, 176), rgb(226, 150, 120), rgb(170, 196, 190)])
    layers.fill(np.array(shade) + (x, y), tone)


def car(layers: Layers, x: float, y: float, rng: Random) -> None:
    """Add a parked car."""
    tone = rng.choice(
        [rgb(196, 74, 70), rgb(72, 116, 160), rgb(236, 196, 96), rgb(110, 150, 130)]
    )
    body = [(0, 0.05), (0, 0.13), (0.1, 0.16), (0.5, 0.16), (0.56, 0.12), (0.56, 0.05)]
    roof = [(0.1, 0.15), (0.17, 0.25), (0.36, 0.25), (0.46, 0.15)]
    layers.fill(np.array(roof) + (x, y), mix(tone, (0, 0, 0), 0.1))
    for a, b, c, d in ((0.15, 0.2, 0.26, 0.26), (0.275, 0.275, 0.35, 0.42)):
        pane = [(a, 0.16), (b, 0.235), (c, 0.235), (d, 0.16)]
        layers.fill(np.array(pane) + (x, y), rgb(190, 214, 226))
    layers.fill(np.array(body) + (x, y), tone)
    for dx in (0.13, 0.44):
        layers.fill(ellipse(x + dx, y + 0.05, 0.05, 0.05), rgb(46, 46, 54))
        layers.fill(ellipse(x + dx, y + 0.05, 0.022, 0.022), rgb(190, 190, 196))
