"""Data sets: the manifest of a folder or bucket of images."""

import hashlib
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from doggos_helpers.data.files import LAYOUT, list_files, open_root
from doggos_helpers.errors import DataError
from doggos_helpers.settings import SAMPLE, Settings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


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
    table: "pa.Table"
    classes: tuple[str, ...]
    ignored: int

    @property
    def fingerprint(self) -> str:
        """A hash of all paths and sizes."""
        digest = hashlib.sha256()
        for path, size in zip(
            self.table[PATH].to_pylist(), self.table[SIZE].to_pylist(), strict=True
        ):
            digest.update(f"{path}\0{size}\n".encode())
        return digest.hexdigest()[:16]


def build_manifest(settings: Settings) -> Manifest:
    """List the data set of the settings; draw the sample first if it isn't there.

    Raises:
        DataError: The folder or URI can't be listed, or isn't laid out as expected.
    """
    import pyarrow as pa

    root = settings.dataset_root
    if settings.dataset == SAMPLE and not Path(root).is_dir():
        from doggos_sample import write_dataset

        write_dataset(Path(root))
    rows, outside, ignored = [], [], 0
    for path, size in list_files(root):
        parts = path.split("/")
        image = parts[-1].rpartition(".")[2].lower() in EXTENSIONS
        if image and len(parts) == 3 and parts[0] in SPLITS:
            rows.append((path, parts[1], parts[0], size))
        else:
            ignored += 1
            outside += [path] if image else []
    rows = _limit(sorted(rows), settings.images_per_class)
    table = pa.table(
        {
            PATH: pa.array([r[0] for r in rows], pa.string()),
            CLASS: pa.array([r[1] for r in rows], pa.string()),
            SPLIT: pa.array([r[2] for r in rows], pa.string()),
            SIZE: pa.array([r[3] for r in rows], pa.int64()),
        }
    )
    classes = _check_layout(root, table, ignored)
    if outside:
        logging.getLogger(__name__).warning(
            "%d images in %s lie outside <split>/<class>/ and are left out, such as %s",
            *(len(outside), root, min(outside)),
        )
    return Manifest(root, table, classes, ignored)


def _limit(rows: list[tuple], per_class: int) -> list[tuple]:
    """Keep the first `per_class` images of each class in each split; 0 keeps all."""
    if not per_class:
        return rows
    seen: Counter = Counter()
    kept = []
    for row in rows:
        seen[row[1:3]] += 1
        if seen[row[1:3]] <= per_class:
            kept.append(row)
    return kept


def _check_layout(root: str, table: "pa.Table", ignored: int) -> tuple[str, ...]:
    """Return the sorted classes, or say what the layout lacks."""
    pairs = set(zip(table[SPLIT].to_pylist(), table[CLASS].to_pylist(), strict=True))
    by_split = {s: {c for split, c in pairs if split == s} for s in SPLITS}
    fix = f"Lay the images out as {LAYOUT}"
    if not pairs:
        raise DataError(f"no images found ({ignored} other files)", root, fix)
    _check_spelling({name for _, name in pairs}, root)
    for split, classes in by_split.items():
        if not classes:
            raise DataError(f"the split {split} has no images", root, fix)
        if unknown := sorted(classes - by_split["train"]):
            raise DataError(
                f"classes in {split} that train lacks: {', '.join(unknown)}", root, fix
            )
        if lacking := sorted(by_split["train"] - classes):
            logging.getLogger(__name__).warning(
                "The split %s of %s has no images of: %s",
                *(split, root, ", ".join(lacking)),
            )
    if len(by_split["train"]) < 2:
        raise DataError("a classifier needs at least two classes", root, fix)
    return tuple(sorted(by_split["train"]))


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
    import pyarrow as pa
    import pyarrow.parquet as pq

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
