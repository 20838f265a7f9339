"""Draws the head of a dog in profile."""

from doggos_sample.canvas import Colour, part, toned
from doggos_sample.head import INK, TONGUE, Head
from doggos_sample.shapes import Points, curve, ellipse, limb, spline

_FAR = 0.42  # how far forward the far ear stands


class Profile(Head):
    """A head seen from the side, looking right."""

    @part("head")
    def draw(self) -> None:
        """Draw the head seen from the side, looking right."""
        dog, b = self.dog, self.dog.build
        m, j = 0.08 + 0.74 * b.muzzle, 0.55 + 0.55 * b.jaw
        self._ear(far=True)
        if self.open:
            jaw = limb([(0.5, -0.4), (0.4 + 0.8 * m, -0.72 * j)], [0.25, 0.16])
            self._fill(jaw, toned(self._muzzle_colour(), 0.85))
            tip = (0.45 + 0.8 * m, -0.85 * j)
            tongue = limb(
                [(0.6, -0.35), (0.3 + 0.75 * m, -0.55 * j), tip], [0.1, 0.15, 0.13]
            )
            self._fill(tongue, TONGUE)
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
        self._markings(m, j, outline)
        self.layers.shade(outline, (0.01, 0.09 * self.size / 0.23))
        self.layers.light(outline, (-0.01, -0.04))
        self._nose(m, j)
        self._eye(0.4, 0.26)
        if dog.fur == "curly":
            self._topknot(-0.15)
        self._ear(far=False)

    def _nose(self, m: float, j: float) -> None:
        nose = ellipse(0.82 + m, 0.06, 0.2, 0.16, -0.3)
        self._fill(nose, INK)
        shine = ellipse(0.84 + m, 0.13, 0.07, 0.04, -0.3)
        self.layers.fill(self.place(shine), (1, 1, 1), alpha=0.5)
        mouth = curve([(0.8 + m, -0.2 * j), (0.6 + 0.6 * m, -0.34 * j), (0.62, -0.26)])
        tone = toned(INK, 0.9) if sum(self.dog.coat) > 0.8 else (0.02, 0.02, 0.02)
        self.layers.line(self.place(mouth), tone, 0.07 * self.size, alpha=0.75)

    def _markings(self, m: float, j: float, clip: Points) -> None:
        dog = self.dog
        if dog.pattern in ("bicolour", "tricolour"):
            tan = dog.pale[2] < 0.6
            muzzle = spline(
                [
                    (0.66, 0.3),
                    (1 + m, 0.5),
                    (1.3 + m, -0.3),
                    (1 + m, -1.1),
                    (-0.3, -1.1),
                    *([(-0.3, -0.1), (0.2, 0.6)] if self._capped() else [(0.25, -0.3)]),
                ]
            )
            self._fill(muzzle, dog.pale, clip)
            if self._capped():
                return
            if tan:
                self._fill(ellipse(0.48, 0.55, 0.13, 0.09), dog.pale, clip)
            else:
                blaze = limb(
                    [(0.95, 0.3), (0.55, 0.72), (0.2, 1.0)], [0.16, 0.14, 0.08]
                )
                self._fill(blaze, dog.pale, clip)
        if dog.mask:
            mask = spline(
                [
                    (0.05, 0.3),
                    (0.5, 0.55),
                    (0.9, 0.4),
                    (1.2 + m, 0.5),
                    (1.3 + m, -0.8),
                    (0.3, -1.0),
                    (0.05, -0.3),
                ]
            )
            self._fill(mask, dog.dark, clip)
        if dog.pattern == "spotted":
            self._spots(
                clip,
                [(-0.5, 0.5), (-0.2, -0.4), (0.2, 0.7), (0.75, -0.15), (-0.7, 0.0)],
            )

    @part("ears")
    def _ear(self, far: bool) -> None:
        tone = self._ear_colour(far)
        if self.dog.ears == "pricked":
            self._pricked(far, tone)
        elif self.dog.ears == "folded":
            self._folded(_FAR if far else 0.0, tone)
        else:
            self._hanging(far, tone)

    def _pricked(self, far: bool, tone: Colour) -> None:
        e, dx = self.dog.build.ear, _FAR if far else 0.0
        ear = spline(
            [
                (-0.72, 0.35),
                (-0.66, 1.1),
                (-0.42, 0.75 + 1.1 * e),
                (-0.02, 1.2),
                (0.18, 0.7),
                (-0.3, 0.4),
            ]
        )
        shape = self._fill(ear + (dx, 0), tone)
        if far:
            return
        inner = spline(
            [
                (-0.45, 0.7),
                (-0.46, 1.15),
                (-0.38, 0.55 + 1.0 * e),
                (-0.14, 1.15),
                (-0.02, 0.8),
            ]
        )
        self._fill(inner, self._inner(), shape)

    def _folded(self, dx: float, tone: Colour) -> None:
        e = self.dog.build.ear
        stem = spline(
            [
                (-0.72, 0.4),
                (-0.7, 0.95),
                (-0.5, 0.8 + 0.4 * e),
                (-0.15, 1.08),
                (0.05, 0.72),
                (-0.3, 0.45),
            ]
        )
        self._fill(stem + (dx, 0), tone)
        flap = spline(
            [
                (-0.68, 0.92),
                (-0.5, 0.86 + 0.4 * e),
                (-0.12, 1.12),
                (0.24, 0.62),
                (0.3, 0.34),
                (-0.08, 0.55),
                (-0.45, 0.8),
            ]
        )
        self._fill(flap + (dx, 0), self._flap(tone))

    def _hanging(self, far: bool, tone: Colour) -> None:
        drop = (0.75 if self.dog.ears == "floppy" else 1.42) * self.dog.build.ear
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
            ear = ear * (0.9, 0.9) + (0.5 * _FAR, 0.05)
        shape = self._fill(self._haired(ear, 1.1), tone)
        self.layers.shade(shape, (0.015, 0.06), alpha=0.2)
