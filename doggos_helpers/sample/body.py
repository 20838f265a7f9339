"""Draws the body of a dog in a pose, from the side or from the front."""

from dataclasses import dataclass
from random import Random

import numpy as np

from doggos_helpers.sample.head import Head, toned
from doggos_helpers.sample.shapes import (
    Colour,
    Layers,
    Points,
    blob,
    box,
    curve,
    ellipse,
    fringed,
    limb,
    spline,
    turned,
)
from doggos_helpers.sample.traits import Dog

POSES = ("lying", "running", "sitting", "standing")
VIEWS = ("front", "side", "turned")
_COLLARS: tuple[Colour, ...] = ((0.8, 0.2, 0.2), (0.15, 0.4, 0.65), (0.2, 0.55, 0.45))


@dataclass
class Posture:
    """Where the torso is: angle of the spine, and how high its belly line is."""

    angle: float
    lift: float
    head: Points
    tilt: float


def draw_dog(
    dog: Dog, pose: str, view: str, rng: Random
) -> Layers:
    """Return the layers of a dog that looks right, its feet at y = 0.

    Args:
        dog: What it looks like.
        pose: One of `POSES`.
        view: One of `VIEWS`; `front` is for sitting dogs.
        rng: Source of the small irregularities.
    """
    return _Body(dog, pose, view, rng).draw()


