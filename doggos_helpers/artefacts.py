"""The record that each stage leaves beside its artefact: `run.json`."""

import contextlib
import errno
import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from upath import UPath

from doggos_helpers.errors import DoggosError, StorageError, causes
from doggos_helpers.settings import Settings

RECORDED = ("ray", "torch", "transformers", "mlflow", "pyarrow", "scikit-learn")
STAGES = {"03_embedding": "embed", "04_training": "train", "05_evaluation": "evaluate"}
CANT_WRITE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


_FOLDER_FIX = (
    "Free space there, mend its permissions, or choose another storage (DOGGOS_STORAGE)"
)
_BUCKET_FIX = (
    "Check the bucket, your key (AWS_ACCESS_KEY_ID), AWS_REGION and AWS_ENDPOINT_URL,"
    " and run the same command again: what is stored is kept"
)


def in_bucket(path: Path | UPath) -> bool:
    """Whether a path is not of this machine's file system."""
    return "://" in str(path)


@contextlib.contextmanager
def writing(folder: Path | UPath, what: str) -> Iterator[None]:
    """Say which folder can't be written, and why, where a block fails for that.

    Args:
        folder: Where the block writes, on this node or on others.
        what: What it writes: "the embeddings".

    Raises:
        StorageError: No space, no permission, a read-only disk.
    """
    try:
        yield
    except DoggosError:
        raise
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, OSError) and (
                in_bucket(folder) or cause.errno in CANT_WRITE
            ):
                why = os.strerror(cause.errno) if cause.errno else str(cause)
                raise StorageError(
                    f"can't write {what} ({why.splitlines()[0][:200].lower()})",
                    str(folder),
                    _BUCKET_FIX if in_bucket(folder) else _FOLDER_FIX,
                ) from None
        raise


def check_storage(settings: Settings) -> None:
    """Make the storage root, and try to write there.

    Raises:
        StorageError: It can't be made or written.
    """
    root = settings.storage_root
    with writing(root, "to the storage"):
        probe = root / f".probe-{uuid.uuid4().hex}"
        if not in_bucket(root):  # there folders need no making
            root.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(4096))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()


def write_whole(path: Path | UPath, content: bytes | BinaryIO) -> None:
    """Write a file: a reader sees the old one or the new one, never half.

    Args:
        path: Where.
        content: What, or an open file that holds it.
    """
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    if in_bucket(path):  # there a file appears whole
        with path.open("wb") as file:
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


def write_json(path: Path | UPath, content: Any) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(content, indent=2, default=str) + "\n"
    write_whole(path, text.encode())


def read_json(path: Path | UPath, made_by: str) -> Any:
    """Read a JSON artefact.

    Args:
        path: The file.
        made_by: The notebook that makes it, for the message: "03_embedding".

    Raises:
        StorageError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except json.JSONDecodeError as error:
        raise StorageError(
            f"not a JSON file ({error})", str(path), f"Delete it and run {made_by}"
        ) from None


def missing(path: Path | UPath, made_by: str) -> StorageError:
    """Build the one sentence for an artefact that isn't there."""
    also = f" or `python -m doggos_helpers.{STAGES[made_by]}` first"
    return StorageError(
        "no such artefact yet", str(path), f"Run notebook {made_by}{also}"
    )


def write_run(
    folder: Path | UPath, stage: str, settings: Settings, started: float, **record: Any
) -> dict[str, Any]:
    """Write `folder`/run.json and return it.

    Args:
        folder: Beside the artefact.
        stage: Such as "embed".
        settings: The settings of this run.
        started: `time.time()` at the start.
        **record: `fingerprint` of the data set, `counts` of what went in and came out,
            `nodes` (rows or requests by node), and what this stage alone records.
    """
    run = {
        "stage": stage,
        "seconds": round(time.time() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **record,
        "settings": settings.shown(),
        "versions": {name: installed(name) for name in RECORDED},
    }
    write_json(folder / "run.json", run)
    return run


def installed(name: str) -> str:
    """Return the version of a distribution that is installed here, or that it isn't."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
