"""Images: decoding whatever people call one, and CLIP preprocessing."""

import io
import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # a decoded image of this size takes 150 MB
# Larger ones are refused here; Pillow would warn of them as well.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class BadImage(ValueError):
    """An image that can't be read or decoded; its text is the reason."""


@dataclass(frozen=True)
class Preprocessing:
    """What a CLIP image processor does before it scales pixels.

    `shortest_edge` 0 means: resize to `crop` directly. `crop` is (height, width).
    """

    shortest_edge: int
    crop: tuple[int, int]
    resample: int

    @classmethod
    def of(cls, processor: Any) -> Self:
        """Read how a processor of transformers resizes and crops."""
        size = dict(processor.size or {})
        crop = dict(processor.crop_size or {}) if processor.do_center_crop else size
        height, width = int(crop["height"]), int(crop["width"])
        edge = int(size.get("shortest_edge") or 0)
        return cls(edge, (height, width), int(processor.resample))


def upright(data: bytes, least_edge: int = 0) -> Image.Image:
    """Decode a file's bytes to RGB, turned as its EXIF orientation says.

    Transparent pixels become white; of an animation the first frame is taken. A JPEG
    may be decoded smaller, if its shortest edge keeps `least_edge` pixels; 0: not.

    Raises:
        BadImage: The bytes are no image, are truncated, or hold too many pixels.
    """
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{width} x {height}")
        if least_edge:
            scale = least_edge / min(width, height)
            image.draft("RGB", (int(width * scale) + 1, int(height * scale) + 1))
        return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise BadImage(f"too many pixels: {error}") from error
    except UnidentifiedImageError:
        raise BadImage(_unread(data)) from None
    except Exception as error:  # PIL's decoders raise many kinds
        raise BadImage(f"broken image: {error}") from error


def _unread(data: bytes) -> str:
    """Say what the file is that Pillow doesn't know, where that is plain to see."""
    if data[4:8] == b"ftyp":  # the box that ISO media files begin with
        brand = data[8:12].decode("latin-1")
        kind = "HEIC" if brand.startswith(("hei", "hev", "mif", "msf")) else brand
        return f"not an image that this Pillow reads: {kind}"
    if data[:256].lstrip()[:1] == b"<":
        return "not an image: a web page or other markup"
    return "not an image"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if values.max(initial=0) > 255:  # 16 bits a pixel
            values = values / 257
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    return image.convert("RGB")


def decode(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Turn a file's bytes into the pixels that the image tower takes.

    The same resize and centre crop as the model's own processor, which afterwards
    only scales and normalises. JPEGs are decoded at no less than three times the size.

    Returns:
        uint8 [height, width, 3].
    """
    edge = preprocessing.shortest_edge or min(preprocessing.crop)
    return preprocess(upright(data, least_edge=3 * edge), preprocessing)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize and centre-crop an upright RGB image to uint8 [height, width, 3]."""
    crop_height, crop_width = preprocessing.crop
    resample = Image.Resampling(preprocessing.resample)
    if not preprocessing.shortest_edge:
        return np.asarray(image.resize((crop_width, crop_height), resample))
    short = preprocessing.shortest_edge
    width, height = image.size
    scale = min(width, height)
    size = (short * width // scale, short * height // scale)
    if max(size) > 40 * short:
        raise BadImage(f"too narrow: {width} x {height}")
    image = image.resize(size, resample)
    left, top = (size[0] - crop_width) // 2, (size[1] - crop_height) // 2
    box = (left, top, left + crop_width, top + crop_height)
    return np.asarray(image.crop(box))
