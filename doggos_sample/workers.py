"""Draws parts side by side, in processes of this machine."""

import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doggos_sample.job import Part

IDLE_S = 5  # after that, a process without work ends


def run_here(parts: "Sequence[Part]", workers: int = 0) -> Iterator[int]:
    """Draw parts; yield the pictures of each as it is done.

    Args:
        parts: What to draw.
        workers: Parts drawn at a time; 0 is one a core, 8 at most.
    """
    from joblib import Parallel, delayed

    count = min(workers or min(os.cpu_count() or 1, 8), len(parts) // 2)
    if count <= 1:
        yield from (part.draw() for part in parts)
        return
    # The standard library's pool would run a user's script again in each process.
    pool = Parallel(
        count,
        return_as="generator_unordered",
        idle_worker_timeout=IDLE_S,
        # Ctrl-C reaches all processes of a terminal: the parent ends the others.
        initializer=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
    )
    yield from pool(delayed(part.draw)() for part in parts)
