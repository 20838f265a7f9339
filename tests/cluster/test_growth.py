"""A cluster that starts with no worker and may grow to four GPUs.

The autoscaler is faked: this test itself starts the nodes, which only say that they
have GPUs, once it sees that they are waited for.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.growing import MOST, WORKER
from tools.local_cluster import _free_ports

SCENARIO = Path(__file__).with_name("growing.py")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
}


class Nodes:
    """Ray nodes on this machine, each a process of its own."""

    def __init__(self, folder: Path, temp_dir: str) -> None:
        port, dashboard, client = _free_ports(3)
        self.folder, self.temp_dir, self.address = folder, temp_dir, f"127.0.0.1:{port}"
        self.processes: list[subprocess.Popen] = []
        self.head = [
            *("--head", f"--port={port}", f"--temp-dir={temp_dir}", "--num-gpus=0"),
            *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        ]

    def start(self, *options: str) -> Path:
        log = self.folder / f"{len(self.processes)}.log"
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *("--node-ip-address=127.0.0.1", "--object-store-memory=100000000"),
            *options,
        ]
        with open(log, "w") as output:
            started = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=output, stderr=output
            )
        self.processes.append(started)
        return log

    def end(self) -> None:
        """End these processes, and what they started, and no others."""
        family = [psutil.Process(p.pid) for p in self.processes if p.poll() is None]
        family += [c for p in list(family) for c in p.children(recursive=True)]
        for process in reversed(self.processes):
            process.terminate()
        _, left = psutil.wait_procs(family, timeout=20)
        for process in left:
            process.kill()
        for process in self.processes:
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


def test_planned_for_what_may_come_and_waited_for_with_a_fake_autoscaler(nodes):
    wait_until("Ray runtime started", nodes.start(*nodes.head, "--num-cpus=0"), 120)
    log = nodes.folder / "scenario.log"
    with open(log, "w") as output:
        command = [sys.executable, "-u", str(SCENARIO), nodes.address]
        scenario = subprocess.Popen(
            [*command, str(nodes.folder)], env=ENVIRONMENT, stdout=output, stderr=output
        )
    try:
        wait_until("Waiting for the cluster to grow to 4 workers of 1 CPU", log, 120)
        resources = (f"--num-cpus={WORKER['CPU']}", f"--num-gpus={WORKER['GPU']}")
        for _ in range(MOST):
            nodes.start(f"--address={nodes.address}", *resources)
        assert scenario.wait(timeout=240) == 0, log.read_text()
        assert log.read_text().endswith("grown\n")
    finally:
        scenario.kill()
        scenario.wait()
