"""Draws a dog that sits before the viewer."""

import numpy as np

from doggos_sample.canvas import Layers, part, toned
from doggos_sample.face import Face
from doggos_sample.limbs import Limbs
from doggos_sample.shapes import Points, box, ellipse, fringed, limb, spline


class FrontBody(Limbs):
    """A dog that sits and looks at the viewer."""

    def draw(self) -> Layers:
        """Return the layers of the dog."""
        b, dog = self.b, self.dog
        high = 0.3 + 0.75 * b.leg + 0.3 * b.chest
        wide = 0.2 + 0.22 * b.chest * b.bulk
        self._tail(np.array([-0.75 * wide, 0.16]))
        self._haunches(wide)
        top = high + 0.06
        pear = spline(
            [
                (-0.45 * wide, top),
                (0.45 * wide, top),
                (0.85 * wide, 0.62 * high),
                (1.0 * wide, 0.25),
                (0.7 * wide, 0.07),
                (-0.7 * wide, 0.07),
                (-1.0 * wide, 0.25),
                (-0.85 * wide, 0.62 * high),
            ]
        )
        torso = self.layers.fill(self._haired(pear), dog.coat, edge=0.012)
        self._markings(torso, wide, high)
        self._texture(torso)
        self.layers.shade(torso, (0.03, 0.07))
        self.layers.light(torso, (-0.03, -0.03))
        self._front_legs(wide, high)
        if dog.fur == "fluffy":
            chest = fringed(
                ellipse(0, 0.75 * high, 0.62 * wide, 0.17), self.rng, 0.095, 0.06
            )
            pale = self._socks() and dog.pale[2] > 0.6
            self.layers.fill(chest, dog.pale if pale else toned(dog.coat, 1.15))
        self.head = np.array([0.0, high + 0.1 + b.neck * 0.5 + 0.45 * b.head])
        self.tilt = self.rng.gauss(0, 0.09)
        happy = self.rng.random() < 0.5
        head = Face(self.layers, dog, self.rng, self.head, self.tilt, happy)
        head.draw(self.rng.uniform(-0.5, 0.5))
        return self.layers

    def _haunches(self, wide: float) -> None:
        dog = self.dog
        for side in (-1, 1):
            haunch = ellipse(side * 0.95 * wide, 0.17, 0.62 * wide, 0.19)
            shape = self.layers.fill(
                self._haired(haunch, 0.6), toned(dog.coat, 0.9), edge=0.012
            )
            if dog.pattern == "spotted":
                self._spots(shape, 3, 0.035)
            if dog.pattern in ("saddled", "tricolour"):
                saddle = ellipse(side * 0.95 * wide, 0.34, 0.5 * wide, 0.13)
                self.layers.fill(saddle, dog.dark, shape)
            paw = ellipse(side * 1.1 * wide, 0.045, 0.11, 0.05)
            self.layers.fill(
                paw, dog.pale if self._socks() else toned(dog.coat, 0.95), edge=0.012
            )

    def _markings(self, torso: Points, wide: float, high: float) -> None:
        dog = self.dog
        if dog.pattern in ("saddled", "tricolour"):
            for side in (-1, 1):
                patch = ellipse(side * 0.9 * wide, 0.68 * high, 0.6 * wide, 0.44 * high)
                self.layers.fill(patch, dog.dark, torso)
        if self._socks() and dog.pale[2] < 0.6:  # tan: a spot on each side
            for side in (-1, 1):
                spot = ellipse(side * 0.3 * wide, 0.74 * high, 0.2 * wide, 0.08 * high)
                self.layers.fill(spot, dog.pale, torso)
        elif self._socks():
            bib = spline(
                [
                    (-0.6 * wide, 1.2 * high),
                    (0.6 * wide, 1.2 * high),
                    (0.5 * wide, 0.6 * high),
                    (0, 0.2 * high),
                    (-0.5 * wide, 0.6 * high),
                ]
            )
            self.layers.fill(bib, dog.pale, torso)
        if dog.pattern == "spotted":
            self._spots(torso, 14, 0.04)

    @part("legs")
    def _front_legs(self, wide: float, high: float) -> None:
        for side in (-1, 1):
            x = side * 0.42 * wide
            r = 0.07 * self.b.bulk
            leg = limb(
                [(x, 0.55 * high), (x, 0.3 * high), (x * 1.05, 0.05)],
                [r * 1.2, r, r * 0.95],
            )
            outline = self.layers.fill(self._haired(leg, 0.5), self.dog.coat)
            if self._socks():
                self.layers.fill(
                    box(x - 0.2, -0.1, x + 0.2, 0.22 * high), self.dog.pale, outline
                )
            if self.dog.pattern == "spotted":
                self._spots(outline, 3, 0.03)
            self.layers.shade(outline, (0.022, 0.02), alpha=0.15)
            paw = ellipse(x * 1.05, 0.04, 1.35 * r, 0.75 * r)
            colour = self.dog.pale if self._socks() else self.dog.coat
            self.layers.fill(paw, colour, edge=0.012)
            for k in (-0.4, 0.4):
                mark = np.array([(x * 1.05 + k * r, 0.015), (x * 1.05 + k * r, 0.05)])
                self.layers.line(mark, toned(colour, 0.6), 0.012, alpha=0.7)
