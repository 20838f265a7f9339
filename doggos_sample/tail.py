"""Draws the tail of a dog."""

import numpy as np

from doggos_sample.canvas import part, toned
from doggos_sample.pen import Chain, Pen
from doggos_sample.shapes import Points, ellipse, fringed, limb


class Tailed(Pen):
    """A body that can get its tail."""

    @part("tail")
    def _tail(self, base: Points) -> None:
        pose = self.pose
        lift = self.rng.uniform(0.15, 0.5) if pose == "running" else self._lift()
        x, y = base + (0.02, -0.03) if pose == "sitting" else base
        chain, radii = self._tail_chain(float(x), float(y), lift)
        points = np.asarray(chain, float)
        points[:, 1] = np.maximum(points[:, 1], 0.05)
        outline = limb(points, radii)
        dog = self.dog
        if dog.tail == "bushy":
            curly = dog.fur == "curly"
            outline = fringed(outline, self.rng, 0.1, 0.07, curly=curly)
        else:
            outline = self._haired(outline, 0.8)
        back = dog.pattern in ("saddled", "tricolour")
        tone = toned(dog.dark if back else dog.coat, 0.94)
        shape = self.layers.fill(outline, tone, edge=0.012)
        if self._socks() and dog.tail != "docked":
            x, y = points[-1]
            self.layers.fill(ellipse(x, y, 0.15, 0.12), dog.pale, shape)
        self.layers.shade(shape, (0.01, 0.04), alpha=0.14)

    def _lift(self) -> float:
        lift = self.rng.uniform(0.4, 1.0)
        if self.pose == "sitting":
            lift = self.rng.uniform(-0.3, 0.2) + 0.25
        return lift

    def _tail_chain(self, x: float, y: float, lift: float) -> tuple[Chain, list[float]]:
        """Return the tail from its root at (x, y), and its radii."""
        tail, fur = self.dog.tail, self.dog.fur
        if tail == "docked" and fur == "curly":  # a pompom
            return (
                [(x + 0.05, y), (x - 0.07, y + 0.12), (x - 0.1, y + 0.19)],
                [0.05, 0.07, 0.09],
            )
        if tail == "docked":
            return (
                [(x + 0.06, y - 0.02), (x - 0.05, y + 0.05), (x - 0.09, y + 0.09)],
                [0.07, 0.06, 0.05],
            )
        if tail == "curled":
            t = np.linspace(0, 1, 9)
            angle, r = np.pi * (0.95 - 1.75 * t), 0.19 * (1 - 0.45 * t)
            ring = (x + (0.1 + r * np.cos(angle)), y + 0.16 + r * np.sin(angle))
            chain = [(x + 0.03, y - 0.05), *zip(*ring, strict=True)]
            wide = 0.075 if fur == "fluffy" else 0.052
            return chain, list(np.linspace(wide, 0.7 * wide, len(chain)))
        n = 0.54
        tip = (x - n * np.cos(lift), y + n * np.sin(lift))
        middle = (x - 0.5 * n * np.cos(lift - 0.25), y + 0.5 * n * np.sin(lift - 0.35))
        radii = [0.052, 0.038, 0.02] if tail == "straight" else [0.06, 0.125, 0.06]
        return [(x + 0.06, y - 0.03), middle, tip], radii
