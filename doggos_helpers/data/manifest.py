"""Data sets: the manifest of a folder or bucket of images."""

import hashlib
import logging
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from doggos_helpers.data.files import LAYOUT, list_files, open_root
from doggos_helpers.errors import DataError
from doggos_helpers.places import SAMPLE
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    import pandas as pd


PATH = "path"
CLASS = "class"
SPLIT = "split"
SIZE = "size"
SPLITS = ("train", "val", "test")
EXTENSIONS = frozenset("jpg jpeg png webp gif bmp tif tiff avif heic heif jp2".split())
ATTRIBUTES = "attributes.parquet"


@dataclass(frozen=True)
class Manifest:
    """All images of a data set: one row an image, in path order.

    `table` has the columns path (relative to the data set), class, split and size
    (bytes). `ignored` counts the files that aren't images in class folders.
    """

    root: str
    table: pa.Table
    classes: tuple[str, ...]
    ignored: int

    @property
    def fingerprint(self) -> str:
        """A hash of all paths and sizes."""
        columns = (self.table[PATH].to_pylist(), self.table[SIZE].to_pylist())
        lines = (f"{path}\0{size}\n" for path, size in zip(*columns, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def build_manifest(settings: Settings) -> Manifest:
    """List the data set of the settings; draw the sample first if it isn't there.

    Raises:
        DataError: The folder or URI can't be listed, or isn't laid out as expected.
    """
    import pandas as pd

    root = settings.dataset_root
    if settings.dataset == SAMPLE and not Path(root).is_dir():
        from doggos_helpers.data.sample import draw_sample

        draw_sample(root, progress=settings.shows_progress)
    files = list_files(root)
    images = [(p, s) for p, s in files if p.rpartition(".")[2].lower() in EXTENSIONS]
    rows = []
    for path, size in sorted(images):
        split, _, name = posixpath.dirname(path).partition("/")
        if split in SPLITS and name and "/" not in name:
            rows.append((path, name, split, size))
    frame = pd.DataFrame(rows, columns=[PATH, CLASS, SPLIT, SIZE])
    ignored = len(files) - len(frame)
    _check_layout(root, frame, ignored)
    if outside := sorted({path for path, _ in images} - set(frame[PATH])):
        logging.getLogger(__name__).warning(
            "%d images in %s lie outside <split>/<class>/ and are left out, such as %s",
            *(len(outside), root, outside[0]),
        )
    if settings.images_per_class:
        place = frame.groupby([CLASS, SPLIT]).cumcount()
        frame = frame[place < settings.images_per_class]
    text = dict.fromkeys((PATH, CLASS, SPLIT), "string")
    schema = pa.schema(text | {SIZE: "int64"})
    table = pa.Table.from_pandas(frame, schema, preserve_index=False)
    return Manifest(root, table, tuple(sorted(frame[CLASS].unique())), ignored)


def _check_layout(root: str, frame: "pd.DataFrame", ignored: int) -> None:
    """Say what the layout lacks for training a classifier."""
    fix = f"Lay the images out as {LAYOUT}"
    if frame.empty:
        raise DataError(f"no images found ({ignored} other files)", root, fix)
    _check_spelling(frame[CLASS].unique(), root)
    classes = {s: set(frame[CLASS][frame[SPLIT] == s]) for s in SPLITS}
    for split, names in classes.items():
        if not names:
            raise DataError(f"the split {split} has no images", root, fix)
        if unknown := sorted(names - classes["train"]):
            raise DataError(
                f"classes in {split} that train lacks: {', '.join(unknown)}", root, fix
            )
        if lacking := sorted(classes["train"] - names):
            logging.getLogger(__name__).warning(
                "The split %s of %s has no images of: %s",
                *(split, root, ", ".join(lacking)),
            )
    if len(classes["train"]) < 2:
        raise DataError("a classifier needs at least two classes", root, fix)


def _check_spelling(classes: Iterable[str], root: str) -> None:
    """Refuse classes that look the same: they were meant to be one."""
    alike = defaultdict(set)
    for name in classes:
        alike[unicodedata.normalize("NFKC", name).casefold()].add(name)
    for names in alike.values():
        if len(names) > 1:
            spelt = ", ".join(ascii(name) for name in sorted(names))
            raise DataError(
                f"classes that differ only in case or Unicode form: {spelt}",
                root,
                "Give their folders one name",
            )


def read_attributes(settings: Settings) -> "pd.DataFrame":
    """Read what is known about the images: one row an image, keyed by `path`.

    The sample has such a table beside its splits; a data set of yours may have one.
    Without it the result has the column path and no rows.

    Raises:
        DataError: The table can't be read, or has no column path.
    """
    import pandas as pd

    filesystem, base = open_root(settings.dataset_root)
    where = f"{base}/{ATTRIBUTES}"
    try:
        table = pq.read_table(where, filesystem=filesystem).to_pandas()
    except FileNotFoundError:
        return pd.DataFrame({PATH: pd.Series(dtype=str)})
    except (pa.ArrowInvalid, OSError) as error:
        why = str(error).splitlines()[0]
        raise DataError(
            f"can't read the attributes ({why})", where, "Remove or mend the table"
        ) from error
    if PATH not in table:
        raise DataError(
            "the attributes have no column path", where, "Add one as in the manifest"
        )
    return table
