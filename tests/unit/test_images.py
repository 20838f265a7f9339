"""The manifest, and decoding of whatever people call an image."""

import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.data.files import list_files, open_root, read_bytes
from doggos_helpers.data.images import BadImage, Preprocessing, decode, upright
from doggos_helpers.data.listing import labels_problem
from doggos_helpers.data.manifest import build_manifest, read_part
from doggos_helpers.errors import DataError
from doggos_helpers.settings import Settings

CLIP = Preprocessing(shortest_edge=32, crop=(32, 32), resample=3)
RED, BLUE = (220, 20, 30), (20, 30, 220)


def halves(width: int = 80, height: int = 60) -> Image.Image:
    """Draw an image that is red on the left and blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sides(pixels: np.ndarray) -> tuple[str, str]:
    """Name the colours of the left and the right edge."""
    middle = pixels.shape[0] // 2
    return tuple(
        "red" if pixels[middle, x, 0] > pixels[middle, x, 2] else "blue"
        for x in (2, -3)
    )


def lay_out(root: Path, *paths: str) -> Path:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(halves()))
    return root


GOOD = sorted(
    f"{s}/{c}/{i}.png" for s in ("train", "val", "test") for c in "ab" for i in (1, 2)
)


def listed(root) -> dict[str, int]:
    """Return the size of each file of a data set."""
    tables = list(list_files(str(root)))
    return {r["path"]: r["size"] for t in tables for r in t.to_pylist()}


def test_manifest_is_sorted_counted_and_has_a_fingerprint(tmp_path):
    lay_out(tmp_path, *GOOD, "train/a/UPPER.JPG")
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    (tmp_path / "licence.md").write_text("x")
    manifest = build_manifest(Settings(dataset=str(tmp_path)))
    paths = manifest.table["path"].to_pylist()
    assert paths == sorted([*GOOD, "train/a/UPPER.JPG"])
    assert (manifest.classes, manifest.ignored) == (("a", "b"), 2)
    assert manifest.table["size"][0].as_py() == (tmp_path / paths[0]).stat().st_size
    again = build_manifest(Settings(dataset=str(tmp_path)))
    assert again.fingerprint == manifest.fingerprint
    (tmp_path / GOOD[0]).write_bytes(b"other")
    changed = build_manifest(Settings(dataset=str(tmp_path)))
    assert changed.fingerprint != manifest.fingerprint


def test_a_limit_takes_as_many_of_each_class_in_each_split(tmp_path):
    lay_out(tmp_path, *GOOD)
    settings = Settings(dataset=str(tmp_path), images_per_class=1)
    assert build_manifest(settings).table.num_rows == 6


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no images found"),
        (["a/1.png", "b/1.png"], "the images have no classes and splits"),
        (["1.png", "b/c/1.png"], "the images have no classes and splits"),
        ([p for p in GOOD if not p.startswith("val")], "split val has no images"),
        ([p for p in GOOD if "/a/" in p], "at least two classes"),
        ([*GOOD, "test/c/1.png"], "classes in test that train lacks: c"),
    ],
)
def test_a_layout_that_cannot_be_trained_on_has_its_reason(tmp_path, paths, message):
    lay_out(tmp_path, *paths)
    settings = Settings(dataset=str(tmp_path))
    if not paths:
        with pytest.raises(DataError, match=message) as caught:
            build_manifest(settings)
        assert caught.value.where == str(tmp_path)
        return
    manifest = build_manifest(settings)
    assert message in labels_problem(manifest.labels)
    assert manifest.table["path"].to_pylist() == sorted(paths)
    assert manifest.rows == len(paths)


def test_a_folder_without_splits_takes_its_folders_as_classes(tmp_path):
    lay_out(tmp_path, "1.png", "a/1.png", "b/c/1.png")
    manifest = build_manifest(Settings(dataset=str(tmp_path)))
    assert manifest.table["class"].to_pylist() == ["", "a", "c"]
    assert manifest.table["split"].to_pylist() == [""] * 3


def test_a_parquet_file_may_say_what_the_images_are(tmp_path):
    lay_out(tmp_path, "x/1.png", "y/2.png")
    outside = str(tmp_path / "y" / "2.png")
    columns = {"path": ["x/1.png", outside], "class": ["pug", "corgi"]}
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    manifest = build_manifest(Settings(dataset=str(tmp_path / "mine.parquet")))
    assert manifest.root == str(tmp_path) and manifest.classes == ("corgi", "pug")
    for path in manifest.table["path"].to_pylist():
        assert read_bytes(manifest.root, path)
    pq.write_table(pa.table({"file": ["x/1.png"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column path"):
        build_manifest(Settings(dataset=str(tmp_path / "other.parquet")))
    pq.write_table(pa.table({"path": ["a"] * 2}), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="in the manifest twice: a"):
        _ = build_manifest(Settings(dataset=str(tmp_path / "twice.parquet"))).table


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (
            {"class": ["pug", None], "split": ["train", "val"], "more": [1, 2]},
            [("pug", "train", 0), ("", "val", 0)],
        ),
        (
            {"class": pd.Categorical(["pug", "corgi"]), "size": [1.0, None]},
            [("pug", "", 1), ("corgi", "", 0)],
        ),
        (
            {
                "size": np.array([1, 2], "int32"),
                "modified": pd.to_datetime(["1.1.2020"] * 2),
            },
            [("", "", 1), ("", "", 2)],
        ),
    ],
)
def test_the_columns_of_a_given_table_are_of_any_type_that_fits(
    tmp_path, columns, rows
):
    file = tmp_path / "mine.parquet"
    pd.DataFrame({"path": ["a.jpg", "b.jpg"], **columns}).to_parquet(file)
    table = build_manifest(Settings(dataset=str(file))).table.to_pylist()
    assert [(r["class"], r["split"], r["size"]) for r in table] == rows
    assert all(bool(r["modified"]) == ("modified" in columns) for r in table)


def test_a_path_stays_in_its_part_as_the_data_set_changes(tmp_path):
    lay_out(tmp_path, *GOOD)
    settings = Settings(dataset=str(tmp_path))
    before = build_manifest(settings, parts=3)
    parts = [read_part(before.folder, i)["path"].to_pylist() for i in range(3)]
    assert sorted(sum(parts, [])) == GOOD and max(map(len, parts)) < len(GOOD)
    lay_out(tmp_path, "train/a/3.png")
    (tmp_path / GOOD[0]).unlink()
    after = build_manifest(settings, parts=3)
    for i, was in enumerate(parts):
        now = read_part(after.folder, i)["path"].to_pylist()
        assert set(was) - {GOOD[0]} == set(now) - {"train/a/3.png"}


def test_a_data_set_that_is_not_there_or_not_a_folder(tmp_path):
    with pytest.raises(DataError, match="no such data set"):
        listed(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="a file, not a folder"):
        listed(tmp_path / "file")
    with pytest.raises(DataError, match="no file system for gopher"):
        open_root("gopher://x/y")


def test_fsspec_serves_the_schemes_that_pyarrow_lacks():
    import fsspec

    with fsspec.open("memory://dogs/train/a/1.png", "wb") as file:
        file.write(encoded(halves()))
    [(path, size)] = listed("memory://dogs").items()
    assert path == "train/a/1.png"
    assert len(read_bytes("memory://dogs", path)) == size > 0


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_exif_orientation_is_applied_and_an_invalid_one_ignored(orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = halves()
    stored = image.transpose(turns[orientation]) if orientation in turns else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "JPEG", exif=exif, quality=95)
    assert upright(data).size == (80, 60)
    assert sides(decode(data, CLIP)) == ("red", "blue")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"),
     ("1", "PNG"), ("RGB", "GIF"), ("RGB", "BMP"), ("RGB", "TIFF")],
)  # fmt: skip
def test_every_mode_becomes_rgb(mode, kind):
    pixels = decode(encoded(halves().convert(mode), kind), CLIP)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    grey = mode in ("L", "LA", "1")
    assert abs(int(pixels[16, 2, 0]) - int(pixels[16, 2, 2])) < 5 or not grey
    assert grey or sides(pixels) == ("red", "blue")


def test_sixteen_bits_are_scaled_not_cut():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(ramp)), CLIP)
    assert pixels[0, 0, 0] < 10 and 120 < pixels[16, 16, 0] < 136
    assert pixels[31, 31, 0] > 245


def test_transparent_pixels_become_white():
    image = halves().convert("RGBA")
    image.putalpha(0)
    assert decode(encoded(image), CLIP).min() == 255
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([0, 0, 0])
    assert decode(encoded(palette, transparency=0), CLIP).min() == 255


def test_a_large_jpeg_is_decoded_smaller_but_not_below_twice_the_size():
    data = encoded(halves(2400, 1600), "JPEG", quality=90)
    assert min(upright(data, least_edge=64).size) in range(64, 300)
    assert upright(data).size == (2400, 1600)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not an image"),
        (encoded(halves(), "JPEG")[:300], "broken image"),
        (encoded(Image.new("1", (9000, 9000))), "too many pixels: 9000 x 9000"),
        (encoded(Image.new("L", (1, 5000))), "too narrow: 1 x 5000"),
    ],
)
def test_a_bad_image_has_a_reason(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data, CLIP)


def test_a_file_that_is_gone_has_a_reason(tmp_path):
    with pytest.raises(BadImage, match="unreadable: no such file"):
        read_bytes(str(tmp_path), "train/a/1.png")


@pytest.mark.parametrize("name", ["a b.png", "q'\"#%25?.png", "hünd犬.png"])
def test_names_with_odd_characters_are_read(tmp_path, name):
    lay_out(tmp_path, *GOOD, f"train/a/{name}")
    sizes = listed(tmp_path)
    assert len(read_bytes(str(tmp_path), f"train/a/{name}")) == sizes[f"train/a/{name}"]


@pytest.mark.long
def test_fifty_thousand_files_are_listed(tmp_path):
    for split, count in (("train", 350), ("val", 75), ("test", 75)):
        for number in range(100):
            folder = tmp_path / split / f"breed_{number:02}"
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").touch()
    started = time.process_time()
    manifest = build_manifest(Settings(dataset=str(tmp_path)))
    print(f"50,000 files listed in {time.process_time() - started:.1f} CPU seconds")
    assert manifest.table.num_rows == 50_000 and len(manifest.classes) == 100


def test_links_are_followed_once_and_one_that_leads_nowhere_is_kept(tmp_path):
    lay_out(tmp_path / "dogs", *GOOD)
    lay_out(tmp_path, "elsewhere/3.png")
    root = tmp_path / "dogs"
    (root / "train" / "c").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "a" / "circle").symlink_to(root)
    (root / "train" / "a" / "gone.png").symlink_to(tmp_path / "nothing")
    files = listed(root)
    assert set(files) == {*GOOD, "train/c/3.png", "train/a/gone.png"}
    assert files["train/a/gone.png"] == 0
