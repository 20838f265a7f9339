"""Draws the sheet of sample images that the README shows.

python tools/sample_sheet.py docs/images/sample.jpg
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from doggos_helpers.data.images import upright
from doggos_sample import BREEDS, write_dataset

SIZE, COLUMNS, EACH = 150, 8, 4


def main() -> None:
    """Draw `EACH` training images of every breed, cut to squares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    rows = EACH * len(BREEDS) // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * SIZE, rows * SIZE))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "dogs"
        write_dataset(root, images_per_breed=2 * EACH)
        for row in range(EACH):
            for column, breed in enumerate(BREEDS):
                path = sorted((root / "train" / breed).iterdir())[row]
                tile = ImageOps.fit(upright(path.read_bytes()), (SIZE, SIZE))
                place = row * len(BREEDS) + column
                x, y = place % COLUMNS * SIZE, place // COLUMNS * SIZE
                sheet.paste(tile, (x, y))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=82)


if __name__ == "__main__":
    main()
