"""Paints the places that dogs stand in: a limited palette, a horizon, some props.

Coordinates are fractions of the picture's height, from the bottom left corner.
"""

from random import Random

import numpy as np

from doggos_helpers.sample.shapes import (
    Canvas,
    Colour,
    Layers,
    Points,
    box,
    ellipse,
    fringed,
    limb,
    spline,
)

SCENES = ("beach", "meadow", "room", "snow", "street")


def _rgb(r: int, g: int, b: int) -> Colour:
    return r / 255, g / 255, b / 255


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return a colour between two; ``share`` is that of the second."""
    x, y, z = (p * (1 - share) + q * share for p, q in zip(a, b, strict=True))
    return x, y, z


def paint_scene(canvas: Canvas, scene: str, horizon: float, rng: Random) -> None:
    """Paint a scene over the whole canvas.

    Args:
        canvas: What to paint on.
        scene: One of `SCENES`.
        horizon: Height of the horizon, as a fraction of the height.
        rng: Source of palette and props.
    """
    painter = {
        "beach": _beach,
        "meadow": _meadow,
        "room": _room,
        "snow": _snow,
        "street": _street,
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


Shades = tuple[tuple[Colour, Colour], tuple[Colour, Colour]]


def _hills(
    layers: Layers, y: float, height: float, wide: float, colour: Colour, rng: Random
) -> None:
    n = 7
    xs = np.linspace(-0.2, wide + 0.2, n)
    ys = [y + height * rng.uniform(0.15, 1) for _ in range(n)]
    ridge = spline(
        [*zip(xs, ys, strict=True), (wide + 0.5, y - 0.05), (-0.5, y - 0.05)], 8
    )
    layers.fill(ridge, colour, clip=box(-1, y - 0.002, wide + 1, 2))


def _cloud(layers: Layers, x: float, y: float, size: float, alpha: float) -> None:
    for dx, dy, r in ((-0.9, 0, 0.6), (0, 0.15, 0.9), (0.9, 0, 0.65), (0.3, -0.1, 0.8)):
        puff = ellipse(x + dx * size, y + dy * size, r * size, 0.55 * r * size)
        layers.fill(puff, (1, 1, 1), alpha=alpha)


def _sky(layers: Layers, horizon: float, wide: float, rng: Random) -> None:
    if rng.random() < 0.45:
        x, y = rng.uniform(0.1, wide - 0.1), rng.uniform(horizon + 0.2, 0.95)
        layers.fill(ellipse(x, y, 0.09, 0.09), _rgb(255, 244, 200), alpha=0.45)
        layers.fill(ellipse(x, y, 0.06, 0.06), _rgb(255, 240, 180))
    for _ in range(rng.randint(0, 3)):
        x, y = rng.uniform(0, wide), rng.uniform(horizon + 0.15, 0.98)
        _cloud(layers, x, y, rng.uniform(0.04, 0.09), 0.75)


def _tree(
    layers: Layers, x: float, y: float, size: float, colour: Colour, rng: Random
) -> None:
    trunk = box(x - 0.03 * size, y, x + 0.03 * size, y + 0.4 * size)
    layers.fill(trunk, _rgb(112, 84, 66))
    crown = fringed(
        ellipse(x, y + 0.62 * size, 0.3 * size, 0.36 * size),
        rng, 0.2 * size, 0.05 * size, curly=True,
    )
    layers.fill(crown, colour)
    layers.shade(crown, (-0.05 * size, 0.06 * size))


def _fir(
    layers: Layers, x: float, y: float, size: float, colour: Colour, snow: bool
) -> None:
    layers.fill(box(x - 0.03 * size, y, x + 0.03 * size, y + 0.2 * size), _rgb(96, 76, 66))
    for k in range(3):
        base, half = y + (0.12 + 0.26 * k) * size, (0.3 - 0.07 * k) * size
        tip = base + 0.42 * size
        part = np.array([(x - half, base), (x + half, base), (x, tip)])
        layers.fill(part, mix(colour, (1, 1, 1), 0.06 * k))
        if snow:
            cap = np.array([(x - 0.35 * half, tip - 0.35 * (tip - base)), (x + 0.35 * half, tip - 0.35 * (tip - base)), (x, tip)])
            layers.fill(cap, (0.96, 0.98, 1.0))


def _grass(
    layers: Layers, x: float, y: float, size: float, colour: Colour, rng: Random
) -> None:
    for k in (-1, 0, 1):
        lean = 0.35 * k + rng.uniform(-0.15, 0.15)
        blade = np.array([(x + 0.16 * k * size - 0.07 * size, y), (x + 0.16 * k * size + 0.07 * size, y), (x + lean * size, y + size * rng.uniform(0.7, 1.1))])
        layers.fill(blade, colour)


def _meadow(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    green = mix(_rgb(122, 172, 84), _rgb(152, 168, 78), rng.random())
    sky = mix(_rgb(126, 190, 232), _rgb(190, 216, 230), rng.random())
    _sky(layers, horizon, wide, rng)
    _hills(layers, horizon, 0.16, wide, mix(green, sky, 0.55), rng)
    _hills(layers, horizon, 0.08, wide, mix(green, sky, 0.25), rng)
    for _ in range(rng.randint(0, 4)):
        x, size = rng.uniform(0, wide), rng.uniform(0.15, 0.4)
        leaf = mix(mix(green, (0.1, 0.3, 0.12), rng.uniform(0.25, 0.5)), sky, 0.15)
        _tree(layers, x, horizon - 0.01, size, leaf, rng)
    for _ in range(26):
        y = horizon * (1 - rng.random() ** 0.7)
        size = 0.015 + 0.045 * (1 - y / horizon)
        x = rng.uniform(0, wide)
        if rng.random() < 0.25:
            petal = rng.choice([_rgb(250, 240, 240), _rgb(250, 214, 90), _rgb(226, 120, 140)])
            layers.fill(ellipse(x, y, 0.25 * size, 0.22 * size), petal)
        else:
            _grass(layers, x, y, size, mix(green, (0.1, 0.3, 0.1), rng.uniform(0.1, 0.35)), rng)
    light = mix(sky, (1, 1, 1), 0.6)
    return (sky, light), (mix(green, (1, 1, 0.8), 0.18), mix(green, (0, 0.2, 0), 0.12))


def _snow(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    sky = mix(_rgb(176, 200, 226), _rgb(214, 214, 226), rng.random())
    white = mix(_rgb(240, 245, 252), _rgb(226, 234, 248), rng.random())
    _hills(layers, horizon, 0.24, wide, mix(_rgb(170, 186, 212), sky, 0.3), rng)
    _hills(layers, horizon, 0.1, wide, mix(white, sky, 0.45), rng)
    for _ in range(rng.randint(1, 6)):
        x, size = rng.uniform(0, wide), rng.uniform(0.2, 0.45)
        tone = mix(_rgb(72, 110, 104), sky, rng.uniform(0, 0.4))
        _fir(layers, x, horizon - 0.02, size, tone, rng.random() < 0.7)
    for _ in range(5):
        y = horizon * rng.uniform(0.05, 0.9)
        drift = ellipse(rng.uniform(0, wide), y, rng.uniform(0.15, 0.5), 0.015)
        layers.fill(drift, mix(white, _rgb(150, 176, 220), 0.3), alpha=0.6)
    if rng.random() < 0.5:
        for _ in range(40):
            r = rng.uniform(0.003, 0.008)
            layers.fill(ellipse(rng.uniform(0, wide), rng.random(), r, r), (1, 1, 1), alpha=0.9)
    return (sky, mix(sky, (1, 1, 1), 0.6)), (white, mix(white, _rgb(190, 208, 238), 0.5))


def _beach(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    sky = mix(_rgb(120, 196, 236), _rgb(252, 196, 150), rng.random() ** 2)
    sea = mix(_rgb(52, 146, 178), _rgb(86, 176, 186), rng.random())
    sand = mix(_rgb(238, 216, 166), _rgb(226, 198, 150), rng.random())
    _sky(layers, horizon, wide, rng)
    shore = horizon * rng.uniform(0.55, 0.75)
    layers.fill(box(-1, shore, wide + 1, horizon), sea)
    layers.fill(box(-1, (shore + 2 * horizon) / 3, wide + 1, horizon), mix(sea, (0, 0.2, 0.4), 0.15))
    xs = np.linspace(-0.1, wide + 0.1, 9)
    edge = [(x, shore + rng.uniform(-0.012, 0.012)) for x in xs]
    foam = limb(edge, [0.012] * 9)
    wet = limb([(x, y - 0.02) for x, y in edge], [0.022] * 9)
    layers.fill(wet, mix(sand, _rgb(150, 120, 90), 0.35))
    layers.fill(foam, (0.97, 0.99, 1.0))
    for _ in range(rng.randint(2, 5)):
        x, y = rng.uniform(0, wide), rng.uniform(shore + 0.03, horizon - 0.01)
        layers.fill(ellipse(x, y, rng.uniform(0.03, 0.09), 0.004), (1, 1, 1), alpha=0.6)
    if rng.random() < 0.4:
        x = rng.uniform(0.1, wide - 0.1)
        boat = np.array([(x - 0.05, horizon), (x + 0.05, horizon), (x + 0.035, horizon - 0.02), (x - 0.035, horizon - 0.02)])
        layers.fill(boat, _rgb(190, 80, 70))
        layers.fill(np.array([(x, horizon + 0.01), (x, horizon + 0.12), (x + 0.045, horizon + 0.02)]), (0.98, 0.97, 0.94))
    if rng.random() < 0.45:
        _umbrella(layers, rng.choice((0.12, wide - 0.12)), shore - 0.05, rng)
    for _ in range(18):
        spot = ellipse(rng.uniform(0, wide), shore * rng.random() * 0.9, rng.uniform(0.004, 0.02), 0.004)
        layers.fill(spot, mix(sand, _rgb(150, 110, 70), 0.4), alpha=0.7)
    return (sky, mix(sky, (1, 1, 1), 0.55)), (sand, mix(sand, _rgb(200, 160, 110), 0.35))


def _umbrella(layers: Layers, x: float, y: float, rng: Random) -> None:
    tone = rng.choice([_rgb(226, 92, 84), _rgb(60, 140, 170), _rgb(240, 180, 70)])
    layers.fill(box(x - 0.006, y, x + 0.006, y + 0.42), _rgb(240, 236, 228))
    dome = spline([(x - 0.2, y + 0.36), (x - 0.12, y + 0.47), (x, y + 0.51), (x + 0.12, y + 0.47), (x + 0.2, y + 0.36), (x, y + 0.39)])
    layers.fill(dome, tone)
    layers.fill(limb([(x, y + 0.5), (x, y + 0.38)], [0.01, 0.055]), (0.98, 0.96, 0.92), dome)


def _room(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    wall = rng.choice([_rgb(226, 206, 186), _rgb(196, 210, 204), _rgb(216, 196, 204), _rgb(190, 200, 216), _rgb(232, 220, 190)])
    floor = rng.choice([_rgb(186, 138, 98), _rgb(160, 116, 86), _rgb(206, 168, 126)])
    layers.fill(box(-1, horizon, wide + 1, horizon + 0.03), mix(wall, (1, 1, 1), 0.5))
    for k in range(1, 6):
        y = horizon * (1 - (k / 6) ** 1.4)
        layers.line(np.array([(-0.1, y), (wide + 0.1, y)]), mix(floor, (0.2, 0.1, 0), 0.25), 0.004)
    x = rng.uniform(0.1, wide - 0.4)
    if rng.random() < 0.6:
        _window(layers, x, horizon + 0.16, rng)
    else:
        for dx in (0, 0.24):
            frame = box(x + dx, horizon + 0.2, x + dx + 0.17, horizon + 0.42)
            layers.fill(frame, _rgb(250, 246, 240), edge=0.006)
            inner = box(x + dx + 0.02, horizon + 0.22, x + dx + 0.15, horizon + 0.4)
            layers.fill(inner, rng.choice([_rgb(214, 140, 110), _rgb(120, 160, 170), _rgb(220, 190, 110)]))
    if rng.random() < 0.5:
        _sofa(layers, rng.uniform(0, wide - 0.2), horizon - 0.04, rng)
    if rng.random() < 0.5:
        _plant(layers, rng.choice((0.1, wide - 0.1)), horizon - 0.06, rng)
    if rng.random() < 0.7:
        rug = rng.choice([_rgb(180, 90, 84), _rgb(88, 120, 140), _rgb(214, 186, 140), _rgb(120, 130, 96)])
        cx = wide / 2 + rng.uniform(-0.2, 0.2)
        layers.fill(ellipse(cx, 0.42 * horizon, 0.55, 0.3 * horizon), rug)
        layers.fill(ellipse(cx, 0.42 * horizon, 0.47, 0.23 * horizon), mix(rug, (1, 1, 1), 0.2))
    return (mix(wall, (1, 1, 1), 0.12), mix(wall, (0.3, 0.2, 0.2), 0.08)), (mix(floor, (0, 0, 0), 0.08), floor)


def _window(layers: Layers, x: float, y: float, rng: Random) -> None:
    layers.fill(box(x - 0.02, y - 0.02, x + 0.36, y + 0.38), _rgb(250, 248, 244))
    for dx in (0, 0.175):
        layers.fill(box(x + dx, y, x + dx + 0.165, y + 0.36), _rgb(176, 212, 232))
        layers.fill(box(x + dx, y, x + dx + 0.165, y + 0.1), _rgb(150, 190, 140))
    curtain = rng.choice([_rgb(214, 120, 100), _rgb(110, 140, 160), _rgb(226, 196, 130)])
    for a, b in ((x - 0.08, x + 0.02), (x + 0.32, x + 0.42)):
        layers.fill(box(a, y - 0.06, b, y + 0.42), curtain)


def _sofa(layers: Layers, x: float, y: float, rng: Random) -> None:
    tone = rng.choice([_rgb(90, 130, 140), _rgb(190, 120, 90), _rgb(130, 130, 150), _rgb(120, 140, 100)])
    parts = ((0, 0.06, 0.62, 0.3), (-0.06, 0.02, 0.06, 0.2), (0.56, 0.02, 0.68, 0.2), (0, 0.03, 0.62, 0.14))
    for k, (a, b, c, d) in enumerate(parts):
        part = spline([(x + a, y + b), (x + c, y + b), (x + c, y + d), (x + a, y + d)], 6)
        layers.fill(part, mix(tone, (1, 1, 1), 0.08 * (k > 0)), edge=0.004)


def _plant(layers: Layers, x: float, y: float, rng: Random) -> None:
    for k in range(-3, 4):
        tip = (x + 0.07 * k, y + 0.42 - 0.025 * abs(k) + rng.uniform(-0.03, 0.03))
        leaf = limb([(x, y + 0.12), ((x + tip[0]) / 2 + 0.02 * k, (y + tip[1]) / 2 + 0.06), tip], [0.01, 0.035, 0.004])
        layers.fill(leaf, mix(_rgb(74, 128, 86), (0.5, 0.7, 0.4), 0.12 * abs(k)))
    pot = np.array([(x - 0.07, y + 0.14), (x + 0.07, y + 0.14), (x + 0.05, y), (x - 0.05, y)])
    layers.fill(pot, _rgb(206, 120, 86))


def _street(layers: Layers, horizon: float, wide: float, rng: Random) -> Shades:
    sky = mix(_rgb(160, 200, 226), _rgb(226, 206, 196), rng.random())
    road = mix(_rgb(150, 150, 158), _rgb(176, 168, 164), rng.random())
    x = -rng.uniform(0, 0.3)
    while x < wide:
        w, top = rng.uniform(0.24, 0.42), rng.uniform(0.35, 0.62)
        wall = rng.choice([_rgb(206, 130, 100), _rgb(222, 190, 140), _rgb(150, 166, 176), _rgb(196, 170, 170), _rgb(168, 104, 92), _rgb(214, 206, 190)])
        _house(layers, x, horizon, w, top, wall, rng)
        x += w
    curb = horizon * rng.uniform(0.72, 0.85)
    layers.fill(box(-1, curb, wide + 1, horizon), mix(road, (1, 1, 1), 0.38))
    layers.fill(box(-1, curb - 0.018, wide + 1, curb), mix(road, (1, 1, 1), 0.65))
    shift = rng.uniform(0, 0.3)
    for k in range(8):
        a = k * 0.36 - shift
        dash = np.array([(a, 0.3 * horizon), (a + 0.17, 0.3 * horizon), (a + 0.19, 0.36 * horizon), (a + 0.03, 0.36 * horizon)])
        layers.fill(dash, (0.95, 0.93, 0.86))
    if rng.random() < 0.6:
        lamp = rng.uniform(0.05, wide - 0.05)
        layers.fill(box(lamp - 0.008, curb, lamp + 0.008, curb + 0.6), _rgb(70, 74, 84))
        layers.fill(ellipse(lamp, curb + 0.62, 0.035, 0.04), _rgb(250, 236, 190), edge=0.006)
    return (sky, mix(sky, (1, 1, 1), 0.5)), (mix(road, (1, 1, 1), 0.1), mix(road, (0, 0, 0), 0.15))


def _house(
    layers: Layers, x: float, y: float, w: float, top: float, wall: Colour, rng: Random
) -> None:
    layers.fill(box(x, y, x + w, y + top), wall)
    if rng.random() < 0.6:
        roof = np.array([(x - 0.01, y + top), (x + w + 0.01, y + top), (x + 0.8 * w, y + top + 0.1), (x + 0.2 * w, y + top + 0.1)])
        layers.fill(roof, mix(wall, (0.3, 0.15, 0.15), 0.6))
    pane = mix(_rgb(120, 150, 170), _rgb(250, 230, 160), rng.choice((0.0, 0.0, 0.9)))
    for row in range(1, 4):
        for k in (0.28, 0.72):
            a, b = x + k * w, y + 0.17 * row - 0.02
            if b + 0.1 < y + top and not (row == 0):
                layers.fill(box(a - 0.045, b - 0.01, a + 0.045, b + 0.1), mix(wall, (1, 1, 1), 0.6))
                layers.fill(box(a - 0.035, b, a + 0.035, b + 0.09), pane)
    door = x + rng.choice((0.3, 0.7)) * w
    layers.fill(box(door - 0.04, y, door + 0.04, y + 0.13), mix(wall, (0.2, 0.1, 0.1), 0.6))


def foreground(
    scene: str, x: float, y: float, size: float, rng: Random
) -> tuple[Layers, Points]:
    """Return something small that stands before the dog, and its outline."""
    layers = Layers()
    if scene == "meadow":
        leaf = mix(_rgb(92, 146, 66), _rgb(110, 130, 60), rng.random())
        for k in range(9):
            _grass(layers, x + (k - 4) * 0.22 * size, y - 0.1 * size, size * rng.uniform(0.5, 1), leaf, rng)
        return layers, ellipse(x, y, size, 0.4 * size)
    if scene == "snow":
        mound = spline([(x - 1.3 * size, y - 0.3 * size), (x - 0.5 * size, y + 0.35 * size), (x + 0.4 * size, y + 0.5 * size), (x + 1.3 * size, y - 0.3 * size), (x, y - 0.6 * size)])
        layers.fill(mound, _rgb(246, 249, 254))
        layers.shade(mound, (-0.02, 0.03), (0.3, 0.45, 0.75))
        return layers, mound
    tone = rng.choice([_rgb(226, 84, 80), _rgb(70, 130, 190), _rgb(246, 190, 70), _rgb(110, 170, 110)])
    ball = ellipse(x, y + 0.5 * size, 0.5 * size, 0.5 * size)
    layers.fill(ball, tone)
    layers.fill(ellipse(x, y + 0.5 * size, 0.18 * size, 0.5 * size, 0.4), (0.98, 0.96, 0.9), ball)
    layers.shade(ball, (-0.04, 0.05))
    return layers, ball
