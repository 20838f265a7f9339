"""Composes one picture: a scene, a dog in it, light, and what may hide a bit of it."""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from doggos_sample.body import SideBody
from doggos_sample.canvas import Canvas, Layers
from doggos_sample.front import FrontBody
from doggos_sample.scenes import SCENES, foreground, paint_scene
from doggos_sample.shapes import ellipse
from doggos_sample.traits import Build, Dog

POSES = ("lying", "running", "sitting", "standing")

LIGHTS: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "warm": (1.03, 0.98, 0.89),
    "dusk": (0.88, 0.86, 0.96),
    "overcast": (0.93, 0.95, 0.97),
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
    blur: float
    dogs: int

    def attributes(self) -> dict[str, Any]:
        """Return what the sidecar table says about the picture."""
        return dict(vars(self))


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
        scale=rng.uniform(0.78, 0.98),
        x=rng.gauss(0, 0.025),
        y=rng.gauss(0.47, 0.025),
        mirrored=rng.random() < 0.5,
        occluded=rng.random() < 0.18,
        noise=rng.choice((0.0, 0.0, 2.0, 4.0)),
        blur=round(rng.uniform(0.7, 1.5) * side / 600, 2) * (rng.random() < 0.1),
        dogs=2 if rng.random() < 0.04 else 1,
    )


def render(dog: Dog, frame: Framing, rng: Random) -> np.ndarray:
    """Draw the picture and return its pixels, ``uint8 [height, width, 3]``."""
    return render_parts(dog, frame, rng)[0]


def render_parts(dog: Dog, frame: Framing, rng: Random) -> tuple[np.ndarray, Canvas]:
    """Draw like `render`; the canvas knows what was painted where."""
    canvas = Canvas(frame.width, frame.height)
    tall = frame.height
    kind = FrontBody if frame.view == "front" else SideBody
    body = kind(dog, frame.pose, frame.view, rng).draw()
    unit, x, foot = _place(body, frame)
    horizon = min(max(foot / tall + rng.uniform(0.1, 0.26), 0.26), 0.6)
    paint_scene(canvas, frame.scene, horizon, rng)
    if frame.dogs == 2:
        square = min(frame.width, tall)
        side = rng.choice((-1, 1))
        other = _companion(dog, rng)
        x -= side * 0.1 * square
        unit *= 0.8
        back = min(foot + rng.uniform(0.06, 0.12) * tall, (horizon - 0.03) * tall)
        there = (frame.width / 2 + side * 0.27 * square, back)
        _stand(canvas, other, 0.66 * unit, there, rng.random() < 0.5)
    _stand(canvas, body, unit, (x, foot), frame.mirrored)
    if frame.occluded:
        size = 0.2 * unit / tall * rng.uniform(0.8, 1.3)
        at = frame.width / 2 / tall + rng.choice((-1, 1)) * 0.28 * unit / tall
        thing, _ = foreground(frame.scene, at, foot / tall - 0.05, size, rng)
        canvas.paint(thing, tall)
    return _lit(canvas.pixels(), frame, rng), canvas


def _place(body: Layers, frame: Framing) -> tuple[float, float, float]:
    """Return the pixels of a unit, and where the dog stands: x, and y from below.

    The dog fills the square that models crop. A long one rather loses the tip of its
    tail than be so small that its ears can't be told.
    """
    left, low, right, top = body.bounds()
    square = min(frame.width, frame.height)
    span, rise = right - left, top - min(low, 0)
    fit = span / min(1 + 0.06 * span / rise, 1.16)
    unit = frame.scale * square / max(fit, rise)
    foot = 0.5 * frame.height + (frame.y - 0.5) * square - 0.5 * unit * top
    foot = max(foot, 0.5 * (frame.height - square) + 0.03 * square)
    facing = -1 if frame.mirrored else 1
    centre = (left + right) / 2 - facing * frame.x * frame.width / unit
    centre = max(centre, right - 0.485 * square / unit)
    return unit, frame.width / 2 - facing * centre * unit, foot


def _companion(dog: Dog, rng: Random) -> Layers:
    """Return a second dog that looks much like the first, in a pose of its own."""
    build = Build(**{k: v * rng.gauss(1, 0.06) for k, v in vars(dog.build).items()})
    pose = rng.choice(("standing", "sitting", "lying"))
    return SideBody(replace(dog, build=build), pose, "side", rng).draw()


def _stand(
    canvas: Canvas,
    body: Layers,
    unit: float,
    at: tuple[float, float],
    mirrored: bool,
) -> None:
    """Paint a dog and its shadow."""
    left, _, right, _ = body.bounds()
    shadow = Layers()
    middle, half = 0.5 * (left + right), 0.42 * (right - left)
    shadow.fill(ellipse(middle, 0.0, half, 0.07), (0.12, 0.12, 0.22), alpha=0.28)
    canvas.paint(shadow, unit, at, mirrored)
    canvas.paint(body, unit, at, mirrored)


def _lit(pixels: np.ndarray, frame: Framing, rng: Random) -> np.ndarray:
    if frame.blur:
        image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(frame.blur))
        pixels = np.asarray(image)
    out = pixels * np.asarray(LIGHTS[frame.light], np.float32)
    if frame.noise:
        noise = np.random.default_rng(rng.getrandbits(32))
        grain = noise.standard_normal(pixels.shape[:2], np.float32)
        out += frame.noise * grain[..., None]
    return np.clip(out, 0, 255).astype(np.uint8)
