"""Cases: data sets that are missing, laid out wrongly, or can't be reached."""

import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from doggos_helpers.data.listing import SPLITS
from tests.faults.case import Case, Outcome, Place
from tools.local_cluster import free_ports

AREA = "Data sets"
CLASSES = ("beagle", "corgi")
EACH = 2


def jpeg(number: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return a small JPEG; another number is another picture."""
    buffer = io.BytesIO()
    colour = (number * 37 % 256, number * 101 % 256, 90)
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def dogs(
    root: Path,
    classes: Sequence[str] = CLASSES,
    splits: Sequence[str] = SPLITS,
    each: int = EACH,
) -> Path:
    """Lay out a small data set in which every file differs."""
    number = 0
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                number += 1
                (root / split / name / f"{i}.jpg").write_bytes(jpeg(number))
    return root


def embed(root: Path | str, *options: str) -> list[str]:
    """Return the command that embeds a data set."""
    return ["embed", f"--dataset={root}", *options]


def changed(change: Callable[[Path], object]) -> Callable[[Place], list[str]]:
    """Return a `provoke` that spoils a good data set."""

    def provoke(place: Place) -> list[str]:
        root = dogs(place.folder / "dogs")
        change(root)
        return embed(root)

    return provoke


def untrainable(
    change: Callable[[Path], object] = lambda root: None, **layout: Sequence[str]
) -> Callable[[Place], list[str]]:
    """Return a `provoke` that trains on the embeddings of a spoilt data set."""

    def provoke(place: Place) -> list[str]:
        from tests.faults.storage import embedded  # which lays its data sets out here

        root = dogs(place.folder / "dogs", **layout)
        change(root)
        return ["train", f"--dataset={embedded(place, root).dataset}"]

    return provoke


def _file(place: Place) -> list[str]:
    file = place.folder / "dogs.zip"
    file.write_bytes(b"PK")
    return embed(file)


def _bucket_at_a_closed_port(place: Place) -> list[str]:
    place.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    return embed("s3://anonymous@dogs")


def _unlistable(root: Path) -> None:
    """Make a folder that even root can't list: a name in it that is no folder."""
    shutil.rmtree(root / "train")
    (root / "train").symlink_to(root / "train")


def _flat(root: Path) -> None:
    for split in SPLITS:
        shutil.rmtree(root / split)
        (root / split).mkdir()
        (root / split / "dog.jpg").write_bytes(jpeg())


def _spell_twice(root: Path) -> None:
    (root / "train" / "corgi").rename(root / "train" / "e\u0301pagneul")
    (root / "test" / "corgi").rename(root / "test" / "\xe9pagneul")


def _nothing_was_made(place: Place, outcome: Outcome) -> None:
    assert not list(place.storage.rglob("*.parquet"))
    assert outcome.seconds < 3, f"{outcome.seconds:.1f} s before Ray starts"


def _nothing_trained(place: Place, outcome: Outcome) -> None:
    assert not list(place.storage.rglob("training"))
    assert outcome.seconds < 3, f"{outcome.seconds:.1f} s before Ray starts"


def _answers_in_time(place: Place, outcome: Outcome) -> None:
    assert outcome.seconds < 10, f"{outcome.seconds:.1f} s"


def _outside(root: Path) -> None:
    (root / "train" / "lost.jpg").write_bytes(jpeg(200))
    (root / "lost.jpg").write_bytes(jpeg(201))
    os.symlink(root, root / "train" / "corgi" / "again")  # a circle of links


def counted(count: int, *said: str) -> Callable[[Place, Outcome], None]:
    """Return an `after` that wants so many rows, all good, and these words."""

    def after(place: Place, outcome: Outcome) -> None:
        assert f"{count} embedded + 0 bad = {count}" in outcome.out, outcome.out
        for text in said:
            assert text in outcome.out + outcome.err

    return after


LAY_OUT = "Lay the images out as <split>/<class>/<image>"

CASES = (
    Case(
        AREA,
        "does not exist",
        lambda place: embed(place.folder / "nowhere"),
        3,
        "no such data set: ",
        "The folder or URI of `dataset` isn't there, seen from this machine.",
        "Set dataset (DOGGOS_DATASET) to sample, a folder or a URI",
        after=_nothing_was_made,
    ),
    Case(
        AREA,
        "is a file",
        _file,
        3,
        "the data set is a file, not a folder: ",
        "`dataset` names an archive or an image.",
        "Set dataset (DOGGOS_DATASET) to sample, a folder or a URI",
        after=_nothing_was_made,
    ),
    Case(
        AREA,
        "is empty",
        lambda place: embed(place.folder),
        3,
        "no images found (0 other files): ",
        "The folder holds no images, or other files alone.",
        "Name a folder with images at any depth; to train, <split>/<class>/<image>",
        after=_nothing_was_made,
    ),
    Case(
        AREA,
        "has no class folders",
        untrainable(_flat),
        3,
        "can't train: the images have no classes and splits: ",
        "The images lie in the split folders themselves, or in no split at all: they"
        " can be embedded and searched, and not trained on.",
        LAY_OUT,
        after=_nothing_trained,
    ),
    Case(
        AREA,
        "has one class only",
        untrainable(classes=["corgi"]),
        3,
        "a classifier needs at least two classes: ",
        "There is one folder of images in each split.",
        LAY_OUT,
        after=_nothing_trained,
    ),
    Case(
        AREA,
        "lacks a split",
        untrainable(lambda root: shutil.rmtree(root / "val")),
        3,
        "the split val has no images: ",
        "A split's folder is missing or empty, or has another name.",
        LAY_OUT,
        after=_nothing_trained,
    ),
    Case(
        AREA,
        "has a class that train lacks",
        untrainable(lambda root: shutil.rmtree(root / "train" / "corgi")),
        3,
        "classes in val that train lacks: corgi: ",
        "Nothing could be learnt about that class.",
        LAY_OUT,
        after=_nothing_trained,
    ),
    Case(
        AREA,
        "class names differ in case",
        untrainable(lambda root: (root / "test/corgi").rename(root / "test/Corgi")),
        3,
        "classes that differ only in case or Unicode form: 'Corgi', 'corgi': ",
        "Two spellings of one class would be two classes.",
        LAY_OUT,
        after=_nothing_trained,
    ),
    Case(
        AREA,
        "class names differ in Unicode form",
        untrainable(_spell_twice),
        3,
        r"Unicode form: 'e\u0301pagneul', '\xe9pagneul': ",
        "An accent is one character in one name and two in the other, as macOS"
        " and archives write them.",
        LAY_OUT,
        after=_nothing_trained,
    ),
    Case(
        AREA,
        "can't be listed",
        untrainable(_unlistable),
        3,
        "the split train has no images: ",
        "A split's folder is a symbolic link in a circle.",
        LAY_OUT,
        after=_nothing_trained,
    ),
    Case(
        AREA,
        "URI of an unknown scheme",
        lambda place: embed("dogs://bucket/folder"),
        3,
        "no file system for dogs://",
        "fsspec doesn't know the scheme, or lacks the package for it.",
        "Use a folder, s3://, or install the fsspec package for it",
        after=_nothing_was_made,
    ),
    Case(
        AREA,
        "a bucket that can't be reached",
        _bucket_at_a_closed_port,
        3,
        "can't read the data set (NETWORK_CONNECTION",
        "The endpoint is wrong, or this machine has no way to it.",
        "Check its name, AWS_ENDPOINT_URL and your key (AWS_ACCESS_KEY_ID)",
        after=_answers_in_time,
    ),
    Case(
        AREA,
        "a bucket with its endpoint in the URI",
        lambda place: embed("s3://dogs?endpoint_override=127.0.0.1:9000"),
        2,
        "a bucket and folder alone, the rest in AWS_ACCESS_KEY_ID",
        "Key, region and endpoint of a bucket are variables, not parts of its URI.",
        "Change the parameter, the option or DOGGOS_DATASET",
        after=_answers_in_time,
    ),
    Case(
        AREA,
        "images outside class folders",
        changed(_outside),
        0,
        "2 images in ",
        "They lie in a split's folder or beside the splits; the rest is embedded.",
        "Move them into `<split>/<class>/`",
        printed_fix=False,
        cluster=True,
        after=counted(6 * EACH),
        long=True,
    ),
    Case(
        AREA,
        "a class missing from one split",
        changed(lambda root: shutil.rmtree(root / "val" / "corgi")),
        0,
        "The split val of ",
        "The figures of that split say nothing about the class.",
        "Put images of it there, or live with it",
        printed_fix=False,
        cluster=True,
        after=counted(5 * EACH, "has no images of: corgi"),
        long=True,
    ),
)
