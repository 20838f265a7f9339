import hashlib
import io
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.data.files import list_files
from doggos_helpers.data.images import upright
from doggos_helpers.data.manifest import draw_sample
from doggos_helpers.errors import DataError, SettingsError, StorageError
from doggos_helpers.sample.__main__ import main
from doggos_sample import BREEDS, dataset, job, picture
from doggos_sample.breeds import TABLE
from doggos_sample.picture import random_framing, render
from doggos_sample.traits import ATTRIBUTES, of_breed
from doggos_sample.workers import run_here
from tests.buckets import BucketServer, needs_server

ROOT = Path(__file__).parents[2]
PER_BREED = 7


def write_dataset(out, images_per_breed, seed=0, workers=0):
    """Draw the sample as the command does; one worker is this process itself."""
    run = partial(run_here, workers=workers)
    return draw_sample(str(out), job.Job(images_per_breed, seed, run)).images


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "drawn"
    assert write_dataset(out, PER_BREED, seed=3, workers=2) == PER_BREED * len(BREEDS)
    return out


def files(out):
    return sorted(p for p in out.rglob("*") if p.is_file() and p.suffix != ".parquet")


# ---- the pictures ------------------------------------------------------------


def test_import_draws_and_loads_nothing():
    code = (
        "import sys, doggos_sample;"
        "print({'torch', 'PIL', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


def test_breeds_are_sorted_and_each_has_odds_for_known_values():
    assert list(BREEDS) == sorted(TABLE) == sorted(set(BREEDS))
    for breed in TABLE.values():
        for name, values in ATTRIBUTES.items():
            odds = getattr(breed, name)
            assert set(odds) <= set(values) and abs(sum(odds.values()) - 1) < 1e-9


def test_related_breeds_share_combinations_in_part():
    retriever = TABLE["labrador"].coat.keys() & TABLE["golden_retriever"].coat.keys()
    assert "golden" in retriever
    beagle, basset = TABLE["beagle"], TABLE["basset_hound"]
    assert beagle.pattern.keys() == basset.pattern.keys()


def test_layout_counts_and_splits(drawn):
    assert sorted(p.name for p in drawn.iterdir()) == [
        "attributes.parquet",
        "test",
        "train",
        "val",
    ]
    for split in dataset.SPLITS:
        assert sorted(p.name for p in (drawn / split).iterdir()) == list(BREEDS)
    assert len(files(drawn)) == PER_BREED * len(BREEDS)


@pytest.mark.parametrize("count", [20, 60, 1000])
def test_splits_are_70_15_15(count):
    share = Counter(dataset.split_of(i) for i in range(count))
    assert share["val"] == share["test"] == 0.15 * count


def test_the_table_has_a_row_for_each_image(drawn):
    table = pq.read_table(drawn / "attributes.parquet").to_pylist()
    assert [r["path"] for r in table] == [
        p.relative_to(drawn).as_posix() for p in files(drawn)
    ]
    for row in table:
        assert row["path"].split("/")[:2] == [row["split"], row["breed"]]
        odds = TABLE[row["breed"]]
        assert all(row[name] in getattr(odds, name) for name in ATTRIBUTES)
        assert (drawn / row["path"]).stat().st_size == row["bytes"]
    assert len({r["scene"] for r in table}) == 5
    assert len({r["pose"] for r in table}) == 4


def test_sizes_formats_and_orientations(drawn):
    rows = pq.read_table(drawn / "attributes.parquet").to_pylist()
    table = {row["path"]: row for row in rows}
    for path, row in table.items():
        with Image.open(drawn / path) as image:
            image.load()
            assert 300 <= max(image.size) <= 800
            assert image.getexif().get(0x0112, 1) == row["orientation"]
            turned = row["orientation"] in (6, 8)
            size = image.size[::-1] if turned else image.size
            assert size == (row["width"], row["height"])
            assert (
                image.format
                == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[path.rsplit(".", 1)[1]]
            )
    kinds = Counter(path.rsplit(".", 1)[1] for path in table)
    assert set(kinds) == {"jpg", "png", "webp"} and kinds["jpg"] > 0.8 * len(table)
    assert sum(r["orientation"] != 1 for r in table.values()) >= 3
    assert np.mean([r["bytes"] for r in table.values()]) < 60_000


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_undoes_the_turn(orientation):
    from PIL import ImageOps

    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:60, :80] = 255
    for seed in range(2000):
        data, suffix, found, _ = dataset.encode(pixels, Random(seed))
        if suffix == "jpg" and found == orientation:
            break
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert image.size == (400, 300)
    back = np.asarray(image)
    assert back[:40, :60].mean() > 240 > 10 > back[100:].mean()


