"""Files of data sets: opening a folder or URI, listing it, reading one."""

import contextlib
import functools
import os
import posixpath
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from doggos_helpers.data.images import BadImage
from doggos_helpers.errors import DataError

LAYOUT = "<split>/<class>/<image>, with the splits train, val and test"
# A bucket that can't be reached is an error after these seconds, not after minutes.
CONNECT_S, REQUEST_S, ATTEMPTS = 5, 30, 2
LISTING_THREADS = 16
LISTED = pa.schema({"path": "string", "size": "int64", "modified": "int64"})
File = tuple[str, int, int]


@functools.lru_cache(maxsize=8)
def open_root(uri: str) -> tuple[fs.FileSystem, str]:
    """Open a folder or URI.

    `s3://anonymous@bucket/...` reads a public bucket without credentials. Other
    schemes go to pyarrow, and where it has none, to fsspec.

    Returns:
        The pyarrow file system, and the base path inside it.

    Raises:
        DataError: No file system is known for the URI, or it can't be reached.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        if urlsplit(uri).scheme == "s3":
            return _open_bucket(uri)
        return fs.FileSystem.from_uri(uri)
    except (OSError, TypeError, ValueError) as error:
        return _open_with_fsspec(uri, error)


def _open_bucket(uri: str) -> tuple[fs.FileSystem, str]:
    """Open ``s3://bucket/folder?option=value`` with time limits; see pyarrow's S3."""
    parts = urlsplit(uri)
    options: dict = {k: v[-1] for k, v in parse_qs(parts.query).items()}
    for flag in ("allow_bucket_creation", "allow_bucket_deletion"):
        options[flag] = options.get(flag, "") == "true"
    if parts.username == "anonymous":
        options["anonymous"] = True
    elif parts.username:
        options |= {"access_key": parts.username, "secret_key": parts.password}
    bucket = parts.netloc.rpartition("@")[2]
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := os.environ.get(variable):
            options.setdefault("endpoint_override", url)
            options.setdefault("scheme", urlsplit(url).scheme)
    if endpoint := options.get("endpoint_override"):
        host, _, port = endpoint.rpartition("://")[2].partition(":")
        secure = options.get("scheme", "https") == "https"
        _check_answers(host, int(port) if port else (443 if secure else 80))
    elif "region" not in options:
        _check_answers(f"{bucket}.s3.amazonaws.com", 443)
        options["region"] = fs.resolve_s3_region(bucket)
    filesystem = fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
    return filesystem, f"{bucket}{parts.path}".rstrip("/")


def _check_answers(host: str, port: int) -> None:
    """Raise OSError where nothing listens: the S3 client would try for minutes."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        what = f"{host}:{port}: {error.strerror or error}"
        raise OSError(f"no answer within {CONNECT_S} s from {what}") from error


def _open_with_fsspec(uri: str, first: Exception) -> tuple[fs.FileSystem, str]:
    import fsspec

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
    "Check its name, region, endpoint and your credentials; a public bucket is"
    " s3://anonymous@<bucket>"
)


def list_files(root: str) -> Iterator[pa.Table]:
    """List all files below a folder or URI: one table a folder, as they are found.

    Symbolic links are followed, a folder is listed once. A link that leads nowhere
    counts as a file of size 0, so that it gets its reason.

    Yields:
        The columns path (relative to the root), size (bytes) and modified (ns).

    Raises:
        DataError: It doesn't exist, is a file, or can't be listed.
    """
    filesystem, base = open_root(root)
    try:
        kind = filesystem.get_file_info(base).type
        if kind == fs.FileType.NotFound:
            raise DataError(
                "no such data set",
                root,
                "Set dataset (DOGGOS_DATASET) to sample, a folder or a URI",
            )
        if kind == fs.FileType.File:
            raise DataError(
                "the data set is a file, not a folder", root, f"Lay it out as {LAYOUT}"
            )
        listed = _list_bucket(filesystem, base) if "://" in root else _walk(root)
        for rows in listed:
            columns = zip(*rows, strict=True) if rows else ([], [], [])
            yield pa.table(dict(zip(LISTED.names, columns, strict=True)), LISTED)
    except OSError as error:
        fix = _BUCKET_FIX if "://" in root else "Check its permissions"
        why = error.strerror if error.filename else str(error)
        where = str(error.filename or root)
        raise DataError(f"can't list the data set ({why})", where, fix) from error


def _list_bucket(filesystem: fs.FileSystem, base: str) -> Iterator[list[File]]:
    """Yield the files of each folder, of several folders at a time."""
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        asked = {pool.submit(filesystem.get_file_info, fs.FileSelector(base))}
        while asked:
            done, asked = wait(asked, return_when=FIRST_COMPLETED)
            for infos in (future.result() for future in done):
                folders = [i.path for i in infos if i.type == fs.FileType.Directory]
                for folder in folders:
                    selector = fs.FileSelector(folder)
                    asked.add(pool.submit(filesystem.get_file_info, selector))
                yield [
                    (posixpath.relpath(i.path, base), i.size, i.mtime_ns or 0)
                    for i in infos
                    if i.type == fs.FileType.File
                ]


def _walk(root: str) -> Iterator[list[File]]:
    """Yield the files of each folder; pyarrow would follow a link loop 40 times."""
    seen: set[tuple[int, int]] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        info, files = os.stat(folder), []
        if (info.st_dev, info.st_ino) in seen:
            continue
        seen.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                path = os.path.relpath(entry.path, root)
                try:
                    info = entry.stat()
                except OSError:  # a link that leads nowhere, or in a circle
                    files.append((path, 0, 0))
                    continue
                if stat.S_ISDIR(info.st_mode):
                    folders.append(entry.path)
                elif stat.S_ISREG(info.st_mode):
                    files.append((path, info.st_size, info.st_mtime_ns))
        yield files


def read_bytes(root: str, path: str) -> bytes:
    """Read one image of a data set.

    Args:
        root: The data set's folder or URI.
        path: As in the manifest.

    Raises:
        BadImage: It can't be read; the reason says why.
        DataError: The store doesn't answer, after retries.
    """
    own = "://" in path or path.startswith("/")  # as a manifest of the user's may say
    try:
        filesystem, base = open_root(posixpath.dirname(path) if own else root)
        name = posixpath.basename(path) if own else path
        with filesystem.open_input_file(f"{base}/{name}") as file:
            return file.read()
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        if "://" in root and not isinstance(error, FileNotFoundError):
            what = f"the store of the images fails ({why[:200]})"
            fix = "Run the same command again when it answers: what is done is kept"
            raise DataError(what, path, fix) from error
        raise BadImage(f"unreadable: {why}") from error


def write_parquet(table: pa.Table, folder: str, name: str) -> None:
    """Write a Parquet file into a folder or URI, whole or not at all."""
    filesystem, base = open_root(folder)
    filesystem.create_dir(base, recursive=True)
    if not isinstance(filesystem, fs.LocalFileSystem):  # there a file appears whole
        pq.write_table(table, f"{base}/{name}", filesystem=filesystem)
        return
    draft = f"{base}/.{name}.{os.getpid()}"
    try:
        pq.write_table(table, draft)
        os.replace(draft, f"{base}/{name}")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
