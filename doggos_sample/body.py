"""Draws the body of a dog in a pose, from the side."""

import numpy as np

from doggos_sample.canvas import Colour, Layers, toned
from doggos_sample.face import Face
from doggos_sample.limbs import Limbs
from doggos_sample.profile import Profile
from doggos_sample.shapes import Points, ellipse, fringed, limb, spline, turned

_COLLARS: tuple[Colour, ...] = ((0.8, 0.2, 0.2), (0.15, 0.4, 0.65), (0.2, 0.55, 0.45))


class SideBody(Limbs):
    """A dog from the side, looking right."""

    def draw(self) -> Layers:
        """Return the layers of the dog."""
        self._settle()
        outline = self._torso_outline()
        self._legs(far=True)
        self._tail(self.place([(-0.46 * self.b.body, 0.84 * self.b.chest)])[0])
        torso = self.layers.fill(outline, self.dog.coat, edge=0.012)
        self._markings(torso)
        self._texture(torso)
        self.layers.shade(torso, (0.02, 0.09))
        self.layers.light(torso, (-0.02, -0.05))
        x, y = self.head - (0.0, 0.8 * self.b.head)
        chin = ellipse(float(x), float(y), 0.9 * self.b.head, 0.55 * self.b.head)
        self.layers.fill(chin, (0.1, 0.08, 0.2), torso, alpha=0.13)
        self._collar(torso)
        if self.dog.fur == "fluffy":
            self._ruff()
        self._legs(far=False)
        self._head()
        return self.layers

    def _settle(self) -> None:
        b, rng = self.b, self.rng
        up = np.deg2rad(rng.uniform(48, 66))
        lift = b.leg
        if self.pose == "sitting":
            reach = (b.leg + 0.3 * b.chest - 0.42 * b.chest) / (0.61 * b.body)
            self.angle = float(np.arcsin(np.clip(reach, 0.22, 0.8)))
            up = np.deg2rad(rng.uniform(62, 80))
            hip = np.array([-0.36 * b.body, 0.45 * b.chest])
            seat = np.array([-0.3 * b.body, 0.43 * b.chest])
            self.origin = seat - turned(hip, self.angle)
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
                (-0.25 * B, 0.98 * D + 0.15 * t),
                (-0.42 * B, 0.92 * D),
                (-0.5 * B, 0.64 * D),
                (-0.46 * B, 0.3 * D),
                (-0.3 * B, 0.08 * D + t),
                (-0.02 * B, 0.02 * D + 0.45 * t),
                (0.24 * B, -0.02 * D - 0.25 * t),
                (0.42 * B, 0.1 * D),
                (0.5 * B, 0.42 * D),
            ]
        )
        across = (
            (0.5 + 0.2 * self.b.bulk)
            * self.b.head
            * np.array([np.sin(self.up), -np.cos(self.up)])
        )
        neck = np.stack([self.head + across, self.head - across])
        outline = spline(np.concatenate([torso, neck]))
        return self._haired(outline)

    def _head(self) -> None:
        happy = self.rng.random() < (0.7 if self.pose == "running" else 0.4)
        place = (self.layers, self.dog, self.rng, self.head, self.tilt, happy)
        if self.view == "side":
            Profile(*place).draw()
        else:
            Face(*place).draw(self.rng.uniform(0.35, 1))

    def _markings(self, torso: Points) -> None:
        B, D = self.b.body, self.b.chest
        dog = self.dog
        if dog.pattern in ("saddled", "tricolour"):
            saddle = spline(
                self.place(
                    [
                        (0.34 * B, 1.3 * D),
                        (0.3 * B, 0.72 * D),
                        (0.1 * B, 0.46 * D),
                        (-0.2 * B, 0.5 * D),
                        (-0.4 * B, 0.62 * D),
                        (-0.62 * B, 0.75 * D),
                        (-0.5 * B, 1.4 * D),
                    ]
                )
            )
            self.layers.fill(saddle, dog.dark, torso)
        if self._socks():
            bib = spline(
                self.place(
                    [
                        (0.7 * B, 0.8 * D),
                        (0.44 * B, 0.86 * D),
                        (0.36 * B, 0.5 * D),
                        (0.2 * B, 0.2 * D),
                        (-0.1 * B, 0.16 * D),
                        (-0.3 * B, 0.2 * D),
                        (-0.2 * B, -0.3 * D),
                        (0.5 * B, -0.4 * D),
                    ]
                )
            )
            self.layers.fill(bib, dog.pale, torso)
            if dog.pale[2] > 0.6:
                collar = limb(
                    [self.place([(0.5 * B, 0.55 * D)])[0], self.head],
                    [0.16, 0.7 * self.b.head],
                )
                self.layers.fill(collar, dog.pale, torso)
        if dog.pattern == "spotted":
            self._spots(torso, 26, 0.046)

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
