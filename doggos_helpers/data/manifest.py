"""Data sets: the manifest of a folder, a bucket, or a table of images."""

import posixpath
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs
from upath import UPath

from doggos_helpers.data.files import LAYOUT, list_files, open_root, write_parquet
from doggos_helpers.data.listing import (
    FOLDERED,
    HASH,
    LABELLED,
    PATH,
    Listing,
    given_rows,
    has_splits,
    hashes,
)
from doggos_helpers.errors import DataError
from doggos_helpers.places import SAMPLE
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    import pandas as pd


ATTRIBUTES = "attributes.parquet"
PART_ROWS = 500_000
"""Rows of a part of the manifest: what one process reads at a time."""
PARTS_AT_A_TIME = 4  # are held in memory as they are divided


@dataclass(frozen=True)
class Manifest:
    """All images of a data set, as Parquet files: one row an image.

    The columns are path (relative to the data set), class and split (empty where the
    folders don't say), size (bytes) and modified (ns). A path's hash says in which of
    the parts it is, and stays in while the data set changes.
    """

    root: str
    folder: str
    parts: int
    labels: Mapping[tuple[str, str], int] = field(repr=False)
    ignored: int
    fingerprint: str

    @property
    def rows(self) -> int:
        """How many images there are."""
        return sum(self.labels.values())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted; empty where there are no labels."""
        return tuple(sorted({name for _, name in self.labels} - {""}))

    def part_rows(self) -> list[int]:
        """Return how many rows each part has."""
        filesystem, base = open_root(self.folder)
        files = [f"{base}/{part_file(part)}" for part in range(self.parts)]
        return [pq.read_metadata(f, filesystem=filesystem).num_rows for f in files]

    @cached_property
    def table(self) -> pa.Table:
        """All rows in path order: for data sets that fit into memory."""
        parts = [read_part(self.folder, part) for part in range(self.parts)]
        return pa.concat_tables(parts).sort_by(PATH)


def part_file(part: int) -> str:
    """Name the file of a part."""
    return f"part-{part:05}.parquet"


def read_part(folder: str, part: int) -> pa.Table:
    """Read one part of a manifest.

    Raises:
        DataError: A path is there twice.
    """
    filesystem, base = open_root(folder)
    rows = pq.read_table(f"{base}/{part_file(part)}", filesystem=filesystem)
    counts = rows[PATH].value_counts()
    if len(counts) < len(rows):
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"]
        what = "a path is in the manifest twice"
        raise DataError(what, str(twice), "Keep one row a path")
    return rows


def part_of(paths: pa.ChunkedArray, parts: int) -> pa.Array:
    """Return the number of the part of each path, int64 [n]."""
    return pa.array((hashes(pa.table({PATH: paths})) % parts).astype("int64"))


def build_manifest(settings: Settings, parts: int = 0) -> Manifest:
    """List the data set of the settings; draw the sample first if it isn't there.

    Where it has the folders train, val or test, it is <split>/<class>/<image>; else
    every image counts, and its folder is its class. A data set may also be a Parquet
    file that lists them: path, and, if you like, class, split, size and modified.

    Args:
        settings: For the data set, and the storage that takes the manifest.
        parts: Of how many parts it is; 0: one for half a million images.

    Raises:
        DataError: It can't be listed, or there are no images.
    """
    root = settings.dataset_root
    if settings.dataset == SAMPLE and not UPath(root).is_dir():
        from doggos_helpers.data.sample import draw_sample

        draw_sample(root, progress=settings.shows_progress)
    with tempfile.TemporaryDirectory(prefix="doggos-") as name:
        draft = Path(name, "draft.parquet")
        if root.endswith(".parquet"):
            found = Listing(settings.images_per_class)
            found.write(given_rows(root), draft)
            root = posixpath.dirname(root)
        else:
            pattern = LABELLED if has_splits(root) else FOLDERED
            found = Listing(settings.images_per_class, pattern)
            found.write(list_files(root), draft)
            if found.outside and not found.labels:
                found = Listing(settings.images_per_class, FOLDERED)
                found.write(list_files(root), draft)
        if not found.labels:
            fix = f"Lay the images out as {LAYOUT}"
            raise DataError(f"no images found ({found.ignored} other files)", root, fix)
        found.warn(root)
        parts = parts or -(-sum(found.labels.values()) // PART_ROWS)
        name = f"{found.digest & 0xFFFF_FFFF_FFFF_FFFF:016x}"
        folder = f"{settings.artefacts}/manifest/{name}-{parts}"
        publish(draft, folder, parts)
    return Manifest(root, folder, parts, found.labels, found.ignored, name)


def publish(draft: Path, folder: str, parts: int) -> None:
    """Divide the rows over the parts, unless they are there already."""
    filesystem, base = open_root(folder)
    done = f"{base}/_SUCCESS"
    if filesystem.get_file_info(done).type == fs.FileType.File:
        return
    listed = ds.dataset(draft)
    for first in range(0, parts, PARTS_AT_A_TIME):
        some = range(first, min(first + PARTS_AT_A_TIME, parts))
        pieces: dict[int, list[pa.Table]] = {part: [] for part in some}
        for batch in listed.to_batches(batch_readahead=1, fragment_readahead=1):
            where = batch[HASH].to_numpy() % parts
            rows = pa.Table.from_batches([batch]).drop_columns([HASH])
            for part, kept in pieces.items():
                kept.append(rows.filter(pa.array(where == part)))
        for part, kept in pieces.items():
            write_parquet(pa.concat_tables(kept), folder, part_file(part))
    filesystem.open_output_stream(done).close()


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
