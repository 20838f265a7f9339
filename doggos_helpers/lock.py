"""One writer at a time: a lock on a stage's artefacts, in a folder or a bucket."""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from upath import UPath

from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings
from doggos_helpers.stores import in_bucket

LEASE_S, BEAT_S = 30, 5


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
