"""Data sets: the manifest of a folder, a bucket, or a table of images."""

import contextlib
import posixpath
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from doggos_helpers.data.files import LAYOUT, list_files, open_given, write_parquet
from doggos_helpers.data.listing import PATH, SCHEMA, Listing, given_rows, hashes
from doggos_helpers.errors import DataError, SettingsError, StorageError
from doggos_helpers.places import SAMPLE
from doggos_helpers.settings import Settings
from doggos_helpers.stores import open_root
from doggos_sample.job import Job, PartsUnseen, SampleError, Written
from doggos_sample.writer import write

ATTRIBUTES = "attributes.parquet"
PART_ROWS = 500_000  # of the manifest: what one process reads at a time


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
    """Read one part of a manifest, in path order; each path is there once."""
    filesystem, base = open_root(folder)
    return pq.read_table(f"{base}/{part_file(part)}", filesystem=filesystem)


def part_of(paths: pa.Array | pa.ChunkedArray, parts: int) -> pa.Array:
    """Return the number of the part of each path, int64 [n]."""
    return pa.array((hashes(pa.table({PATH: paths})) % parts).astype("int64"))


def build_manifest(settings: Settings, parts: int = 0) -> Manifest:
    """List the data set of the settings; draw the sample first if it isn't there.

    Where it has folders in train, val or test, it is <split>/<class>/<image>; else
    every image counts, and its folder is its class. A data set may also be a Parquet
    file that lists them: path, and, if you like, class, split, size and modified.

    Args:
        settings: For the data set, and the storage that takes the manifest.
        parts: Of how many parts it is; 0: one for half a million images.

    Raises:
        DataError: It can't be listed, lists a path twice, or there are no images.
    """
    root = settings.dataset_root
    if settings.dataset == SAMPLE:
        draw_sample(root, Job(60, 0, progress=settings.shows_progress))
    found, wanted = Listing(settings.images_per_class), None
    with tempfile.TemporaryDirectory(prefix="doggos-") as name:
        draft = Path(name, "draft.parquet")
        if root.endswith(".parquet"):
            found.write(given_rows(root), draft)
            root = posixpath.dirname(root)
        else:
            found.write(found.images(list_files(root)), draft)
            wanted = found.leave_out(draft, root)
        if not found.labels:
            fix = f"Name a folder with images at any depth; to train, {LAYOUT}"
            raise DataError(f"no images found ({found.ignored} other files)", root, fix)
        found.warn(root)
        parts = parts or -(-found.labels.total() // PART_ROWS)
        name = f"{found.digest % 2**64:016x}"
        folder = f"{settings.artefacts}/manifest/{name}-{parts}"
        publish(draft, folder, parts, wanted)
    return Manifest(root, folder, parts, found.labels, found.ignored, name)


def draw_sample(out: str, job: Job) -> Written:
    """Draw the sample to a folder or URI; see `doggos_sample.write_dataset`.

    Raises:
        SettingsError: Something else is there.
        StorageError: Workers wrote to a place that isn't shared.
    """
    filesystem, base = open_root(out)
    try:
        return write(base, job, filesystem)
    except SampleError as error:
        kind = StorageError if isinstance(error, PartsUnseen) else SettingsError
        raise kind(*error.args) from None


def publish(
    draft: Path, folder: str, parts: int, wanted: pc.Expression | None = None
) -> None:
    """Divide the wanted rows over the parts, unless they are there already.

    Raises:
        DataError: A path is there twice.
    """
    filesystem, base = open_root(folder)
    if filesystem.get_file_info(f"{base}/{part_file(parts - 1)}").is_file:
        return
    divided = [draft.with_suffix(f".{part}") for part in range(parts)]
    with contextlib.ExitStack() as stack:
        # Unlike Parquet's, these writers hold no rows back.
        streams = [pa.ipc.new_stream(str(file), SCHEMA) for file in divided]
        writers = [stack.enter_context(stream) for stream in streams]
        for batch in pq.ParquetFile(draft, pre_buffer=False).iter_batches():
            rows = pa.Table.from_batches([batch])
            rows = rows if wanted is None else rows.filter(wanted)
            where = part_of(rows[PATH], parts)
            for part, writer in enumerate(writers):
                writer.write_table(rows.filter(pc.equal(where, part)))
    for part, file in enumerate(divided):
        with file.open("rb") as stream:
            rows = pa.ipc.open_stream(stream).read_all().sort_by(PATH)
        paths = rows[PATH]
        if len(twice := paths[1:].filter(pc.equal(paths[1:], paths[:-1]))):
            what = "a path is in the manifest twice"
            raise DataError(what, str(twice[0]), "Keep one row a path")
        write_parquet(rows, folder, part_file(part))


def read_attributes(settings: Settings) -> pd.DataFrame:
    """Read what is known about the images: one row an image, keyed by `path`.

    It lies beside the splits; without it the result has the column path and no rows.

    Raises:
        DataError: The table can't be read, or has no column path.
    """
    where = f"{settings.dataset_root}/{ATTRIBUTES}"
    filesystem, file = open_root(where)
    if not filesystem.get_file_info(file).is_file:
        return pd.DataFrame({PATH: pd.Series(dtype=str)})
    return open_given(where, "the attributes").to_table().to_pandas()
