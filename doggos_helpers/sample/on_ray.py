"""Draws parts of the sample as tasks on Ray."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import ray

from doggos_helpers.cluster.connect import connected
from doggos_helpers.errors import unwrapped
from doggos_helpers.settings import Settings
from doggos_sample.job import Part, Runner
from doggos_sample.workers import run_here

MANY = 4_000
"""Pictures from which on they are drawn on Ray: fewer are done before Ray is up."""


def runner(settings: Settings, workers: int = 0) -> Runner:
    """Return what draws parts: on Ray if they are many, else on this machine.

    Args:
        settings: Which Ray to use, unless this process is connected to one.
        workers: Parts drawn at a time; 0: as many as there are cores.
    """
    return partial(_draw, settings=settings, workers=workers)


def _draw(parts: Sequence[Part], settings: Settings, workers: int) -> Iterator[int]:
    if sum(part.stop - part.start for part in parts) < MANY:
        yield from run_here(parts, workers)
        return
    there = ray.is_initialized()
    with contextlib.nullcontext() if there else connected(settings), unwrapped():
        # A few for each core in flight: a queue of all would fill the head.
        task = ray.remote(num_cpus=1)(Part.draw)
        most = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = iter(parts)
        running = [task.remote(part) for part in islice(waiting, most)]
        try:
            while running:
                (done,), running = ray.wait(running)
                running += [task.remote(part) for part in islice(waiting, 1)]
                yield ray.get(done)
        finally:
            for left in running:
                ray.cancel(left)
