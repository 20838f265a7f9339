"""Draws the legs of a dog in its pose."""

import numpy as np

from doggos_sample.canvas import part, toned
from doggos_sample.pen import Chain
from doggos_sample.shapes import Points, blob, ellipse, limb, spline
from doggos_sample.tail import Tailed

_FRONT, _HIND = [0.125, 0.085, 0.06, 0.056], [0.19, 0.12, 0.058, 0.056]


class Limbs(Tailed):
    """A body that can get its legs and its tail."""

    def _leg(self, points: object, radii: list[float], far: bool) -> None:
        pts = np.asarray(points, float)
        wide = [r * self.b.bulk for r in radii]
        outline = limb(pts, wide)
        if self.dog.fur != "smooth":
            outline = self._haired(outline, 0.65)
        colour = self.far if far else self.dog.coat
        foot = pts[-1]
        r = wide[-1]
        paw = ellipse(foot[0] + 0.45 * r, foot[1] - 0.15 * r, 1.45 * r, 0.85 * r)
        paw_colour = colour
        if self._socks():
            paw_colour = toned(self.dog.pale, 0.78 if far else 1.0)
        self.layers.fill(paw, paw_colour, edge=0.012)
        self.layers.fill(outline, colour, edge=0.012 if far else 0.0)
        if not far:
            self.layers.shade(outline, (0.03, 0.0), alpha=0.1)
        if self._socks():
            top = 0.5 * (pts[-1] + pts[-2])
            low = limb([top, pts[-1], 2 * pts[-1] - top], [0.2, 0.2, 0.2])
            self.layers.fill(low, paw_colour, outline)
        elif self.dog.pattern == "spotted" and not far:
            for k in (0.35, 0.7):
                x, y = pts[-2] * (1 - k) + pts[-1] * k + self.rng.gauss(0, 0.012)
                patch = blob(x, y, 0.03, self.rng)
                self.layers.fill(patch, self.dog.dark, outline)
        if self.dog.fur == "curly":
            x, y = 0.3 * pts[-2] + 0.7 * pts[-1]
            puff = self._haired(ellipse(x, y + 0.02, 1.5 * r, 1.2 * r), 0.7)
            self.layers.fill(puff, paw_colour, edge=0.012)
        toes = [(foot[0] + k * r, foot[1] - 0.5 * r) for k in (0.7, 1.2)]
        for x, y in toes:
            mark = np.array([(x, y), (x + 0.06 * r, y + 0.55 * r)])
            self.layers.line(mark, toned(paw_colour, 0.6), 0.012, alpha=0.7)

    @part("legs")
    def _legs(self, far: bool) -> None:
        """Draw a front leg and a hind leg: the near ones, or those behind."""
        shift = 0.11 if far else 0.0
        ground = 0.035 * self.b.bulk + (0.025 if far else 0.0)
        body, chest = self.b.body, self.b.chest
        shoulder = self.place([(0.25 * body + shift, 0.36 * chest)])[0]
        hip = self.place([(-0.35 * body + shift, 0.45 * chest)])[0]
        if self.pose == "running":
            front, hind = self._stride(shoulder, hip, -0.14 if far else 0.0)
        elif self.pose == "standing":
            front, hind = self._stance(shoulder, hip, ground)
        else:
            front, hind = self._rest(shoulder, shift, ground), None
        self._leg(front, _FRONT, far)
        if hind is not None:
            self._leg(hind, _HIND, far)
        elif not far and self.pose == "lying":
            self._haunch(hip[0] + 0.02, max(0.48 * chest, 0.12))
        elif not far:
            self._haunch(hip[0] + 0.06, 0.45 * chest)

    def _rest(self, shoulder: Points, shift: float, ground: float) -> Chain:
        """Return the front leg of a dog that lies or sits."""
        x, y = shoulder
        if self.pose == "sitting":
            return [
                (x, y),
                (x - 0.02, 0.55 * y),
                (x + 0.02, 0.25 * y),
                (x + 0.03, ground),
            ]
        reach = 0.16 + 0.45 * self.b.leg
        return [
            (x, y),
            (x - 0.02, 0.1),
            (x + 0.5 * reach, 0.07),
            (x + reach + shift, ground + 0.02),
        ]

    def _stride(self, shoulder: Points, hip: Points, s: float) -> tuple[Chain, Chain]:
        """Return the legs of a running dog, shifted by `s`."""
        x, y = shoulder
        leg = max(self.b.leg, 0.2)
        front = [
            (x, y),
            (x + 0.14 + s, y - 0.3 * leg),
            (x + 0.32 + s, 0.62 * leg),
            (x + 0.2 + 0.55 * leg + s, 0.42 * leg + s * 0.5),
        ]
        x, y = hip
        hind = [
            (x, y),
            (x - 0.06 + s, 0.95 * leg),
            (x - 0.26 + s, 0.72 * leg),
            (x - 0.2 - 0.6 * leg + s, 0.36 * leg),
        ]
        return front, hind

    def _stance(
        self, shoulder: Points, hip: Points, ground: float
    ) -> tuple[Chain, Chain]:
        """Return the legs of a standing dog."""
        leg, lean = self.b.leg, self.rng.gauss(0, 0.03)
        x, y = shoulder
        front = [
            (x, y),
            (x - 0.02, leg * 0.95),
            (x + 0.01 + lean, leg * 0.45),
            (x + 0.02 + lean, ground),
        ]
        x, y = hip
        hind = [
            (x, y),
            (x + 0.05, leg * 0.9),
            (x - 0.09 + lean, leg * 0.42),
            (x - 0.05 + lean, ground),
        ]
        return front, hind

    def _haunch(self, x: float, y: float) -> None:
        b = self.b
        size = 0.5 * b.chest
        foot = 0.16 + 0.2 * b.leg
        self._leg(
            [(x - 0.05, 0.07), (x + 0.5 * foot, 0.06), (x + foot + 0.08, 0.045)],
            [0.06, 0.06, 0.055],
            False,
        )
        thigh = spline(
            [
                (x - 0.95 * size, y - 0.3 * size),
                (x - 0.5 * size, y + 0.75 * size),
                (x + 0.4 * size, y + 0.75 * size),
                (x + 1.0 * size, y - 0.1 * size),
                (x + 0.75 * size, 0.06),
                (x - 0.4 * size, 0.03),
            ]
        )
        shape = self.layers.fill(self._haired(thigh, 0.5), self.dog.coat)
        if self.dog.pattern == "spotted":
            self._spots(shape, 4, 0.04)
        if self.dog.pattern in ("saddled", "tricolour"):
            top = ellipse(x - 0.3 * size, y + 0.9 * size, 0.9 * size, 0.45 * size)
            self.layers.fill(top, self.dog.dark, shape)
        self.layers.shade(shape, (-0.03, 0.05), alpha=0.14)
