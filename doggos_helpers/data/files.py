"""Files of data sets: opening a folder or URI, listing it, reading one."""

import functools
import os
import posixpath
import socket
import stat
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from pyarrow import fs

from doggos_helpers.data.images import BadImage
from doggos_helpers.errors import DataError

LAYOUT = "<split>/<class>/<image>, with the splits train, val and test"
# A bucket that can't be reached is an error after these seconds, not after minutes.
CONNECT_S, REQUEST_S, ATTEMPTS = 5, 30, 2


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


def list_files(root: str) -> list[tuple[str, int]]:
    """List all files below a folder or URI as (relative path, size in bytes).

    Symbolic links are followed, a folder is listed once. A link that leads nowhere
    counts as a file of size 0, so that it gets its reason.

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
        if "://" not in root:
            return list(_walk(root))
        found = filesystem.get_file_info(fs.FileSelector(base, recursive=True))
    except OSError as error:
        fix = _BUCKET_FIX if "://" in root else "Check its permissions"
        why = error.strerror if error.filename else str(error)
        where = str(error.filename or root)
        raise DataError(f"can't list the data set ({why})", where, fix) from error
    return [
        (posixpath.relpath(info.path, base), info.size)
        for info in found
        if info.type == fs.FileType.File
    ]


def _walk(root: str) -> Iterator[tuple[str, int]]:
    """Yield the files of a folder; pyarrow would follow a link loop 40 times."""
    seen: set[tuple[int, int]] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in seen:
            continue
        seen.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    info = entry.stat()
                except OSError:  # a link that leads nowhere, or in a circle
                    yield os.path.relpath(entry.path, root), 0
                    continue
                if stat.S_ISDIR(info.st_mode):
                    folders.append(entry.path)
                elif stat.S_ISREG(info.st_mode):
                    yield os.path.relpath(entry.path, root), info.st_size


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
