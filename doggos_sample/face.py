"""Draws the head of a dog that looks at the viewer."""

import numpy as np

from doggos_sample.canvas import Colour, part, toned
from doggos_sample.head import INK, TONGUE, Head
from doggos_sample.shapes import Points, curve, ellipse, limb, spline


class Face(Head):
    """A head that looks at the viewer."""

    def place(self, points: Points) -> Points:
        """Return points of head units in units of the dog; fine jaws, narrow heads."""
        return super().place(points * np.array([0.7 + 0.3 * self.dog.build.jaw, 1]))

    @part("head")
    def draw(self, turn: float) -> None:
        """Draw the head seen from the front, turned by -1 to 1 to the side."""
        dog, b = self.dog, self.dog.build
        m, j = b.muzzle, 0.5 + 0.5 * b.jaw
        k = 0.28 * turn
        if dog.ears in ("pricked", "folded"):
            self._ear(-1, turn)
            self._ear(1, turn)
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
        self._markings(k, chin, outline)
        self.layers.shade(outline, (0.012, 0.08 * self.size / 0.23))
        self.layers.light(outline, (-0.01, -0.04))
        if m < 0.5 and b.jaw > 0.95:
            self._wrinkles(k)
        self._muzzle(k, chin, j)
        for side in (-1, 1):
            self._eye(side * 0.4 + 0.8 * k, 0.14)
        if dog.fur == "curly":
            self._topknot(0.0)
        if dog.ears in ("floppy", "long"):
            self._ear(-1, turn)
            self._ear(1, turn)

    def _wrinkles(self, k: float) -> None:
        tone = toned(self.dog.coat, 0.62)
        for y, half in ((0.5, 0.2), (0.64, 0.3)):
            fold = curve([(k - half, y), (k, y + 0.09), (k + half, y)])
            self.layers.line(self.place(fold), tone, 0.06 * self.size, alpha=0.8)

    def _muzzle(self, k: float, chin: float, j: float) -> None:
        tone = self._muzzle_colour()
        top = -0.12
        mid = (top + chin) / 2
        if self.open:
            tongue = limb([(k, mid - 0.1), (k, chin - 0.12)], [0.17, 0.2])
            self._fill(tongue, TONGUE)
        wide = 0.5 * j
        bulge = spline(
            [
                (k - wide, mid),
                (k - 0.3 * j, top),
                (k + 0.3 * j, top),
                (k + wide, mid),
                (k + 0.3, chin + 0.14),
                (k, chin + 0.2),
                (k - 0.3, chin + 0.14),
            ]
        )
        self.layers.fill(self.place(bulge), toned(tone, 1.12))
        ny = mid + 0.2
        nose = spline(
            [
                (k - 0.24, ny + 0.06),
                (k, ny + 0.14),
                (k + 0.24, ny + 0.06),
                (k + 0.12, ny - 0.12),
                (k, ny - 0.17),
                (k - 0.12, ny - 0.12),
            ]
        )
        self._fill(nose, INK)
        shine = ellipse(k - 0.07, ny + 0.05, 0.08, 0.035)
        self.layers.fill(self.place(shine), (1, 1, 1), alpha=0.5)
        smile = curve(
            [
                (k - 0.34, ny - 0.27),
                (k - 0.16, ny - 0.37),
                (k, ny - 0.24),
                (k + 0.16, ny - 0.37),
                (k + 0.34, ny - 0.27),
            ]
        )
        self.layers.line(self.place(smile), INK, 0.06 * self.size, alpha=0.8)

    def _markings(self, k: float, chin: float, clip: Points) -> None:
        dog = self.dog
        if dog.pattern in ("bicolour", "tricolour"):
            brow, dip = (0.5, 0.1) if self._capped() else (-0.1, 0.15)
            low = spline(
                [
                    (-1.1, -0.35),
                    (-0.45 + k, brow),
                    (-0.1 + k, dip),
                    (0.1 + k, dip),
                    (0.45 + k, brow),
                    (1.1, -0.35),
                    (0.7, -1.6),
                    (-0.7, -1.6),
                ]
            )
            self._fill(low, dog.pale, clip)
            if self._capped():
                return
            if dog.pale[2] < 0.6:
                for side in (-1, 1):
                    self._fill(
                        ellipse(side * 0.36 + k, 0.46, 0.12, 0.09), dog.pale, clip
                    )
            else:
                blaze = limb([(k, -0.2), (k, 0.3), (0.6 * k, 1.1)], [0.22, 0.12, 0.17])
                self._fill(blaze, dog.pale, clip)
        if dog.mask:
            mask = spline(
                [
                    (-0.72 + k, 0.3),
                    (-0.3 + k, 0.38),
                    (k, 0.2),
                    (0.3 + k, 0.38),
                    (0.72 + k, 0.3),
                    (0.62 + k, -0.5),
                    (k, chin - 0.4),
                    (-0.62 + k, -0.5),
                ]
            )
            self._fill(mask, dog.dark, clip)
        if dog.pattern == "spotted":
            self._spots(
                clip,
                [(-0.6, 0.5), (0.2, 0.72), (0.62, -0.1), (-0.5, -0.45), (0.7, 0.55)],
            )

    @part("ears")
    def _ear(self, side: int, turn: float) -> None:
        tone = self._ear_colour(far=side * turn < 0)
        flip = np.array([side, 1])
        if self.dog.ears == "pricked":
            self._pricked(flip, tone)
        elif self.dog.ears == "folded":
            self._folded(flip, tone)
        else:
            self._hanging(flip, tone)

    def _pricked(self, flip: Points, tone: Colour) -> None:
        e = self.dog.build.ear
        ear = spline(
            [
                (0.2, 0.8),
                (0.45, 0.65 + 0.75 * e),
                (0.78, 0.7 + 1.1 * e),
                (0.95, 0.6 + 0.6 * e),
                (0.93, 0.25),
                (0.5, 0.4),
            ]
        )
        shape = self._fill(ear * flip, tone)
        inner = spline(
            [
                (0.45, 0.85),
                (0.58, 0.6 + 0.7 * e),
                (0.76, 0.55 + e),
                (0.82, 0.55 + 0.5 * e),
                (0.76, 0.6),
            ]
        )
        self._fill(inner * flip, self._inner(), shape)

    def _folded(self, flip: Points, tone: Colour) -> None:
        e = self.dog.build.ear
        stem = spline(
            [
                (0.2, 0.78),
                (0.42, 0.72 + 0.38 * e),
                (0.72, 0.72 + 0.42 * e),
                (0.9, 0.85),
                (0.92, 0.3),
                (0.5, 0.4),
            ]
        )
        self._fill(stem * flip, tone)
        flap = spline(
            [
                (0.36, 0.74 + 0.36 * e),
                (0.7, 0.76 + 0.42 * e),
                (1.02, 0.86),
                (1.2, 0.5),
                (1.22, 0.32),
                (0.98, 0.46),
                (0.66, 0.72),
            ]
        )
        self._fill(flap * flip, self._flap(tone))

    def _hanging(self, flip: Points, tone: Colour) -> None:
        drop = (0.75 if self.dog.ears == "floppy" else 1.42) * self.dog.build.ear
        ear = spline(
            [
                (0.5, 0.82),
                (0.88, 0.78),
                (1.16, 0.4),
                (1.24, 0.3 - 0.7 * drop),
                (1.0, 0.3 - 1.1 * drop),
                (0.74, 0.35 - 0.9 * drop),
                (0.7, 0.3),
            ]
        )
        shape = self._fill(self._haired(ear, 1.1) * flip, tone)
        self.layers.shade(shape, (0.012, 0.05), alpha=0.2)
