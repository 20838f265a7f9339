"""Near copies across splits: crops and other encodings are, lookalikes are not."""

import io
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.data.images import upright
from doggos_helpers.embed.table import read_contents, read_embeddings
from doggos_helpers.evaluate.likeness import NEAREST, copied, nearest
from doggos_helpers.settings import Settings
from doggos_sample import write_dataset
from tests.synthetic import write_embeddings


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A table of three files, whose rows don't follow the splits."""
    chosen = Settings(storage=str(tmp_path_factory.mktemp("likeness")))
    write_embeddings(chosen)
    folder = chosen.embeddings_dir / "table" / "00000"
    table = pq.read_table(folder / "embeddings.parquet")
    (folder / "embeddings.parquet").unlink()
    for number in range(3):
        part = table.take(np.arange(number, len(table), 3))
        pq.write_table(part, folder / f"{number}.parquet")
    return chosen


def test_the_nearest_of_other_splits_are_found_file_by_file(settings):
    rows = read_embeddings(settings)
    held = rows.select(rows.splits != "train")
    found = nearest(read_contents(settings), held.vectors, held.splits)
    scores, paths, classes = found
    assert scores.shape == paths.shape == classes.shape == (len(held), NEAREST)
    for i, split in enumerate(held.splits):
        others = rows.select(rows.splits != split)
        alike = others.vectors @ held.vectors[i]
        order = np.argsort(-alike)[:NEAREST]
        np.testing.assert_allclose(scores[i], alike[order], atol=1e-6)
        assert set(paths[i]) == set(others.paths[order])
        names = dict(zip(rows.paths, rows.classes, strict=True))
        assert [names[path] for path in paths[i]] == list(classes[i])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Drawn dogs, of few breeds: many that look much alike."""
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, images_per_breed=8)
    return folder


def changed(image: Image.Image, how: str, random: Random) -> bytes:
    """Cut, shrink or encode an image anew, as people do who collect them."""
    if how == "cropped":
        cut, (width, height) = random.uniform(0.05, 0.2), image.size
        left, top = (random.uniform(0, cut) for _ in range(2))
        box = (left, top, left + 1 - cut, top + 1 - cut)
        sides = (width, height, width, height)
        image = image.crop(tuple(int(a * b) for a, b in zip(box, sides, strict=True)))
    if how == "shrunk":
        image = image.resize((image.width // 3, image.height // 3))
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=50)
    return data.getvalue()


@pytest.mark.parametrize("how", ["encoded", "shrunk", "cropped"])
def test_copies_are_found_among_the_similar(drawn, how):
    random = Random(how)
    originals = [p for p in sorted(drawn.rglob("*.jpg")) if "/train/" in str(p)]
    found = 0
    for original in random.sample(originals, 20):
        copy = drawn / "test" / f"{how}-{original.name}"
        copy.write_bytes(changed(upright(original.read_bytes()), how, random))
        other = random.choice(originals)
        paths = np.array([str(p.relative_to(drawn)) for p in (other, original)], object)
        where = str(copy.relative_to(drawn))
        found += copied(str(drawn), where, paths, np.array([0.95, 0.95])) == paths[1]
        copy.unlink()
    print(f"{found} of 20 {how} copies found")
    assert found >= 19


def test_other_pictures_of_the_same_breed_are_no_copies(drawn):
    alarms = pairs = 0
    for breed in sorted((drawn / "train").iterdir()):
        files = [str(p.relative_to(drawn)) for p in sorted(breed.iterdir())]
        for file in files:
            others = np.array([f for f in files if f != file], object)
            pairs += len(others)
            alarms += bool(copied(str(drawn), file, others, np.ones(len(others))))
    print(f"{alarms} false alarms in {pairs} pairs")
    assert pairs > 300 and alarms <= pairs / 200


def test_only_pictures_with_like_embeddings_are_looked_at(drawn):
    file = str(next((drawn / "train").rglob("*.jpg")).relative_to(drawn))
    same = np.array([file], object)
    assert copied(str(drawn), file, same, np.array([0.95])) == file
    assert copied(str(drawn), file, same, np.array([0.5])) == ""


def test_a_picture_that_is_gone_is_a_copy_of_nothing(tmp_path):
    assert copied(str(tmp_path), "a.jpg", np.array(["b.jpg"]), np.array([1.0])) == ""
