"""Draws the head of a dog, in profile or turned towards the viewer."""

from random import Random

import numpy as np

from doggos_helpers.sample.shapes import (
    Colour,
    Layers,
    Points,
    blob,
    curve,
    ellipse,
    fringed,
    limb,
    spline,
    turned,
)
from doggos_helpers.sample.traits import Dog

_INK: Colour = (0.13, 0.11, 0.13)
_TONGUE: Colour = (0.9, 0.45, 0.5)
_INNER: Colour = (0.86, 0.62, 0.58)


def toned(colour: Colour, factor: float) -> Colour:
    """Return the colour darker (below 1) or lighter (above 1)."""
    if factor <= 1:
        r, g, b = (c * factor for c in colour)
    else:
        r, g, b = (1 - (1 - c) / factor for c in colour)
    return r, g, b


class Head:
    """A head in units of its own radius, placed at a point with a tilt."""

    def __init__(
        self,
        layers: Layers,
        dog: Dog,
        rng: Random,
        at: Points,
        tilt: float,
        open_mouth: bool,
    ) -> None:
        self.layers, self.dog, self.rng = layers, dog, rng
        self.at, self.tilt, self.size = at, tilt, dog.build.head
        self.open = open_mouth

    def place(self, points: Points) -> Points:
        """Return points of head units in units of the dog."""
        return turned(np.asarray(points, float) * self.size, self.tilt) + self.at

    def _fill(
        self, points: Points, colour: Colour, clip: Points | None = None
    ) -> Points:
        edge = 0.0 if clip is not None else 0.012
        return self.layers.fill(self.place(points), colour, clip, edge=edge)

    def _haired(self, points: Points, amount: float = 1.0) -> Points:
        if self.dog.fur == "fluffy":
            return fringed(points, self.rng, 0.34, 0.16 * amount)
        if self.dog.fur == "curly":
            return fringed(points, self.rng, 0.36, 0.14 * amount, curly=True)
        return points

    # ---- profile -------------------------------------------------------------

    def profile(self) -> None:
        """Draw the head seen from the side, looking right."""
        dog, b = self.dog, self.dog.build
        m, j = 0.28 + 0.55 * b.muzzle, 0.55 + 0.55 * b.jaw
        self._ear_side(far=True)
        if self.open:
            jaw = limb([(0.5, -0.4), (0.4 + 0.8 * m, -0.72 * j)], [0.25, 0.16])
            self._fill(jaw, toned(self._muzzle_colour(), 0.85))
            tip = (0.45 + 0.8 * m, -0.85 * j)
            tongue = limb([(0.6, -0.35), (0.3 + 0.75 * m, -0.55 * j), tip], [0.1, 0.15, 0.13])
            self._fill(tongue, _TONGUE)
        skull = spline(
            [
                (-0.98, 0.05),
                (-0.72, 0.72),
                (-0.1, 0.98),
                (0.48, 0.76),
                (0.78, 0.36),
                (0.85 + 0.45 * m, 0.2),
                (0.78 + m, 0.12),
                (0.88 + m, -0.12),
                (0.78 + m, -0.34 * j),
                (0.5 + 0.5 * m, -0.5 * j),
                (0.35, -0.72 * j),
                (-0.4, -0.85),
            ]
        )
        outline = self._fill(self._haired(skull, 0.7), dog.coat)
        self._markings_side(m, j, outline)
        self.layers.shade(outline, (0.01, 0.09 * self.size / 0.23))
        self._nose_side(m, j)
        self._eye(0.4, 0.26)
        if dog.fur == "curly":
            self._topknot(-0.15)
        self._ear_side(far=False)

    def _nose_side(self, m: float, j: float) -> None:
        nose = ellipse(0.82 + m, 0.06, 0.2, 0.16, -0.3)
        self._fill(nose, _INK)
        shine = ellipse(0.84 + m, 0.13, 0.07, 0.04, -0.3)
        self.layers.fill(self.place(shine), (1, 1, 1), alpha=0.5)
        mouth = curve([(0.8 + m, -0.2 * j), (0.6 + 0.6 * m, -0.34 * j), (0.62, -0.26)])
        tone = toned(_INK, 0.9) if sum(self.dog.coat) > 0.8 else (0.02, 0.02, 0.02)
        self.layers.line(self.place(mouth), tone, 0.07 * self.size, alpha=0.75)

    def _markings_side(self, m: float, j: float, clip: Points) -> None:
        dog = self.dog
        if dog.pattern in ("bicolour", "tricolour"):
            tan = dog.pale[2] < 0.6
            muzzle = spline(
                [(0.66, 0.3), (1 + m, 0.5), (1.3 + m, -0.3), (1 + m, -1.1), (-0.3, -1.1), (0.25, -0.3)]
            )
            self._fill(muzzle, dog.pale, clip)
            if tan:
                self._fill(ellipse(0.48, 0.55, 0.13, 0.09), dog.pale, clip)
            else:
                blaze = limb([(0.95, 0.3), (0.55, 0.72), (0.2, 1.0)], [0.16, 0.14, 0.08])
                self._fill(blaze, dog.pale, clip)
        if dog.mask:
            mask = spline(
                [(0.05, 0.3), (0.5, 0.55), (0.9, 0.4), (1.2 + m, 0.5), (1.3 + m, -0.8), (0.3, -1.0), (0.05, -0.3)]
            )
            self._fill(mask, dog.dark, clip)
        if dog.pattern == "spotted":
            self._spots(clip, [(-0.5, 0.5), (-0.2, -0.4), (0.2, 0.7), (0.75, -0.15), (-0.7, 0.0)])

    def _ear_side(self, far: bool) -> None:
        dog, e = self.dog, self.dog.build.ear
        dx = 0.42 if far else 0.0
        tone = self._ear_colour(far)
        if dog.ears == "pricked":
            ear = spline([(-0.72, 0.35), (-0.66, 1.1), (-0.42, 0.75 + 1.1 * e), (-0.02, 1.2), (0.18, 0.7), (-0.3, 0.4)])
            shape = self._fill(ear + (dx, 0), tone)
            if not far:
                inner = spline([(-0.45, 0.7), (-0.46, 1.15), (-0.38, 0.55 + 1.0 * e), (-0.14, 1.15), (-0.02, 0.8)])
                self._fill(inner + (dx, 0), self._inner(), shape)
            return
        if dog.ears == "folded":
            stem = spline([(-0.72, 0.4), (-0.7, 0.95), (-0.5, 0.8 + 0.4 * e), (-0.15, 1.08), (0.05, 0.72), (-0.3, 0.45)])
            self._fill(stem + (dx, 0), tone)
            flap = spline([(-0.68, 0.92), (-0.5, 0.86 + 0.4 * e), (-0.12, 1.12), (0.24, 0.62), (0.3, 0.34), (-0.08, 0.55), (-0.45, 0.8)])
            self._fill(flap + (dx, 0), toned(tone, 0.74))
            return
        drop = 0.75 * e if dog.ears == "floppy" else 1.42 * e
        ear = spline(
            [
                (-0.62, 0.72),
                (-0.25, 0.82),
                (0.02, 0.45),
                (-0.02, 0.4 - 0.6 * drop),
                (-0.3, 0.3 - 1.1 * drop),
                (-0.75, 0.35 - drop),
                (-0.92, 0.4 - 0.45 * drop),
                (-0.85, 0.5),
            ]
        )
        if far:
            ear = ear * (0.9, 0.9) + (dx * 0.5, 0.05)
        shape = self._fill(self._haired(ear, 1.1), tone)
        self.layers.shade(shape, (0.015, 0.06), alpha=0.2)

    # ---- towards the viewer --------------------------------------------------

    def facing(self, turn: float) -> None:
        """Draw the head seen from the front, turned by -1 to 1 to the side."""
        dog, b = self.dog, self.dog.build
        m, j = b.muzzle, 0.5 + 0.5 * b.jaw
        k = 0.28 * turn
        if dog.ears in ("pricked", "folded"):
            self._ear_front(-1, turn)
            self._ear_front(1, turn)
        chin = -0.82 - 0.22 * m
        face = spline(
            [
                (-0.97, 0.1),
                (-0.72, 0.76),
                (0, 0.95),
                (0.72, 0.76),
                (0.97, 0.1),
                (0.74 + 0.5 * k, -0.52),
                (0.42 * j + k, chin + 0.2),
                (k, chin),
                (-0.42 * j + k, chin + 0.2),
                (-0.74 + 0.5 * k, -0.52),
            ]
        )
        outline = self._fill(self._haired(face, 0.8), dog.coat)
        self._markings_front(k, chin, outline)
        self.layers.shade(outline, (0.012, 0.08 * self.size / 0.23))
        self._muzzle_front(k, chin, j)
        for side in (-1, 1):
            self._eye(side * 0.4 + 0.8 * k, 0.14)
        if dog.fur == "curly":
            self._topknot(0.0)
        if dog.ears in ("floppy", "long"):
            self._ear_front(-1, turn)
            self._ear_front(1, turn)

    def _muzzle_front(self, k: float, chin: float, j: float) -> None:
        tone = self._muzzle_colour()
        top = -0.12
        mid = (top + chin) / 2
        if self.open:
            tongue = limb([(k, mid - 0.1), (k, chin - 0.12)], [0.17, 0.2])
            self._fill(tongue, _TONGUE)
        wide = 0.5 * j
        bulge = spline(
            [(k - wide, mid), (k - 0.3 * j, top), (k + 0.3 * j, top), (k + wide, mid), (k + 0.3, chin + 0.14), (k, chin + 0.2), (k - 0.3, chin + 0.14)]
        )
        self.layers.fill(self.place(bulge), toned(tone, 1.12))
        ny = mid + 0.2
        nose = spline([(k - 0.24, ny + 0.06), (k, ny + 0.14), (k + 0.24, ny + 0.06), (k + 0.12, ny - 0.12), (k, ny - 0.17), (k - 0.12, ny - 0.12)])
        self._fill(nose, _INK)
        shine = ellipse(k - 0.07, ny + 0.05, 0.08, 0.035)
        self.layers.fill(self.place(shine), (1, 1, 1), alpha=0.5)
        smile = curve([(k - 0.34, ny - 0.27), (k - 0.16, ny - 0.37), (k, ny - 0.24), (k + 0.16, ny - 0.37), (k + 0.34, ny - 0.27)])
        self.layers.line(self.place(smile), _INK, 0.06 * self.size, alpha=0.8)

    def _markings_front(self, k: float, chin: float, clip: Points) -> None:
        dog = self.dog
        if dog.pattern in ("bicolour", "tricolour"):
            low = spline([(-1.1, -0.35), (-0.45 + k, -0.1), (-0.1 + k, 0.15), (0.1 + k, 0.15), (0.45 + k, -0.1), (1.1, -0.35), (0.7, -1.6), (-0.7, -1.6)])
            self._fill(low, dog.pale, clip)
            if dog.pale[2] < 0.6:
                for side in (-1, 1):
                    self._fill(ellipse(side * 0.36 + k, 0.46, 0.12, 0.09), dog.pale, clip)
            else:
                blaze = limb([(k, -0.2), (k, 0.3), (0.6 * k, 1.1)], [0.22, 0.12, 0.17])
                self._fill(blaze, dog.pale, clip)
        if dog.mask:
            mask = spline([(-0.72 + k, 0.3), (-0.3 + k, 0.38), (k, 0.2), (0.3 + k, 0.38), (0.72 + k, 0.3), (0.62 + k, -0.5), (k, chin - 0.4), (-0.62 + k, -0.5)])
            self._fill(mask, dog.dark, clip)
        if dog.pattern == "spotted":
            self._spots(clip, [(-0.6, 0.5), (0.2, 0.72), (0.62, -0.1), (-0.5, -0.45), (0.7, 0.55)])

    def _ear_front(self, side: int, turn: float) -> None:
        dog, e = self.dog, self.dog.build.ear
        tone = self._ear_colour(far=side * turn < 0)
        flip = np.array([side, 1])
        if dog.ears == "pricked":
            ear = spline([(0.2, 0.8), (0.45, 0.65 + 0.75 * e), (0.78, 0.7 + 1.1 * e), (0.95, 0.6 + 0.6 * e), (0.93, 0.25), (0.5, 0.4)])
            shape = self._fill(ear * flip, tone)
            inner = spline([(0.45, 0.85), (0.58, 0.6 + 0.7 * e), (0.76, 0.55 + e), (0.82, 0.55 + 0.5 * e), (0.76, 0.6)])
            self._fill(inner * flip, self._inner(), shape)
            return
        if dog.ears == "folded":
            stem = spline([(0.2, 0.78), (0.42, 0.72 + 0.38 * e), (0.72, 0.72 + 0.42 * e), (0.9, 0.85), (0.92, 0.3), (0.5, 0.4)])
            self._fill(stem * flip, tone)
            flap = spline([(0.36, 0.74 + 0.36 * e), (0.7, 0.76 + 0.42 * e), (1.02, 0.86), (1.2, 0.5), (1.22, 0.32), (0.98, 0.46), (0.66, 0.72)])
            self._fill(flap * flip, toned(tone, 0.74))
            return
        drop = 0.75 * e if dog.ears == "floppy" else 1.42 * e
        ear = spline([(0.5, 0.82), (0.88, 0.78), (1.16, 0.4), (1.24, 0.3 - 0.7 * drop), (1.0, 0.3 - 1.1 * drop), (0.74, 0.35 - 0.9 * drop), (0.7, 0.3)])
        shape = self._fill(self._haired(ear, 1.1) * flip, tone)
        self.layers.shade(shape, (0.012, 0.05), alpha=0.2)

    # ---- shared --------------------------------------------------------------

    def _eye(self, x: float, y: float) -> None:
        dark = sum(self.dog.coat) < 0.9 or self.dog.mask
        if dark or self.dog.eye[2] > 0.5:
            self._fill(ellipse(x, y, 0.22, 0.21), toned(self.dog.coat, 1.4))
        self._fill(ellipse(x, y, 0.17, 0.18), self.dog.eye)
        if self.dog.eye[2] > 0.5:
            self._fill(ellipse(x, y, 0.08, 0.09), _INK)
        self._fill(ellipse(x + 0.05, y + 0.06, 0.05, 0.05), (1, 1, 1))

    def _topknot(self, x: float) -> None:
        puff = fringed(ellipse(x, 0.85, 0.72, 0.5), self.rng, 0.34, 0.15, curly=True)
        shape = self._fill(puff, toned(self.dog.coat, 1.08))
        self.layers.shade(shape, (0.01, 0.05), alpha=0.12)

    def _spots(self, clip: Points, places: list[tuple[float, float]]) -> None:
        for x, y in places:
            size = self.rng.uniform(0.1, 0.19)
            x, y = x + self.rng.gauss(0, 0.06), y + self.rng.gauss(0, 0.06)
            self._fill(blob(x, y, size, self.rng), self.dog.dark, clip)

    def _muzzle_colour(self) -> Colour:
        if self.dog.mask:
            return self.dog.dark
        if self.dog.pattern in ("bicolour", "tricolour"):
            return self.dog.pale
        return self.dog.coat

    def _ear_colour(self, far: bool) -> Colour:
        dog = self.dog
        tone = dog.coat
        if dog.pattern == "spotted" and dog.ears != "pricked" or dog.pattern == "masked":
            tone = dog.dark
        low = 0.66 if far else 0.86
        return toned(tone, low if dog.ears != "pricked" else low + 0.1)

    def _inner(self) -> Colour:
        r, g, b = (0.55 * p + 0.45 * c for p, c in zip(_INNER, self.dog.coat, strict=True))
        return r, g, b
