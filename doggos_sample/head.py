"""What the two views of a dog's head have in common."""

from random import Random

import numpy as np

from doggos_sample.canvas import Colour, Layers, toned
from doggos_sample.shapes import Points, blob, ellipse, fringed, spline, turned
from doggos_sample.traits import Dog

INK: Colour = (0.13, 0.11, 0.13)
TONGUE: Colour = (0.9, 0.45, 0.5)
_INNER: Colour = (0.86, 0.62, 0.58)


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
        """Place a head on layers."""
        self.layers, self.dog, self.rng = layers, dog, rng
        self.at, self.tilt, self.size = at, tilt, dog.build.head
        self.open = open_mouth

    def place(self, points: Points) -> Points:
        """Return points of head units in units of the dog."""
        return turned(np.asarray(points) * self.size, self.tilt) + self.at

    def _fill(
        self, points: Points, colour: Colour, clip: Points | None = None
    ) -> Points:
        edge = 0.0 if clip is not None else 0.012
        return self.layers.fill(self.place(points), colour, clip, edge=edge)

    def _haired(self, points: Points, amount: float = 1.0) -> Points:
        if self.dog.fur == "fluffy":
            return fringed(points, self.rng, 0.42, 0.2 * amount)
        if self.dog.fur == "curly":
            return fringed(points, self.rng, 0.36, 0.14 * amount, curly=True)
        return points

    def _eye(self, x: float, y: float) -> None:
        dark = sum(self.dog.coat) < 0.9 or self.dog.mask
        if dark or self.dog.eye[2] > 0.5:
            self._fill(ellipse(x, y, 0.22, 0.21), toned(self.dog.coat, 1.4))
        self._fill(ellipse(x, y, 0.17, 0.18), self.dog.eye)
        if self.dog.eye[2] > 0.5:
            self._fill(ellipse(x, y, 0.08, 0.09), INK)
        self._fill(ellipse(x + 0.05, y + 0.06, 0.05, 0.05), (1, 1, 1))
        if self.dog.build.lid > 0.2:
            low = y + 0.16 - 0.13 * self.dog.build.lid
            rim = [(x - 0.22, low), (x, low + 0.03), (x + 0.22, low)]
            lid = spline([*rim, (x + 0.15, y + 0.19), (x - 0.15, y + 0.19)])
            self._fill(lid, toned(self.dog.coat, 0.86))

    def _topknot(self, x: float) -> None:
        puff = fringed(ellipse(x, 0.85, 0.72, 0.5), self.rng, 0.34, 0.15, curly=True)
        shape = self._fill(puff, toned(self.dog.coat, 1.08))
        self.layers.shade(shape, (0.01, 0.05), alpha=0.12)

    def _spots(self, clip: Points, places: list[tuple[float, float]]) -> None:
        for x, y in places:
            size = self.rng.uniform(0.1, 0.19)
            x, y = x + self.rng.gauss(0, 0.06), y + self.rng.gauss(0, 0.06)
            self._fill(blob(x, y, size, self.rng), self.dog.dark, clip)

    def _capped(self) -> bool:
        """Say whether the pale of the face goes up round the eyes, as a husky's."""
        dog = self.dog
        return dog.cap and dog.pattern == "bicolour" and dog.pale[2] > 0.6

    def _muzzle_colour(self) -> Colour:
        if self.dog.mask:
            return self.dog.dark
        if self.dog.pattern in ("bicolour", "tricolour"):
            return self.dog.pale
        return self.dog.coat

    def _ear_colour(self, far: bool) -> Colour:
        dog = self.dog
        tone = dog.coat
        spotted = dog.pattern == "spotted" and dog.ears != "pricked"
        if spotted or dog.pattern == "masked":
            tone = dog.dark
        if sum(tone) < 0.8:  # darker than black can't be seen
            return toned(tone, 0.9 if far else 1.2)
        low = 0.66 if far else 0.86
        return toned(tone, low if dog.ears != "pricked" else low + 0.1)

    def _flap(self, tone: Colour) -> Colour:
        return toned(tone, 0.74 if sum(tone) > 0.9 else 1.25)

    def _inner(self) -> Colour:
        r, g, b = (
            0.55 * p + 0.45 * c for p, c in zip(_INNER, self.dog.coat, strict=True)
        )
        return r, g, b
