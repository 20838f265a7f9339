"""A cluster that starts with no worker and may grow to four GPUs.

The autoscaler is faked: this test itself starts the nodes, which only say that they
have GPUs, once it sees that they are waited for.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.growing import MOST, WORKER
from tools.local_cluster import clean_environment, free_ports, node_command

SCENARIO = Path(__file__).with_name("growing.py")
ENVIRONMENT = clean_environment() | {"RAY_AUTH_MODE": "disabled"}
OBJECT_STORE_BYTES = 100_000_000
RESTARTS = 4
GROWTH_S = 300


class Nodes:
    """Ray nodes on this machine, each a process of its own."""

    def __init__(self, folder: Path, temp_dir: str) -> None:
        port, dashboard, client = free_ports(3)
        self.folder, self.address = folder, f"127.0.0.1:{port}"
        self.processes: dict[Path, tuple[list[str], subprocess.Popen]] = {}
        self.restarts = RESTARTS
        self.head = [
            *("--head", f"--port={port}", f"--temp-dir={temp_dir}"),
            *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        ]

    def start(self, cpus: int, gpus: int, *options: str) -> Path:
        command = node_command(sys.executable, cpus, gpus, OBJECT_STORE_BYTES, *options)
        log = self.folder / f"{len(self.processes)}.log"
        self._run(command, log)
        return log

    def _run(self, command: list[str], log: Path) -> None:
        with open(log, "a") as output:
            started = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=output, stderr=output
            )
        self.processes[log] = command, started

    def started(self) -> bool:
        """Whether all nodes have said that they run."""
        return all("Ray runtime started" in log.read_text() for log in self.processes)

    def keep_alive(self) -> None:
        """Start again what gave up, as nodes of Ray do on a busy machine."""
        for log, (command, process) in list(self.processes.items()):
            if process.poll() is not None:
                assert self.restarts, f"a node ended: {log.read_text()[-3000:]}"
                self.restarts -= 1
                self._run(command, log)

    def end(self) -> None:
        """End these processes, and what they started, and no others."""
        started = [process for _, process in self.processes.values()]
        family = [psutil.Process(p.pid) for p in started if p.poll() is None]
        family += [c for p in list(family) for c in p.children(recursive=True)]
        for process in reversed(started):
            process.terminate()
        _, left = psutil.wait_procs(family, timeout=20)
        for process in left:
            process.kill()
        for process in started:
            process.wait(timeout=20)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(
        prefix="grow-", dir="/tmp", ignore_cleanup_errors=True
    ) as temp_dir:
        made = Nodes(tmp_path, temp_dir)
        try:
            yield made
        finally:
            made.end()


def wait_until(text: str, file: Path, seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while text not in file.read_text():
        assert time.monotonic() < deadline, f"no {text!r} in {file.read_text()[-3000:]}"
        time.sleep(0.5)


@pytest.mark.long
def test_planned_for_what_may_come_and_waited_for_with_a_fake_autoscaler(nodes):
    wait_until("Ray runtime started", nodes.start(0, 0, *nodes.head), 120)
    log = nodes.folder / "scenario.log"
    with open(log, "w") as output:
        command = [sys.executable, "-u", str(SCENARIO), nodes.address]
        scenario = subprocess.Popen(
            [*command, str(nodes.folder)], env=ENVIRONMENT, stdout=output, stderr=output
        )
    try:
        wait_until("Waiting for room for 4 workers of 1 CPU", log, 120)
        deadline = time.monotonic() + GROWTH_S
        while scenario.poll() is None and time.monotonic() < deadline:
            # One after the other: of two that start side by side one often gives up.
            if len(nodes.processes) <= MOST and nodes.started():
                nodes.start(WORKER["CPU"], WORKER["GPU"], f"--address={nodes.address}")
            nodes.keep_alive()
            time.sleep(1)
        told = log.read_text() + "".join(f.read_text() for f in nodes.processes)
        assert scenario.poll() == 0, told
        assert log.read_text().endswith("grown\n")
    finally:
        scenario.kill()
        scenario.wait()
