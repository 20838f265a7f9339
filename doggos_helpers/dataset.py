"""Data sets: the manifest of a folder or bucket of images, and reading their files."""

import functools
import hashlib
import os
import posixpath
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from doggos_helpers.config import CLASS, PATH, SAMPLE, SIZE, SPLIT, SPLITS, Settings
from doggos_helpers.errors import DataError
from doggos_helpers.images import BadImage

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem


EXTENSIONS = frozenset("jpg jpeg png webp gif bmp tif tiff avif heic heif jp2".split())


LAYOUT = "<split>/<class>/<image>, with the splits train, val and test"


@dataclass(frozen=True)
class Manifest:
    """All images of a data set: one row an image, in path order.

    `table` has the columns path (relative to the data set), class, split and size
    (bytes). `ignored` counts the files in class folders that aren't images.
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
        from doggos_helpers.sample import write_dataset

        write_dataset(Path(root))
    rows, ignored = [], 0
    for path, size in list_files(root):
        parts = path.split("/")
        if len(parts) != 3 or parts[0] not in SPLITS:
            ignored += 1
        elif parts[2].rpartition(".")[2].lower() not in EXTENSIONS:
            ignored += 1
        else:
            rows.append((path, parts[1], parts[0], size))
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
    pairs = set(zip(table[SPLIT].to_pylist(), table[CLASS].to_pylist(), strict=True))
    by_split = {s: {c for split, c in pairs if split == s} for s in SPLITS}
    fix = f"Lay the images out as {LAYOUT}"
    if not pairs:
        raise DataError(f"no images found ({ignored} other files)", root, fix)
    for split, classes in by_split.items():
        if not classes:
            raise DataError(f"the split {split} has no images", root, fix)
        if unknown := sorted(classes - by_split["train"]):
            raise DataError(
                f"classes in {split} that train lacks: {', '.join(unknown)}", root, fix
            )
    if len(by_split["train"]) < 2:
        raise DataError("a classifier needs at least two classes", root, fix)
    return tuple(sorted(by_split["train"]))


@functools.lru_cache(maxsize=8)
def open_root(uri: str) -> tuple["FileSystem", str]:
    """Open a folder or URI.

    `s3://anonymous@bucket/...` reads a public bucket without credentials. Other
    schemes go to pyarrow, and where it has none, to fsspec.

    Returns:
        The pyarrow file system, and the base path inside it.

    Raises:
        DataError: No file system is known for the URI, or it can't be reached.
    """
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    parts = urlsplit(uri)
    try:
        if parts.scheme == "s3" and parts.username == "anonymous":
            options = {k: v[-1] for k, v in parse_qs(parts.query).items()}
            bucket = str(parts.hostname)
            if not {"region", "endpoint_override"} & set(options):
                options["region"] = fs.resolve_s3_region(bucket)
            base = f"{bucket}{parts.path}".rstrip("/")
            return fs.S3FileSystem(anonymous=True, **options), base
        return fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        return _open_with_fsspec(uri, error)


def _open_with_fsspec(uri: str, first: Exception) -> tuple["FileSystem", str]:
    import fsspec
    from pyarrow import fs

    scheme = urlsplit(uri).scheme
    if scheme == "s3":  # pyarrow knows it: its own error is the true one
        raise DataError(f"can't open the bucket ({first})", uri, _BUCKET_FIX) from first
    try:
        filesystem, base = fsspec.core.url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), base
    except (ValueError, ImportError, OSError) as error:
        raise DataError(
            f"no file system for {scheme}:// ({error})",
            uri,
            "Use a folder, s3://, gs://, or install the fsspec package for it",
        ) from error


_BUCKET_FIX = (
    "Check its name, region and your credentials; a public bucket is"
    " s3://anonymous@<bucket>"
)


def list_files(root: str) -> list[tuple[str, int]]:
    """List all files below a folder or URI as (relative path, size in bytes).

    Raises:
        DataError: It doesn't exist, is a file, or can't be listed.
    """
    from pyarrow import fs

    filesystem, base = open_root(root)
    try:
        kind = filesystem.get_file_info(base).type
        if kind == fs.FileType.NotFound:
            raise DataError("no such data set", root, "Check DOGGOS_DATASET")
        if kind == fs.FileType.File:
            raise DataError("the data set is a file, not a folder", root, LAYOUT)
        found = filesystem.get_file_info(fs.FileSelector(base, recursive=True))
    except OSError as error:
        fix = _BUCKET_FIX if "://" in root else "Check its permissions"
        raise DataError(f"can't list the data set ({error})", root, fix) from error
    return [
        (posixpath.relpath(info.path, base), info.size)
        for info in found
        if info.type == fs.FileType.File
    ]


def read_bytes(root: str, path: str) -> bytes:
    """Read one image of a data set.

    Args:
        root: The data set's folder or URI.
        path: As in the manifest.

    Raises:
        BadImage: It can't be read; the reason says why.
    """
    filesystem, base = open_root(root)
    try:
        with filesystem.open_input_file(f"{base}/{path}") as file:
            return file.read()
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        raise BadImage(f"unreadable: {why}") from error
