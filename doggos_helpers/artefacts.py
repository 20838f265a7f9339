"""Every read and write under the storage root that is not a table."""

import contextlib
import errno
import json
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from upath import UPath

from doggos_helpers.errors import DoggosError, StorageError, causes, reason
from doggos_helpers.settings import Settings
from doggos_helpers.stores import in_bucket, write_whole

RECORDED = ("ray", "torch", "transformers", "mlflow", "pyarrow", "scikit-learn")
STAGES = {"03_embedding": "embed", "04_training": "train", "05_evaluation": "evaluate"}
CANT_WRITE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
FIX = (
    "Free space there, mend its permissions, or choose another storage (DOGGOS_STORAGE)"
    "; of a bucket, check its name, AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
)


@contextlib.contextmanager
def writing(folder: Path | UPath | str, what: str) -> Iterator[None]:
    """Say which folder can't be written, and why, where a block fails for that.

    Raises:
        StorageError: No space, no permission, a read-only disk, no way to a bucket.
    """
    try:
        yield
    except DoggosError:
        raise
    except Exception as error:
        bucket = in_bucket(folder)
        for cause in causes(error):
            if isinstance(cause, OSError) and (bucket or cause.errno in CANT_WRITE):
                what = f"can't write {what} ({reason(cause).lower()})"
                raise StorageError(what, str(folder), FIX) from None
        raise


def check_storage(settings: Settings) -> None:
    """Make the storage root, and try to write there.

    Raises:
        StorageError: It can't be made or written.
    """
    with writing(settings.storage_root, "to the storage"):
        probe = settings.storage_root / f".probe-{uuid.uuid4().hex}"
        write_whole(probe, bytes(4096))
        with contextlib.suppress(Exception):  # some may write, and not delete
            probe.unlink()


def write_json(path: Path | UPath, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2, default=str) + "\n").encode())


def read_json(path: Path | UPath, made_by: str) -> Any:
    """Read a JSON artefact that a notebook, such as 03_embedding, makes.

    Raises:
        StorageError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except json.JSONDecodeError as error:
        fix = f"Delete it and run {made_by}"
        raise StorageError(f"not a JSON file ({error})", str(path), fix) from None


def missing(path: Path | UPath, made_by: str) -> StorageError:
    """Build the one sentence for an artefact that isn't there."""
    command = f"`python -m doggos_helpers.{STAGES[made_by]}`"
    fix = f"Run notebook {made_by} or {command} first"
    return StorageError("no such artefact yet", str(path), fix)


def write_run(
    folder: Path | UPath, stage: str, settings: Settings, started: float, **record: Any
) -> dict[str, Any]:
    """Write `folder`/run.json, beside the artefact of a stage, and return it.

    Args:
        folder: Of the artefact.
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
