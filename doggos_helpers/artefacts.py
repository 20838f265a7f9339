"""The record that each stage leaves beside its artefact: `run.json`."""

import contextlib
import errno
import json
import os
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from doggos_helpers.errors import DoggosError, StorageError, causes
from doggos_helpers.settings import Settings

RECORDED = ("ray", "torch", "transformers", "mlflow", "pyarrow", "scikit-learn")
STAGES = {"03_embedding": "embed", "04_training": "train", "05_evaluation": "evaluate"}
CANT_WRITE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


@contextlib.contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
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
            if isinstance(cause, OSError) and cause.errno in CANT_WRITE:
                raise StorageError(
                    f"can't write {what} ({os.strerror(cause.errno).lower()})",
                    str(folder),
                    "Free space there, mend its permissions, or choose another"
                    " storage (DOGGOS_STORAGE)",
                ) from None
        raise


def check_storage(settings: Settings) -> None:
    """Make the storage root, and try to write there.

    Raises:
        StorageError: It can't be made or written.
    """
    root = settings.storage_root
    with writing(root, "to the storage"):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, prefix=".probe-") as probe:
            probe.write(bytes(4096))


@contextlib.contextmanager
def alone(settings: Settings, stage: str) -> Iterator[None]:
    """Keep a second run of a stage out of the same artefacts for a block.

    It waits for the other one, saying so. The lock ends with its process, however that
    ends.

    Raises:
        StorageError: The other run didn't end within `wait_for_cluster_s`.
    """
    from filelock import FileLock, Timeout

    settings.artefacts.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.artefacts / f".{stage}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        there = settings.artefacts
        print(f"Waiting for another {stage}, which writes to {there}.", flush=True)
        try:
            lock.acquire(timeout=settings.wait_for_cluster_s)
        except Timeout:
            raise StorageError(
                f"another {stage} is writing here",
                str(settings.artefacts),
                "Wait until it ends, or choose another storage (DOGGOS_STORAGE)",
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a draft beside a file, and move it there once the block has written it.

    A reader sees the old file or the new one, never half; what fails leaves the old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=2, default=str) + "\n")


def read_json(path: Path, made_by: str) -> Any:
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


def missing(path: Path, made_by: str) -> StorageError:
    """Build the one sentence for an artefact that isn't there."""
    also = f" or `python -m doggos_helpers.{STAGES[made_by]}` first"
    return StorageError(
        "no such artefact yet", str(path), f"Run notebook {made_by}{also}"
    )


def write_run(
    folder: Path, stage: str, settings: Settings, started: float, **record: Any
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
        "versions": {name: _version(name) for name in RECORDED},
    }
    write_json(folder / "run.json", run)
    return run


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
