"""Says where the parts of a drawn dog are, and so what a picture shows.

The dog's shapes are painted again, flat, a number for each part. Training tells the
model where parts are; figures count an attribute only where its part can be seen.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from doggos_sample.canvas import Canvas, Layers

PARTS = ("background", "body", "head", "ears", "legs", "tail")
"""What a pixel can show; its number is the place in this tuple."""

LEAST = {"ears": 0.003, "legs": 0.006, "tail": 0.002}
"""Share of the picture that a part must cover to be seen."""


def part_map(canvas: Canvas, short_side: int) -> NDArray[np.uint8]:
    """Return the part that each pixel shows, scaled to that short side."""
    factor = short_side / min(canvas.width, canvas.height)
    flat = Canvas(
        round(canvas.width * factor), round(canvas.height * factor), smooth=False
    )
    flat.backdrop(np.zeros((flat.height, 3)))
    dog_begun = False
    for layers, scale, (x, y), mirrored in canvas.painted:
        dog_begun = dog_begun or any(op.part for op in layers.ops)
        if dog_begun:
            flat.paint(
                _flat(layers), scale * factor, (x * factor, y * factor), mirrored
            )
    return flat.pixels()[..., 0]


def _flat(layers: Layers) -> Layers:
    shapes = Layers()
    for op in layers.ops:
        if op.kind == "fill" and op.clip is None and op.alpha > 0.5:
            number = PARTS.index(op.part or "background") / 255
            shapes.fill(op.points, (number, number, number))
    return shapes


def visible(values: Mapping[str, str], parts: NDArray[np.uint8]) -> list[str]:
    """Name the attributes that a picture shows, given its part map.

    A lying dog's legs are tucked away, however long they are.
    """
    count = np.bincount(parts.ravel(), minlength=len(PARTS)) / parts.size
    hidden = {p for p, least in LEAST.items() if count[PARTS.index(p)] < least}
    if values["pose"] == "lying":
        hidden.add("legs")
    return [name for name in values if name not in hidden]
