"""Folders and buckets: two ways into them, with limits of time, and whole files."""

import functools
import io
import os
import shutil
import socket
from pathlib import Path
from typing import BinaryIO

from pyarrow import fs
from upath import UPath

from doggos_helpers.environment import BUCKET_KEY, bucket_access, bucket_endpoint
from doggos_helpers.errors import DataError

# A bucket that doesn't answer is an error after half a minute, not after several.
CONNECT_S, SILENT_S, ATTEMPTS = 5, 15, 2
RETRIES = {"mode": "standard", "total_max_attempts": ATTEMPTS}
LIMITS = {"connect_timeout": CONNECT_S, "read_timeout": SILENT_S, "retries": RETRIES}


def open_root(uri: str) -> tuple[fs.FileSystem, str]:
    """Open a folder or URI for tables, images and writing.

    `s3://anonymous@bucket/...` reads a public bucket without a key; AWS's variables say
    all else of buckets. They go to pyarrow, which reads small images three times as
    fast as fsspec for a quarter of the CPU; what else there is goes to fsspec.

    Returns:
        The pyarrow file system, and the base path inside it.

    Raises:
        DataError: There is no file system for the URI, or no such bucket.
    """
    scheme, _, place = uri.rpartition("://")
    if not scheme:
        return fs.LocalFileSystem(), uri
    try:
        if scheme != "s3":
            return fs.FileSystem.from_uri(f"fsspec+{uri}")
        who, _, place = place.rstrip("/").rpartition("@")
        bucket = place.partition("/")[0]
        return _open_bucket(bucket, who == "anonymous", bucket_endpoint()), place
    except (ValueError, ImportError, OSError) as error:
        what = f"no file system for {scheme}:// ({error})"
        fix = "Use a folder, s3://, or install the fsspec package for it"
        raise DataError(what, uri, fix) from error


@functools.lru_cache(maxsize=8)
def _open_bucket(bucket: str, anonymous: bool, endpoint: str | None) -> fs.S3FileSystem:
    """Open a bucket; the key is looked up at each request."""
    if not endpoint:  # where there is no way to it, resolving would try for minutes
        at_amazon = (f"{bucket}.s3.amazonaws.com", 443)
        socket.create_connection(at_amazon, CONNECT_S).close()
    return fs.S3FileSystem(
        anonymous=anonymous,
        endpoint_override=endpoint,
        region=None if endpoint else fs.resolve_s3_region(bucket),
        connect_timeout=CONNECT_S,
        request_timeout=SILENT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def at(place: str) -> UPath:
    """Return a folder or URI as a path, for small files and whether they are there.

    The key to a bucket is that of the environment now: another one needs no new
    process. (To write there is for `open_root`: a server that takes a connection and
    says no more would hold s3fs for ever.)
    """
    if "://" not in place:
        return UPath(place)
    if not place.startswith("s3://"):
        return UPath(place, use_listings_cache=False)  # others write there as well
    path = UPath(
        place,
        use_listings_cache=False,
        endpoint_url=bucket_endpoint(),
        client_kwargs={n.lower(): v for n, v in bucket_access(BUCKET_KEY).items()},
        config_kwargs=LIMITS,
    )
    path.fs.retries = 1  # botocore's own are in LIMITS
    return path


def in_bucket(path: Path | UPath | str) -> bool:
    """Whether a path is not of this machine's file system."""
    return "://" in str(path)


def write_whole(path: Path | UPath, content: bytes | BinaryIO) -> None:
    """Write a file: a reader sees the old one or the new one, never half."""
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    if in_bucket(path):  # there a file appears whole
        filesystem, base = open_root(str(path))
        with filesystem.open_output_stream(base) as file:
            shutil.copyfileobj(source, file)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            shutil.copyfileobj(source, file)
        os.replace(str(draft), str(path))
    finally:
        draft.unlink(missing_ok=True)
