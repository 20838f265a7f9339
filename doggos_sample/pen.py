"""What all drawings of a dog's body share: fur, spots, texture."""

from random import Random

import numpy as np

from doggos_sample.canvas import Layers, toned
from doggos_sample.shapes import Points, blob, curve, fringed, turned
from doggos_sample.traits import Dog

Chain = list[tuple[float, float]]


class Pen:
    """A body in the making: the dog, its pose, and the layers drawn so far."""

    def __init__(self, dog: Dog, pose: str, view: str, rng: Random) -> None:
        """Start with no layers yet."""
        self.dog, self.pose, self.view, self.rng = dog, pose, view, rng
        self.b = dog.build
        self.layers = Layers(part="body")
        self.far = toned(dog.coat, 0.74)
        self.angle, self.up, self.tilt = 0.0, 0.0, 0.0
        self.origin, self.head = np.zeros(2), np.zeros(2)

    def place(self, points: object) -> Points:
        """Return points of the torso (x along the spine, belly at 0) in the world."""
        return turned(np.asarray(points, float), self.angle) + self.origin

    def _haired(self, outline: Points, amount: float = 1.0) -> Points:
        if self.dog.fur == "fluffy":
            return fringed(outline, self.rng, 0.13, 0.075 * amount)
        if self.dog.fur == "curly":
            return fringed(outline, self.rng, 0.1, 0.052 * amount, curly=True)
        return outline

    def _socks(self) -> bool:
        return self.dog.pattern in ("bicolour", "tricolour")

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
                mark = curve([(x, y), (x - 0.06, y - 0.03), (x - 0.1, y - 0.1)], 4)
            self.layers.line(mark, tone, 0.013, clip, alpha=0.7)
