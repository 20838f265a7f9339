"""Files of data sets: opening a folder or URI, listing it, reading one."""

import contextlib
import io
import os
import posixpath
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs
from upath import UPath

from doggos_helpers.data.images import BadImage
from doggos_helpers.errors import DataError, reason
from doggos_helpers.stores import open_root, write_whole

LAYOUT = "<split>/<class>/<image>, with the splits train, val and test"
AT_A_TIME = 16  # folders that are listed
LISTED = pa.struct({"path": "string", "size": "int64", "modified": "int64"})


@contextlib.contextmanager
def reading(what: str, where: str) -> Iterator[None]:
    """Say what of a data set can't be read, and why, where a block fails for that."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        fix = "Check that it is whole and that you may read it"
        if "://" in where:
            fix = "Check its name, AWS_ENDPOINT_URL and your key (AWS_ACCESS_KEY_ID)"
        raise DataError(f"can't read {what} ({reason(error)})", where, fix) from error


def open_given(file: str, what: str) -> ds.Dataset:
    """Open a Parquet table that the user wrote, with a row an image.

    Raises:
        DataError: It can't be read, or has no column path.
    """
    filesystem, base = open_root(file)
    with reading(what, file):
        table = ds.dataset(base, filesystem=filesystem)
    if "path" not in table.schema.names:
        fix = "Name the images in a column path"
        raise DataError(f"no column path in {what}", file, fix)
    return table


def list_files(root: str) -> Iterator[pa.Table]:
    """List all files below a folder or URI: one table a folder, as they are found.

    Symbolic links are followed, but not back to a folder that they are in. One that
    leads nowhere counts as a file of size 0, so that it gets its reason.

    Yields:
        The columns path (relative to the root), size (bytes) and modified (ns).

    Raises:
        DataError: It doesn't exist, is a file, or can't be listed.
    """
    filesystem, base = open_root(root)
    with reading("the data set", root), ThreadPoolExecutor(AT_A_TIME) as pool:
        info = filesystem.get_file_info(base)
        if info.type != fs.FileType.Directory:
            what = "the data set is a file, not a folder"
            fix = "Set dataset (DOGGOS_DATASET) to sample, a folder or a URI"
            raise DataError(what if info.is_file else "no such data set", root, fix)
        folders, asked = [(base, (os.path.realpath(base),))], deque[Any]()
        while folders or asked:
            while folders and len(asked) < AT_A_TIME:
                folder, above = folders.pop()
                asked.append((above, pool.submit(_look, filesystem, folder)))
            above, answer = asked.popleft()
            found, rows = answer.result()
            for folder in sorted(found, reverse=True):
                if (real := os.path.realpath(folder)) not in above:
                    folders.append((folder, (*above, real)))
            rows = [(path[len(base) :].lstrip("/"), *more) for path, *more in rows]
            yield pa.Table.from_struct_array(pa.array(rows, LISTED))


def _look(filesystem: fs.FileSystem, folder: str) -> tuple[list[str], list[tuple]]:
    """List a folder: the folders in it, and its files with size and time."""
    found = filesystem.get_file_info(fs.FileSelector(folder))
    files = [(i.path, i.size, i.mtime_ns or 0) for i in found if i.is_file]
    if isinstance(filesystem, fs.LocalFileSystem):
        # Arrow passes over links that lead nowhere.
        lost = set(os.listdir(folder)).difference(i.base_name for i in found)
        files += [(f"{folder}/{name}", 0, 0) for name in lost]
    return [i.path for i in found if i.type == fs.FileType.Directory], files


def read_bytes(root: str, path: str) -> bytes:
    """Read one image of a data set.

    Args:
        root: The data set's folder or URI.
        path: As in the manifest: relative to the root, or whole.

    Raises:
        BadImage: It can't be read; the reason says why.
        DataError: The store doesn't answer, after retries.
    """
    if "://" in path or path.startswith("/"):
        root, path = posixpath.split(path)
    filesystem, base = open_root(root)
    try:
        with filesystem.open_input_file(f"{base}/{path}") as file:
            return file.read()
    except OSError as error:
        if "://" in root and not isinstance(error, FileNotFoundError):
            what = f"the store of the images fails ({reason(error)})"
            fix = "Run the same command again when it answers: what is done is kept"
            raise DataError(what, path, fix) from error
        raise BadImage(f"unreadable: {reason(error).lower()}") from error


def write_parquet(table: pa.Table, folder: str, name: str) -> None:
    """Write a Parquet file into a folder or URI, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_whole(UPath(folder) / name, buffer.getvalue())
