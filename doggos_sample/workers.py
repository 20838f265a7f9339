"""Runs the drawing of parts: in local processes, or as tasks on Ray."""

import os
import signal
from collections.abc import Iterator, Sequence
from itertools import islice

# The standard library's pool would run a user's script again in each process.
from joblib.externals.loky import ProcessPoolExecutor

from doggos_helpers.errors import unwrapped
from doggos_sample.job import Job, Part


def run(parts: Sequence[Part], job: Job, *, on_ray: bool) -> Iterator[int]:
    """Draw parts side by side; yield the pictures of each as it is done."""
    if on_ray:
        yield from _on_ray(parts, job)
        return
    cores = job.workers or min(os.cpu_count() or 1, 8)
    workers = min(cores, len(parts) // 2)
    if workers <= 1:
        yield from map(Part.draw, parts)
        return
    with ProcessPoolExecutor(workers, initializer=_leave_interrupts_alone) as pool:
        yield from pool.map(Part.draw, parts)


def _leave_interrupts_alone() -> None:
    # Ctrl-C reaches all processes of a terminal: the parent ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _on_ray(parts: Sequence[Part], job: Job) -> Iterator[int]:
    """Use the Ray that this process is connected to, else connect for as long."""
    import ray

    from doggos_helpers.cluster.connect import connect, disconnect

    connected = ray.is_initialized()
    if not connected:
        connect(job.settings)
    try:
        with unwrapped():
            yield from _tasks(parts, job.workers)
    finally:
        if not connected:
            disconnect()


def _tasks(parts: Sequence[Part], workers: int) -> Iterator[int]:
    """Keep a few tasks for each core in flight: a queue of all would fill the head."""
    import ray

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