def test_the_same_seed_draws_the_same_however_many_and_with_what(drawn, tmp_path):
    write_dataset(tmp_path / "few", 2, seed=3, workers=1)
    few, many = digests(tmp_path / "few"), digests(drawn)
    assert len(few) == 2 * len(BREEDS) and few.items() <= many.items()
    write_dataset(tmp_path / "other", 1, seed=4, workers=1)
    assert not set(digests(tmp_path / "other").values()) & set(many.values())


class Stopped(Exception):
    """Ends a run in the middle."""


def stopping(monkeypatch, after, error):
    """Let drawing fail after so many pictures; return the list of those drawn."""
    drawn = []

    def draw(*args):
        if len(drawn) == after:
            raise error
        drawn.append(args)
        return dataset.draw(*args)

    monkeypatch.setattr(job, "draw", draw)
    return drawn


def digests(out):
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files(out)
    }


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    drawn = stopping(monkeypatch, 5, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "half", 1, workers=1)
    assert len(drawn) == 5 and list(tmp_path.iterdir()) == []


def test_a_complete_data_set_is_not_drawn_again(drawn, monkeypatch):
    again = stopping(monkeypatch, 0, Stopped)
    assert write_dataset(drawn, PER_BREED, seed=3) == PER_BREED * len(BREEDS)
    assert again == []


def overtaken(monkeypatch, out, seed):
    """Let another call of that seed end while the first picture is drawn."""
    first = []

    def draw(*args):
        if not first:
            first.append(args)
            write_dataset(out, 1, seed=seed, workers=1)
        return dataset.draw(*args)

    monkeypatch.setattr(job, "draw", draw)


def test_the_loser_of_two_equal_calls_uses_what_the_winner_made(tmp_path, monkeypatch):
    out = tmp_path / "out"
    overtaken(monkeypatch, out, seed=0)
    assert write_dataset(out, 1, seed=0, workers=1) == len(BREEDS)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(files(out)) == len(BREEDS)


