"""Every read and write under the storage root that is not a table; whose turn it is."""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from errno import EACCES, EDQUOT, EEXIST, ENAMETOOLONG, ENOSPC, ENOTDIR, EPERM, EROFS
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from upath import UPath

from doggos_helpers.errors import DoggosError, StorageError, causes, reason
from doggos_helpers.settings import Settings
from doggos_helpers.stores import in_bucket, write_whole

RECORDED = ("ray", "torch", "transformers", "mlflow", "pyarrow", "scikit-learn")
STAGES = {"03_embedding": "embed", "04_training": "train", "05_evaluation": "evaluate"}
CANT_WRITE = (ENOSPC, EDQUOT, EROFS, EACCES, EPERM, ENOTDIR, EEXIST, ENAMETOOLONG)
FIX = (
    "Free space there, mend its permissions, or choose another storage (DOGGOS_STORAGE)"
    "; of a bucket, check its name, AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
)
LEASE_S, BEAT_S = 30, 5  # of a lock in a bucket


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


@contextlib.contextmanager
def alone(settings: Settings, stage: str) -> Iterator[None]:
    """Keep a second run of a stage out of the same artefacts for a block.

    It waits for the other one, saying so. The lock ends with its process, however that
    ends; in a bucket some `LEASE_S` later.

    Raises:
        StorageError: The other run didn't end within `wait_for_cluster_s`.
    """
    from filelock import FileLock

    there = settings.artefacts / f".{stage}.lock"
    lock = Lease(there) if in_bucket(there) else FileLock(str(there))
    try:
        try:
            lock.acquire(timeout=0)
        except TimeoutError:
            where = f"which writes to {there.parent}"
            print(f"Waiting for another {stage}, {where}.", flush=True)
            lock.acquire(timeout=settings.wait_for_cluster_s)
    except TimeoutError:
        what = f"another {stage} is writing here"
        fix = "Wait until it ends, or choose another storage (DOGGOS_STORAGE)"
        raise StorageError(what, str(there.parent), fix) from None
    try:
        yield
    finally:
        lock.release()


class Lease:
    """A lock in a bucket: an object that its owner writes again every few seconds.

    One that stays as it is for `LEASE_S` seconds, by this process's own clock, is of a
    process that is gone. Of several that take it at once S3 lets one write.
    """

    def __init__(self, path: UPath) -> None:
        """Remember the object; nothing is written."""
        self.store, self.path = path.fs, path.path
        self.ended = threading.Event()
        self.beating = threading.Thread(target=self._beat, daemon=True)

    def acquire(self, timeout: float) -> None:
        """Take the lock, or raise TimeoutError."""
        started = since = time.monotonic()
        seen = self._look()
        while (seen and time.monotonic() - since < LEASE_S) or not self._write(seen):
            if time.monotonic() - started >= timeout:
                raise TimeoutError
            time.sleep(min(BEAT_S, timeout))
            if (found := self._look()) != seen:
                seen, since = found, time.monotonic()
        self.beating.start()

    def release(self) -> None:
        """Give the lock back."""
        self.ended.set()
        self.beating.join(LEASE_S)  # else its last beat could come after the end
        with contextlib.suppress(Exception):
            self.store.rm_file(self.path)

    def _look(self) -> dict[str, Any]:
        """Return what the store says of the object, nothing where there is none."""
        try:
            return self.store.info(self.path)
        except FileNotFoundError:
            return {}

    def _write(self, seen: dict[str, Any]) -> bool:
        """Write the object, unless somebody did since it was seen."""
        condition = {} if seen else {"mode": "create"}
        if "ETag" in seen:
            condition = {"IfMatch": seen["ETag"]}
        try:
            self.store.pipe_file(self.path, uuid.uuid4().bytes, **condition)
        except OSError:
            return False
        return True

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_S):
            with contextlib.suppress(Exception):
                self._write(self._look())
