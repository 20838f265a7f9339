"""Files that people have in their folders: bad ones, and odd ones that are fine."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from doggos_helpers.data.images import MAX_PIXELS

TALL = (40, 60)  # upright; turned it is 60 wide


@dataclass(frozen=True)
class File:
    """One file; `reason` is a part of its reason, empty where it is fine."""

    name: str
    data: bytes
    reason: str = ""
    why: str = ""


def picture(size: tuple[int, int] = TALL, mode: str = "RGB") -> Image.Image:
    """Draw red above blue, in any mode."""
    image = Image.new("RGB", size, (220, 30, 30))
    image.paste((30, 30, 220), (0, size[1] // 2, *size))
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    """Encode a JPEG with an EXIF orientation, which may be none that exists."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(), "JPEG", exif=exif)


def garbled() -> bytes:
    """Encode a JPEG whose EXIF block is noise."""
    noise = np.random.default_rng(0).bytes(300)
    return saved(picture(), "JPEG", exif=b"Exif\0\0" + noise)


def huge(width: int, height: int) -> bytes:
    """Return a PNG of a few kB that would take hundreds of MB in memory."""
    packer = zlib.compressobj(9)
    line = bytes(1 + width * 3)
    rows = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def frames(kind: str) -> bytes:
    """Encode an animation of three frames."""
    more = [Image.new("RGB", TALL, c) for c in ("green", "white")]
    return saved(picture(), kind, save_all=True, append_images=more, duration=50)


def sixteen_bits() -> bytes:
    """Encode a grey PNG of 16 bits a pixel."""
    grey = np.asarray(picture(mode="L")).astype(np.uint16) * 257
    return saved(Image.fromarray(grey), "PNG")


def transparent_palette() -> bytes:
    """Encode a palette PNG of which one colour is transparent."""
    return saved(picture(mode="P"), "PNG", transparency=0)


def heic() -> bytes:
    """Return the first box of a HEIC file, as phones write it, and some noise."""
    box = b"ftypheic" + bytes(4) + b"mif1heic"
    return struct.pack(">I", 4 + len(box)) + box + bytes(200)


JPEG = saved(picture(), "JPEG")
BIG = (12_000, 9_000)

FILES: tuple[File, ...] = (
    File("empty.jpg", b"", "empty file", "A download or a copy that never began."),
    File(
        "cut.jpg",
        saved(picture((400, 600)), "JPEG")[:900],
        "broken image: ",
        "The file ends before the picture does.",
    ),
    File("noise.jpg", bytes(range(256)), "not an image", "Other bytes, named .jpg."),
    File("text.jpg", b"Good dog.\n", "not an image", "Text, named .jpg."),
    File(
        "page.png",
        b"<!DOCTYPE html><html>404</html>",
        "not an image: a web page or other markup",
        "What a broken download leaves.",
    ),
    File(
        "phone.heic",
        heic(),
        "not an image that this Pillow reads: HEIC",
        "A telephone's own format; export JPEGs.",
    ),
    File(
        "thin.png",
        saved(picture((1, 5000)), "PNG"),
        "too narrow: 1 x 5000",
        "Its centre crop would show nothing of it.",
    ),
    File(
        "bomb.png",
        huge(*BIG),
        f"too many pixels: {BIG[0]} x {BIG[1]}",
        f"More than {MAX_PIXELS // 1_000_000} million pixels, refused by the header"
        " alone.",
    ),
    File("dot.png", saved(picture((1, 1)), "PNG")),
    File("moving.gif", frames("GIF")),
    File("moving.webp", frames("WEBP")),
    File("print.jpg", saved(picture(mode="CMYK"), "JPEG")),
    File("sixteen.png", sixteen_bits()),
    File("palette.png", transparent_palette()),
    File("grey.png", saved(picture(mode="LA"), "PNG")),
    File("new.avif", saved(picture(), "AVIF")),
    *(File(f"turned {n}.jpg", turned(n)) for n in range(1, 9)),
    *(File(f"turned {n}.jpg", turned(n)) for n in (0, 9, 60_000)),
    File("garbled.jpg", garbled()),
    File("really a png.jpg", saved(picture(), "PNG")),
    File("UPPER.JPG", JPEG),
    File("with space.jpg", JPEG),
    File('it\'s "so".jpg', JPEG),
    File("hash#1?a=b.jpg", JPEG),
    File("100%25.jpg", JPEG),
    File("dog=1.jpg", JPEG),
    File("köter-犬-собака.jpg", JPEG),
    File("n" * 246 + ".jpg", JPEG),
)