def test_the_loser_of_two_different_calls_says_so(tmp_path, monkeypatch):
    out = tmp_path / "out"
    overtaken(monkeypatch, out, seed=1)
    with pytest.raises(SettingsError, match="other files are there already"):
        write_dataset(out, 1, seed=0, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    notes = pq.read_schema(out / "attributes.parquet").metadata
    assert notes[b"seed"] == b"1"


def test_two_processes_that_start_together_both_succeed(tmp_path):
    code = (
        "import sys; from doggos_sample import write_dataset;"
        "print(write_dataset(sys.argv[1], 1))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert out.strip() == str(len(BREEDS)), err
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert write_dataset(tmp_path / "out", 1, workers=1) == len(BREEDS)


def test_the_dog_is_in_the_picture_and_attributes_show():
    rng = Random(0)
    dog = of_breed(TABLE["dalmatian"], rng)
    frame = random_framing(rng, 300)
    with_spots = render(dog, frame, Random(1)).astype(int)
    dog.values["pattern"] = "plain"
    assert (abs(render(dog, frame, Random(1)) - with_spots).max(-1) > 60).sum() > 50


def test_two_dogs_and_blur_are_rare_and_recorded():
    frames = [random_framing(Random(seed)) for seed in range(3000)]
    said = [frame.attributes() for frame in frames]
    assert 0.025 < np.mean([row["dogs"] == 2 for row in said]) < 0.055
    assert 0.07 < np.mean([row["blur"] > 0 for row in said]) < 0.13
    assert {row["dogs"] for row in said} == {1, 2}


def test_a_second_dog_of_the_breed_stands_beside(monkeypatch):
    dog = of_breed(TABLE["dalmatian"], Random(0))
    frame = replace(random_framing(Random(4), 300), occluded=False, dogs=1)
    dogs = []
    real = picture._stand
    monkeypatch.setattr(picture, "_stand", lambda *a: dogs.append(a) or real(*a))
    render(dog, frame, Random(1))
    assert len(dogs) == 1
    render(dog, replace(frame, dogs=2), Random(1))
    (_, _, far_unit, (far_x, far_y), _), (_, _, unit, (x, y), _) = dogs[1:]
    assert far_unit < 0.8 * unit and far_y > y and abs(far_x - x) > 0.2 * 300


def test_blur_softens_edges():
    dog, rng = of_breed(TABLE["dalmatian"], Random(0)), Random(2)
    frame = replace(random_framing(rng, 400), noise=0.0, blur=0.0)
    sharp = render(dog, frame, Random(1)).astype(int)
    soft = render(dog, replace(frame, blur=1.5), Random(1)).astype(int)

    def edges(pixels):
        return (abs(np.diff(pixels, axis=0)).max(-1) > 60).mean()

    assert edges(soft) < 0.6 * edges(sharp)


# ---- near duplicates ---------------------------------------------------------


def test_one_in_a_hundred_is_a_near_duplicate_from_another_split(monkeypatch):
    monkeypatch.setattr(dataset, "render", lambda *_: np.zeros((8, 8, 3), np.uint8))
    rows = [dataset.draw(b, i, 0)[1] for b in BREEDS for i in range(100)]
    by_path = {row["path"]: row for row in rows}
    copies = [row for row in rows if row["duplicate_of"]]
    assert 0.005 < len(copies) / len(rows) < 0.018
    assert len(by_path) == len(rows)
    for row in copies:
        original = by_path[row["duplicate_of"]]
        assert original["split"] != row["split"] and original["duplicate_of"] is None
        same = [*ATTRIBUTES, "breed", "scene", "pose", "light", "width", "height"]
        assert all(row[name] == original[name] for name in same)


def test_a_near_duplicate_looks_like_its_original_but_is_another_file():
    index = next(i for i in range(500) if dataset._original_of("pug", i, 0)[0])
    data, row = dataset.draw("pug", index, 0)
    source = int(row["duplicate_of"].rpartition("_")[2].split(".")[0])
    original, other = (dataset.draw("pug", n, 0)[0] for n in (source, source + 1))

    def small(encoded):
        image = upright(encoded).resize((24, 24), Image.Resampling.BOX)
        return np.asarray(image, float).ravel()

    def alike(a, b):
        return np.corrcoef(small(a), small(b))[0, 1]

    assert data != original
    assert alike(data, original) > 0.85 > alike(data, other)


# ---- buckets -----------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    server = BucketServer(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        client = boto3.client(
            "s3", endpoint_url=server.endpoint, region_name="us-east-1",
            aws_access_key_id="owner", aws_secret_access_key="owner-secret",
        )  # fmt: skip
        client.create_bucket(Bucket="dogs")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.access().items():
                patch.setenv(name, value)
            yield client
    finally:
        server.stop()


def keys(client, prefix):
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket="dogs", Prefix=prefix
    )
    found = [o["Key"] for page in pages for o in page.get("Contents", ())]
    return {k.removeprefix(prefix) for k in found if not k.endswith("/")}