class _Body:
    def __init__(self, dog: Dog, pose: str, view: str, rng: Random) -> None:
        self.dog, self.pose, self.view, self.rng = dog, pose, view, rng
        self.layers = Layers()
        self.far = toned(dog.coat, 0.74)
        self.angle = 0.0
        self.origin = np.zeros(2)

    def draw(self) -> Layers:
        if self.view == "front":
            self._front()
            return self.layers
        self._settle()
        outline = self._torso_outline()
        self._legs(far=True)
        self._tail(self.place([(-0.46 * self.b.body, 0.84 * self.b.chest)])[0], 1)
        torso = self.layers.fill(outline, self.dog.coat, edge=0.012)
        self._markings(torso)
        self._texture(torso)
        self.layers.shade(torso, (0.02, 0.09))
        self._collar(torso)
        if self.dog.fur == "fluffy":
            self._ruff()
        self._legs(far=False)
        self._head()
        return self.layers

    @property
    def b(self):  # noqa: ANN201
        return self.dog.build

    # ---- skeleton ------------------------------------------------------------

    def place(self, points: object) -> Points:
        """Return points of the torso (x along the spine, belly at 0) in the world."""
        return turned(np.asarray(points, float), self.angle) + self.origin

    def _settle(self) -> None:
        b, rng = self.b, self.rng
        up = np.deg2rad(rng.uniform(48, 66))
        lift = b.leg
        if self.pose == "sitting":
            reach = (b.leg + 0.3 * b.chest - 0.42 * b.chest) / (0.61 * b.body)
            self.angle = float(np.arcsin(np.clip(reach, 0.22, 0.8)))
            up = np.deg2rad(rng.uniform(62, 80))
            hip = np.array([-0.36 * b.body, 0.45 * b.chest])
            self.origin = np.array([-0.3 * b.body, 0.43 * b.chest]) - turned(hip, self.angle)
        elif self.pose == "lying":
            self.origin = np.array([0.0, 0.015])
        elif self.pose == "running":
            self.angle = np.deg2rad(rng.uniform(-3, 8))
            self.origin = np.array([0.0, lift * 1.08])
            up = np.deg2rad(rng.uniform(25, 48))
        else:
            self.origin = np.array([0.0, lift])
        base = self.place([(0.4 * b.body, 0.82 * b.chest)])[0]
        reach = b.neck + 0.9 * b.head
        self.head = base + reach * np.array([np.cos(up), np.sin(up)])
        self.up = up
        self.tilt = rng.gauss(0, 0.07)

    def _torso_outline(self) -> Points:
        B, D, t = self.b.body, self.b.chest, self.b.tuck
        torso = self.place(
            [
                (0.3 * B, 1.0 * D),
                (0.02 * B, 0.95 * D),
                (-0.25 * B, 0.98 * D),
                (-0.42 * B, 0.92 * D),
                (-0.5 * B, 0.64 * D),
                (-0.46 * B, 0.3 * D),
                (-0.3 * B, 0.08 * D + t),
                (-0.02 * B, 0.02 * D + 0.45 * t),
                (0.24 * B, -0.02 * D),
                (0.42 * B, 0.1 * D),
                (0.5 * B, 0.42 * D),
            ]
        )
        across = 0.72 * self.b.head * np.array([np.sin(self.up), -np.cos(self.up)])
        neck = np.stack([self.head + across, self.head - across])
        outline = spline(np.concatenate([torso, neck]))
        return self._haired(outline)

    def _haired(self, outline: Points, amount: float = 1.0) -> Points:
        if self.dog.fur == "fluffy":
            return fringed(outline, self.rng, 0.09, 0.05 * amount)
        if self.dog.fur == "curly":
            return fringed(outline, self.rng, 0.085, 0.04 * amount, curly=True)
        return outline

    # ---- parts ---------------------------------------------------------------

    def _leg(self, points: object, radii: list[float], far: bool, flat: bool = False) -> None:
        pts = np.asarray(points, float)
        wide = [r * self.b.bulk for r in radii]
        outline = limb(pts, wide)
        if self.dog.fur != "smooth":
            outline = self._haired(outline, 0.55)
        colour = self.far if far else self.dog.coat
        foot = pts[-1]
        r = wide[-1]
        paw = ellipse(foot[0] + 0.45 * r, foot[1] - 0.15 * r, 1.45 * r, 0.85 * r)
        paw_colour = colour
        if self._socks():
            paw_colour = toned(self.dog.pale, 0.78 if far else 1.0)
        self.layers.fill(paw, paw_colour, edge=0.012)
        self.layers.fill(outline, colour, edge=0.012 if far else 0.0)
        if self._socks():
            top = 0.5 * (pts[-1] + pts[-2])
            low = limb([top, pts[-1], 2 * pts[-1] - top], [0.2, 0.2, 0.2])
            self.layers.fill(low, paw_colour, outline)
        elif self.dog.pattern == "spotted" and not far:
            for k in (0.35, 0.7):
                x, y = pts[-2] * (1 - k) + pts[-1] * k + self.rng.gauss(0, 0.012)
                patch = blob(x, y, 0.03, self.rng)
                self.layers.fill(patch, self.dog.dark, outline)
        toes = [(foot[0] + k * r, foot[1] - 0.5 * r) for k in (0.7, 1.2)]
        for x, y in toes:
            mark = np.array([(x, y), (x + 0.06 * r, y + 0.55 * r)])
            self.layers.line(mark, toned(paw_colour, 0.6), 0.012, alpha=0.7)

    def _legs(self, far: bool) -> None:
        b, B, D = self.b, self.b.body, self.b.chest
        dx = 0.11 if far else 0.0
        ground = 0.035 * b.bulk + (0.025 if far else 0.0)
        shoulder = self.place([(0.25 * B + dx, 0.36 * D)])[0]
        hip = self.place([(-0.35 * B + dx, 0.45 * D)])[0]
        front = [0.125, 0.085, 0.06, 0.056]
        hind = [0.19, 0.12, 0.058, 0.056]
        sx, hx = shoulder[0], hip[0]
        if self.pose == "lying":
            reach = 0.16 + 0.45 * b.leg
            elbow = (sx - 0.02, 0.1)
            self._leg([shoulder, elbow, (sx + 0.5 * reach, 0.07), (sx + reach + dx, ground + 0.02)], front, far)
            if not far:
                self._haunch(hip[0] + 0.02, max(0.48 * D, 0.12))
            return
        if self.pose == "sitting":
            self._leg([shoulder, (sx - 0.02, 0.55 * shoulder[1]), (sx + 0.02, 0.25 * shoulder[1]), (sx + 0.03, ground)], front, far)
            if not far:
                self._haunch(hip[0] + 0.06, 0.45 * D)
            return
        if self.pose == "running":
            s = -0.14 if far else 0.0
            L = max(b.leg, 0.2)
            self._leg([shoulder, (sx + 0.14 + s, shoulder[1] - 0.3 * L), (sx + 0.32 + s, 0.62 * L), (sx + 0.2 + 0.55 * L + s, 0.42 * L + s * 0.5)], front, far)
            self._leg([hip, (hx - 0.06 + s, 0.95 * L), (hx - 0.26 + s, 0.72 * L), (hx - 0.2 - 0.6 * L + s, 0.36 * L)], hind, far)
            return
        lean = self.rng.gauss(0, 0.03)
        self._leg([shoulder, (sx - 0.02, b.leg * 0.95), (sx + 0.01 + lean, b.leg * 0.45), (sx + 0.02 + lean, ground)], front, far)
        self._leg([hip, (hx + 0.05, b.leg * 0.9), (hx - 0.09 + lean, b.leg * 0.42), (hx - 0.05 + lean, ground)], hind, far)

    def _haunch(self, x: float, y: float) -> None:
        b = self.b
        size = 0.5 * b.chest
        foot = 0.16 + 0.2 * b.leg
        self._leg([(x - 0.05, 0.07), (x + 0.5 * foot, 0.06), (x + foot + 0.08, 0.045)], [0.06, 0.06, 0.055], False)
        thigh = spline([(x - 0.95 * size, y - 0.3 * size), (x - 0.5 * size, y + 0.75 * size), (x + 0.4 * size, y + 0.75 * size), (x + 1.0 * size, y - 0.1 * size), (x + 0.75 * size, 0.06), (x - 0.4 * size, 0.03)])
        shape = self.layers.fill(self._haired(thigh, 0.5), self.dog.coat)
        if self.dog.pattern == "spotted":
            self._spots(shape, 4, 0.04)
        if self.dog.pattern in ("saddled", "tricolour"):
            top = ellipse(x - 0.3 * size, y + 0.9 * size, 0.9 * size, 0.45 * size)
            self.layers.fill(top, self.dog.dark, shape)
        self.layers.shade(shape, (-0.03, 0.05), alpha=0.14)

    def _tail(self, base: Points, side: float) -> None:
        rng, b = self.rng, self.b
        lift = rng.uniform(0.15, 0.75) if self.pose != "running" else rng.uniform(0, 0.4)
        if self.pose == "sitting":
            lift = rng.uniform(-0.3, 0.2) + 0.25
            base = base + np.array([0.02, -0.03])
        x, y = base
        k = side
        if self.dog.tail == "docked":
            pts, radii = [(x + 0.06 * k, y - 0.02), (x - 0.05 * k, y + 0.05), (x - 0.09 * k, y + 0.09)], [0.07, 0.06, 0.05]
            if self.dog.fur == "curly":
                pts, radii = [(x + 0.05 * k, y), (x - 0.07 * k, y + 0.12), (x - 0.1 * k, y + 0.19)], [0.05, 0.07, 0.09]
        elif self.dog.tail == "curled":
            t = np.linspace(0, 1, 9)
            ang = np.pi * (0.95 - 1.75 * t)
            r = 0.19 * (1 - 0.45 * t)
            pts = np.column_stack([x + k * (0.1 + r * np.cos(ang)), y + 0.16 + r * np.sin(ang)])
            pts = np.concatenate([[(x + 0.03 * k, y - 0.05)], pts])
            wide = 0.075 if self.dog.fur == "fluffy" else 0.052
            radii = list(np.linspace(wide, 0.7 * wide, len(pts)))
        else:
            n = 0.62 if self.dog.tail == "straight" else 0.6
            tip = (x - n * k * np.cos(lift), y + n * np.sin(lift))
            mid = (x - 0.5 * n * k * np.cos(lift - 0.25), y + 0.5 * n * np.sin(lift - 0.35))
            pts = [(x + 0.06 * k, y - 0.03), mid, tip]
            radii = [0.06, 0.042, 0.02] if self.dog.tail == "straight" else [0.06, 0.13, 0.05]
        pts = np.asarray(pts, float)
        pts[:, 1] = np.maximum(pts[:, 1], 0.05)
        outline = limb(pts, list(radii))
        if self.dog.tail == "bushy":
            outline = fringed(outline, rng, 0.1, 0.07, curly=self.dog.fur == "curly")
        else:
            outline = self._haired(outline, 0.8)
        back = self.dog.pattern in ("saddled", "tricolour")
        shape = self.layers.fill(outline, toned(self.dog.dark if back else self.dog.coat, 0.94), edge=0.012)
        if self.dog.pattern in ("bicolour", "tricolour") and self.dog.tail != "docked":
            self.layers.fill(ellipse(*pts[-1], 0.15, 0.12), self.dog.pale, shape)
        self.layers.shade(shape, (0.01, 0.04), alpha=0.14)

    def _head(self) -> None:
        happy = self.rng.random() < (0.7 if self.pose == "running" else 0.4)
        head = Head(self.layers, self.dog, self.rng, self.head, self.tilt, happy)
        if self.view == "side":
            head.profile()
        else:
            head.facing(self.rng.uniform(0.35, 1))

    # ---- markings ------------------------------------------------------------

    def _socks(self) -> bool:
        return self.dog.pattern in ("bicolour", "tricolour")

    def _markings(self, torso: Points) -> None:
        B, D = self.b.body, self.b.chest
        dog = self.dog
        if dog.pattern in ("saddled", "tricolour"):
            saddle = spline(self.place([(0.34 * B, 1.3 * D), (0.3 * B, 0.72 * D), (0.1 * B, 0.46 * D), (-0.2 * B, 0.5 * D), (-0.4 * B, 0.62 * D), (-0.62 * B, 0.75 * D), (-0.5 * B, 1.4 * D)]))
            self.layers.fill(saddle, dog.dark, torso)
        if self._socks():
            bib = spline(self.place([(0.7 * B, 0.8 * D), (0.44 * B, 0.86 * D), (0.36 * B, 0.5 * D), (0.2 * B, 0.2 * D), (-0.1 * B, 0.16 * D), (-0.3 * B, 0.2 * D), (-0.2 * B, -0.3 * D), (0.5 * B, -0.4 * D)]))
            self.layers.fill(bib, dog.pale, torso)
            if dog.pale[2] > 0.6:
                collar = limb([self.place([(0.5 * B, 0.55 * D)])[0], self.head], [0.16, 0.7 * self.b.head])
                self.layers.fill(collar, dog.pale, torso)
        if dog.pattern == "spotted":
            self._spots(torso, 26, 0.046)

    def _spots(self, clip: Points, count: int, size: float) -> None:
        (x0, y0), (x1, y1) = clip.min(0), clip.max(0)
        placed: list[tuple[float, float]] = []
        for _ in range(count * 3):
            x, y = self.rng.uniform(x0, x1), self.rng.uniform(y0, y1)
            if any(np.hypot(x - p, y - q) < 2.3 * size for p, q in placed):
                continue
            placed.append((x, y))
            spot = blob(x, y, size * self.rng.uniform(0.55, 1.15), self.rng)
            self.layers.fill(spot, self.dog.dark, clip)
            if len(placed) >= count:
                return

    def _texture(self, clip: Points) -> None:
        if self.dog.fur == "smooth":
            return
        (x0, y0), (x1, y1) = clip.min(0), clip.max(0)
        tone = toned(self.dog.coat, 0.8)
        for _ in range(34):
            x, y = self.rng.uniform(x0, x1), self.rng.uniform(y0, y1)
            if self.dog.fur == "curly":
                a = np.linspace(0, 4.6, 9) + self.rng.random() * 6
                mark = np.column_stack([x + 0.03 * np.cos(a), y + 0.03 * np.sin(a)])
            else:
                mark = curve([(x, y), (x - 0.05, y - 0.02), (x - 0.08, y - 0.07)], 4)
            self.layers.line(mark, tone, 0.013, clip, alpha=0.7)

    def _ruff(self) -> None:
        B, D = self.b.body, self.b.chest
        a = self.place([(0.4 * B, 0.55 * D)])[0]
        end = self.head + np.array([-0.02, -0.5 * self.b.head])
        shape = fringed(limb([a, end], [0.17, 0.17]), self.rng, 0.095, 0.06)
        white = self._socks() and self.dog.pale[2] > 0.6
        colour: Colour = self.dog.pale if white else toned(self.dog.coat, 1.15)
        self.layers.fill(shape, colour, alpha=0.95)

    def _collar(self, torso: Points) -> None:
        if self.dog.fur != "smooth" or self.rng.random() > 0.35:
            return
        up = np.array([np.cos(self.up), np.sin(self.up)])
        across = np.array([up[1], -up[0]])
        middle = self.head - 0.95 * self.b.head * up
        band = np.stack([middle + 0.45 * across, middle - 0.45 * across])
        colour = self.rng.choice(_COLLARS)
        self.layers.line(band, colour, 0.055, torso)

    # ---- from the front ------------------------------------------------------

    def _front(self) -> None:
        b, dog = self.b, self.dog
        high = 0.3 + 0.75 * b.leg + 0.3 * b.chest
        wide = 0.2 + 0.22 * b.chest * b.bulk
        self._tail(np.array([-0.75 * wide, 0.16]), 1)
        for side in (-1, 1):
            haunch = ellipse(side * 0.95 * wide, 0.17, 0.62 * wide, 0.19)
            shape = self.layers.fill(self._haired(haunch, 0.6), toned(dog.coat, 0.9), edge=0.012)
            if dog.pattern == "spotted":
                self._spots(shape, 3, 0.035)
            paw = ellipse(side * 1.1 * wide, 0.045, 0.11, 0.05)
            self.layers.fill(paw, dog.pale if self._socks() else toned(dog.coat, 0.95), edge=0.012)
        top = high + 0.06
        pear = spline([(-0.45 * wide, top), (0.45 * wide, top), (0.85 * wide, 0.62 * high), (1.0 * wide, 0.25), (0.7 * wide, 0.07), (-0.7 * wide, 0.07), (-1.0 * wide, 0.25), (-0.85 * wide, 0.62 * high)])
        torso = self.layers.fill(self._haired(pear), dog.coat, edge=0.012)
        self._front_markings(torso, wide, high)
        self._texture(torso)
        self.layers.shade(torso, (0.03, 0.07))
        self._front_legs(wide, high)
        if dog.fur == "fluffy":
            chest = fringed(ellipse(0, 0.75 * high, 0.62 * wide, 0.17), self.rng, 0.095, 0.06)
            pale = self._socks() and dog.pale[2] > 0.6
            self.layers.fill(chest, dog.pale if pale else toned(dog.coat, 1.15))
        self.head = np.array([0.0, high + 0.1 + b.neck * 0.5 + 0.45 * b.head])
        self.tilt = self.rng.gauss(0, 0.09)
        happy = self.rng.random() < 0.5
        Head(self.layers, dog, self.rng, self.head, self.tilt, happy).facing(
            self.rng.uniform(-0.5, 0.5)
        )

    def _front_markings(self, torso: Points, wide: float, high: float) -> None:
        dog = self.dog
        if dog.pattern in ("saddled", "tricolour"):
            for side in (-1, 1):
                patch = ellipse(side * 0.95 * wide, 0.62 * high, 0.5 * wide, 0.4 * high)
                self.layers.fill(patch, dog.dark, torso)
        if self._socks():
            bib = spline([(-0.6 * wide, 1.2 * high), (0.6 * wide, 1.2 * high), (0.5 * wide, 0.6 * high), (0, 0.2 * high), (-0.5 * wide, 0.6 * high)])
            self.layers.fill(bib, dog.pale, torso)
        if dog.pattern == "spotted":
            self._spots(torso, 14, 0.04)

    def _front_legs(self, wide: float, high: float) -> None:
        for side in (-1, 1):
            x = side * 0.42 * wide
            r = 0.07 * self.b.bulk
            leg = limb([(x, 0.55 * high), (x, 0.3 * high), (x * 1.05, 0.05)], [r * 1.2, r, r * 0.95])
            outline = self.layers.fill(self._haired(leg, 0.5), self.dog.coat)
            if self._socks():
                self.layers.fill(box(x - 0.2, -0.1, x + 0.2, 0.22 * high), self.dog.pale, outline)
            if self.dog.pattern == "spotted":
                self._spots(outline, 3, 0.03)
            self.layers.shade(outline, (0.022, 0.02), alpha=0.15)
            paw = ellipse(x * 1.05, 0.04, 1.35 * r, 0.75 * r)
            colour = self.dog.pale if self._socks() else self.dog.coat
            self.layers.fill(paw, colour, edge=0.012)
            for k in (-0.4, 0.4):
                mark = np.array([(x * 1.05 + k * r, 0.015), (x * 1.05 + k * r, 0.05)])
                self.layers.line(mark, toned(colour, 0.6), 0.012, alpha=0.7)
