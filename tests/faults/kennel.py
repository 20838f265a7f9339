"""A cluster whose processes are killed, one by one, and whose nodes come back."""

import contextlib
import ctypes
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.processes import end, family
from tools.local_cluster import (
    CPUS,
    OBJECT_STORE_BYTES,
    LocalCluster,
    clean_environment,
    local_cluster,
    node_command,
)

UP_S, WRITE_S = 120, 10


@dataclass
class Kennel:
    """A head, and worker nodes that may be killed."""

    head: LocalCluster
    folder: Path
    variables: dict[str, str]
    cpus: int = CPUS
    gpus: int = 0
    nodes: list[tuple[psutil.Process, Path]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to join."""
        return {**self.head.environment, **self.variables}

    def add_node(self) -> None:
        """Start a node; `wait` waits for it."""
        log = self.folder / f"node-{time.monotonic()}.log"
        options = [f"--address={self.head.address}"]
        variables = clean_environment() | self.environment
        del variables["RAY_ADDRESS"]
        with log.open("wb") as output:
            started = subprocess.Popen(
                node_command(
                    sys.executable, self.cpus, self.gpus, OBJECT_STORE_BYTES, *options
                ),
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.nodes.append((psutil.Process(started.pid), log))

    def wait(self) -> None:
        """Wait until all nodes are up; start those again that gave up."""
        deadline = time.monotonic() + UP_S
        for process, log in list(self.nodes):
            while "Ray runtime started" not in log.read_text(errors="replace"):
                assert time.monotonic() < deadline, log.read_text(errors="replace")
                if not process.is_running() or process.status() == "zombie":
                    self.nodes.remove((process, log))
                    self.add_node()
                    return self.wait()
                time.sleep(0.1)
        return None

    def kill_node(self, choice: random.Random) -> str:
        """Kill all processes of a node at once, and start another one."""
        process, log = choice.choice(self.nodes)
        self.nodes.remove((process, log))
        members = family(process.pid)
        for member in members:  # the parent first: it would clean up
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        self.add_node()
        return f"node of {len(members)} processes"

    def workers(self) -> list[tuple[psutil.Process, str]]:
        """Return the processes that decode, embed or write now."""
        found = []
        for pid in [self.head.processes[0][0], *(p.pid for p, _ in self.nodes)]:
            for process in family(pid):
                with contextlib.suppress(psutil.Error, IndexError):
                    title = process.cmdline()[0]
                    if title.startswith("ray::") and (
                        "Map" in title or "Write" in title
                    ):
                        found.append((process, title))
        return found

    def kill_worker(self, choice: random.Random) -> str:
        """Kill one of them."""
        busy = sorted(self.workers(), key=lambda one: one[0].pid)
        if not busy:
            return ""
        process, title = choice.choice(busy)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            return title.removeprefix("ray::")
        return ""


def kill_writer(table: Path) -> str:
    """Kill the next process that writes a file: a draft, which names it, has begun.

    A draft lives for milliseconds, so the system tells of it (inotify, of Linux).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    created, until = 0x100, time.monotonic() + WRITE_S
    for folder in table.glob("*"):
        libc.inotify_add_watch(watch, os.fsencode(folder), created)
    try:
        while time.monotonic() < until:
            if not select.select([watch], [], [], 0.1)[0]:
                continue
            _, _, _, length = struct.unpack_from("iIII", told := os.read(watch, 4096))
            name = told[16 : 16 + length].rstrip(b"\0").decode()
            if name.startswith("."):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(name.rpartition(".")[2]), signal.SIGKILL)
                    left = any(
                        folder.joinpath(name).exists() for folder in table.glob("*")
                    )
                    return "writer, half a file" if left else "writer, after its file"
        return ""
    finally:
        os.close(watch)


@contextlib.contextmanager
def kennel(
    folder: Path, workers: int, cpus: int = CPUS, gpus: int = 0, **variables: str
) -> Iterator[Kennel]:
    """Run a head and worker nodes.

    Args:
        folder: For logs and the token.
        workers: How many nodes beside the head.
        cpus: That each of them tells Ray of; the head has two.
        gpus: As many.
        **variables: For the environment of all processes.
    """
    with contextlib.ExitStack() as stack:
        for name, value in variables.items():  # the head takes them from here
            stack.callback(os.environ.pop, name)
            os.environ[name] = value
        head = stack.enter_context(local_cluster(folder, workers=0))
        made = Kennel(head, folder, variables, cpus, gpus)
        try:
            for _ in range(workers):
                made.add_node()
                made.wait()  # side by side, one often gives up
            yield made
        finally:
            end(member for node, _ in made.nodes for member in family(node.pid))