@needs_server
def test_a_run_to_a_bucket_is_resumed_and_complete_with_its_table(
    bucket, tmp_path, monkeypatch
):
    client, uri = bucket, "s3://dogs/v2"
    write_dataset(tmp_path / "local", 2, seed=1, workers=1)
    local = digests(tmp_path / "local")
    drawn = stopping(monkeypatch, 20, Stopped)
    with pytest.raises(Stopped):
        write_dataset(uri, 2, seed=1, workers=1)
    before = keys(client, "v2/")
    assert len([k for k in before if k.endswith(".parquet")]) == 10 == len(drawn) // 2
    assert "attributes.parquet" not in before

    with pytest.raises(SettingsError, match="unfinished other run is there .*seed 1"):
        write_dataset(uri, 2, seed=2, workers=1)
    assert keys(client, "v2/") == before

    drawn = stopping(monkeypatch, 12, Stopped)  # six breeds were missing
    assert write_dataset(uri, 2, seed=1, workers=1) == 2 * len(BREEDS)
    assert len(drawn) == 12
    assert keys(client, "v2/") == {*local, "attributes.parquet"}
    for path, digest in local.items():
        body = client.get_object(Bucket="dogs", Key=f"v2/{path}")["Body"].read()
        assert hashlib.sha256(body).hexdigest() == digest
    found = client.get_object(Bucket="dogs", Key="v2/attributes.parquet")["Body"].read()
    assert pq.read_table(io.BytesIO(found)).equals(
        pq.read_table(tmp_path / "local" / "attributes.parquet")
    )

    drawn = stopping(monkeypatch, 0, Stopped)
    assert write_dataset(uri, 2, seed=1) == 2 * len(BREEDS) and not drawn


@needs_server
def test_a_bucket_that_holds_other_files_is_left_alone(bucket):
    bucket.put_object(Bucket="dogs", Key="mine/cat.jpg", Body=b"cat")
    with pytest.raises(SettingsError, match="other files are there already"):
        write_dataset("s3://dogs/mine", 1)
    assert keys(bucket, "mine/") == {"cat.jpg"}


@needs_server
def test_a_bucket_that_does_not_exist_is_named_and_not_made(bucket):
    with pytest.raises(StorageError, match="can't write the sample .*nowhere"):
        main(["--out", "s3://nowhere/v2", "--images-per-breed", "1"])
    made = [b["Name"] for b in bucket.list_buckets()["Buckets"]]
    assert "nowhere" not in made


def test_a_place_that_only_fsspec_knows():
    assert write_dataset("memory://dogs/v2", 1, workers=1) == len(BREEDS)
    paths = [p for t in list_files("memory://dogs/v2") for p in t["path"].to_pylist()]
    assert len(paths) == len(BREEDS) + 1 and "attributes.parquet" in paths


# ---- the command -------------------------------------------------------------


def test_command_prints_rate_and_size(tmp_path, capsys):
    out = tmp_path / "cli"
    arguments = ["--out", str(out), "--images-per-breed", "1", "--workers", "1"]
    main(arguments)
    said = capsys.readouterr()
    size = sum(p.stat().st_size for p in files(out)) / 1e6
    count = len(BREEDS)
    assert f"{count} images drawn in" in said.out and "a second" in said.out
    assert f"{count} images, {size:.1f} MB, drawings version 2" in said.out
    assert said.err == ""
    main(arguments)
    assert (
        f"0 images drawn, {count} were there: {count} images" in capsys.readouterr().out
    )


def test_progress_where_it_is_wanted(tmp_path, capsys):
    common = ["--images-per-breed", "1", "--workers", "1"]
    main(["--out", str(tmp_path / "a"), "--progress", "yes", *common])
    assert "drawing: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images-per-breed", "0"], "images_per_breed = '0'"),
        (["--images-per-breed", "1000001"], "images_per_breed = '1000001'"),
        (["--workers", "-1"], "workers = '-1'"),
        (["--images-per-breed", "many"], "images_per_breed = 'many'"),
        (["--out", ""], "no place to write to: --out"),
        ([], "other files are there already"),
    ],
)
def test_command_refuses_wrong_arguments(tmp_path, arguments, message):
    out = tmp_path / "taken"
    if not arguments:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError) as error:
        main(["--out", str(out), *arguments])
    assert message in str(error.value) and "Fix: " in str(error.value)
    assert error.value.exit_code == 2
    assert not out.exists() or [p.name for p in out.iterdir()] == ["mine.txt"]


def test_a_place_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    with pytest.raises(StorageError, match=f"can't write the sample .*{below}"):
        main(["--out", str(below)])
    with pytest.raises(DataError, match="no file system for nowhere://"):
        main(["--out", "nowhere://dogs"])


def test_command_ends_with_the_message_alone(tmp_path):
    place = tmp_path / "file"
    place.write_text("")
    command = [sys.executable, "-m", "doggos_helpers.sample", "--out", str(place)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr == f"error: a file is there: {place}\n  Fix: Name a folder.\n"
