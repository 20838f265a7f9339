"""One writer at a time: a lock on a stage's artefacts, in a folder or a bucket."""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator

from upath import UPath

from doggos_helpers.artefacts import in_bucket
from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings

LEASE_S, BEAT_S = 30, 5


@contextlib.contextmanager
def alone(settings: Settings, stage: str) -> Iterator[None]:
    """Keep a second run of a stage out of the same artefacts for a block.

    It waits for the other one, saying so. The lock ends with its process, however that
    ends; in a bucket some `LEASE_S` later.

    Raises:
        StorageError: The other run didn't end within `wait_for_cluster_s`.
    """
    from filelock import FileLock, Timeout

    there = settings.artefacts / f".{stage}.lock"
    lock: FileLock | Lease = Lease(there)
    if not in_bucket(there):
        there.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(there))
    try:
        lock.acquire(timeout=0)
    except (Timeout, TimeoutError):
        print(
            f"Waiting for another {stage}, which writes to {there.parent}.", flush=True
        )
        try:
            lock.acquire(timeout=settings.wait_for_cluster_s)
        except (Timeout, TimeoutError):
            raise StorageError(
                f"another {stage} is writing here",
                str(settings.artefacts),
                "Wait until it ends, or choose another storage (DOGGOS_STORAGE)",
            ) from None
    try:
        yield
    finally:
        lock.release()


class Lease:
    """A lock in a bucket: an object that its owner writes again every few seconds.

    One that nobody wrote for `LEASE_S` seconds is of a process that is gone. Clocks are
    not compared, and of two that write at once the later one has it.
    """

    def __init__(self, path: UPath) -> None:
        """Remember the object; nothing is written."""
        self.path, self.beats, self.owner = path, 0, uuid.uuid4().hex
        self.ended = threading.Event()
        self.renewing = threading.Thread(target=self._renew, daemon=True)

    def acquire(self, timeout: float) -> None:
        """Take the lock, or raise TimeoutError."""
        started = since = time.monotonic()
        seen = held = self._read()
        while held and time.monotonic() - since < LEASE_S:
            if time.monotonic() - started >= timeout:
                raise TimeoutError
            time.sleep(min(BEAT_S, timeout))
            if (held := self._read()) != seen:
                seen, since = held, time.monotonic()
        self._beat()
        time.sleep(1)
        if not self._read().startswith(self.owner):
            raise TimeoutError
        self.renewing.start()

    def release(self) -> None:
        """Give the lock back."""
        self.ended.set()
        self.renewing.join()  # else its last beat could come after the end
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _read(self) -> str:
        try:
            # In one request: opened first, it may be written again before it is read.
            return self.path.fs.cat_file(self.path.path).decode()
        except FileNotFoundError:
            return ""

    def _beat(self) -> None:
        self.beats += 1
        self.path.write_text(f"{self.owner} {self.beats}")

    def _renew(self) -> None:
        while not self.ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                self._beat()
