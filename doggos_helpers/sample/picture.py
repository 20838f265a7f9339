"""Composes one picture: a scene, a dog in it, light, and what may hide a bit of it."""

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from doggos_helpers.sample.body import SideBody
from doggos_helpers.sample.canvas import Canvas, Layers
from doggos_helpers.sample.front import FrontBody
from doggos_helpers.sample.scenes import SCENES, foreground, paint_scene
from doggos_helpers.sample.shapes import ellipse
from doggos_helpers.sample.traits import Dog

POSES = ("lying", "running", "sitting", "standing")

LIGHTS: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "warm": (1.04, 0.97, 0.86),
    "dusk": (0.87, 0.83, 0.95),
    "overcast": (0.9, 0.93, 0.96),
}
"""Factor of red, green and blue for each light."""


@dataclass(frozen=True)
class Framing:
    """Everything about a picture that says nothing about the breed."""

    scene: str
    pose: str
    view: str
    light: str
    width: int
    height: int
    scale: float
    x: float
    y: float
    mirrored: bool
    occluded: bool
    noise: float

    def attributes(self) -> dict[str, Any]:
        """Return what the sidecar table says about the picture."""
        return {k: v for k, v in vars(self).items() if k != "noise"}


def random_framing(rng: Random, long_side: int | None = None) -> Framing:
    """Return a framing; the long side is 300 to 800 pixels where not given."""
    pose = rng.choices(POSES, (0.2, 0.18, 0.3, 0.32))[0]
    views = {"sitting": ("front", "front", "side", "turned")}
    view = rng.choice(views.get(pose, ("side", "side", "turned")))
    side = long_side or rng.randint(300, 800)
    ratio = rng.choice((1.0, 0.8, 0.75, 0.75, 0.67))
    short = round(side * ratio)
    upright = view == "front" and rng.random() < 0.5 or rng.random() < 0.06
    width, height = (short, side) if upright else (side, short)
    return Framing(
        scene=rng.choice(SCENES),
        pose=pose,
        view=view,
        light=rng.choices(tuple(LIGHTS), (0.55, 0.2, 0.1, 0.15))[0],
        width=width,
        height=height,
        scale=rng.uniform(0.7, 0.98),
        x=rng.gauss(0, 0.025),
        y=rng.uniform(0.05, 0.16),
        mirrored=rng.random() < 0.5,
        occluded=rng.random() < 0.18,
        noise=rng.choice((0.0, 0.0, 2.0, 4.0)),
    )


def render(dog: Dog, frame: Framing, rng: Random) -> np.ndarray:
    """Draw the picture and return its pixels, ``uint8 [height, width, 3]``."""
    canvas = Canvas(frame.width, frame.height)
    tall = frame.height
    kind = FrontBody if frame.view == "front" else SideBody
    body = kind(dog, frame.pose, frame.view, rng).draw()
    left, low, right, top = body.bounds()
    square = min(frame.width, frame.height)
    unit = frame.scale * square / max((right - left) / 1.04, top - min(low, 0))
    foot = frame.y * tall
    foot = min(foot, max(tall - unit * top - 0.02 * tall, 0.03 * tall))
    horizon = min(max(foot / tall + rng.uniform(0.12, 0.3), 0.26), 0.55)
    paint_scene(canvas, frame.scene, horizon, rng)
    centre = (left + right) / 2 * (-1 if frame.mirrored else 1)
    x = frame.width / 2 + frame.x * frame.width - centre * unit
    canvas.paint(_shadow(left, right), unit, (x, foot), frame.mirrored)
    canvas.paint(body, unit, (x, foot), frame.mirrored)
    if frame.occluded:
        size = 0.2 * unit / tall * rng.uniform(0.8, 1.3)
        at = frame.width / 2 / tall + rng.choice((-1, 1)) * 0.28 * unit / tall
        thing, _ = foreground(frame.scene, at, foot / tall - 0.05, size, rng)
        canvas.paint(thing, tall)
    return _lit(canvas.pixels(), frame, rng)


def _shadow(left: float, right: float) -> Layers:
    layers = Layers()
    middle, half = 0.5 * (left + right), 0.42 * (right - left)
    layers.fill(ellipse(middle, 0.0, half, 0.07), (0.12, 0.12, 0.22), alpha=0.28)
    return layers


def _lit(pixels: np.ndarray, frame: Framing, rng: Random) -> np.ndarray:
    out = pixels * np.asarray(LIGHTS[frame.light], np.float32)
    if frame.noise:
        noise = np.random.default_rng(rng.getrandbits(32))
        grain = noise.standard_normal(pixels.shape[:2], np.float32)
        out += frame.noise * grain[..., None]
    return np.clip(out, 0, 255).astype(np.uint8)
