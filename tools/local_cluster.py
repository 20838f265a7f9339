"""A Ray cluster of several nodes on this machine: `up`, `down`, `env`.

Each node is a `ray start --block` process of its own on 127.0.0.1, so that it can be
ended alone; no root is needed. The cluster has its own token, ports and folders and
leaves every other Ray on the machine alone.
"""

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "cluster"
HOST = "127.0.0.1"
WORKERS, CPUS = 2, 2
OBJECT_STORE_BYTES = 200 * 1024 * 1024
START_S, STOP_S = 300, 5
NODE_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # `ray start` would still report, once, that reports are off: send that nowhere.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
    "RAY_raylet_start_wait_time_s": "120",  # 30 are too few on a busy machine
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # else none of several nodes on macOS
}
# Runs beside the nodes: importing Ray here would fix this process's token mode.
COUNT = """
import sys, time
from ray._raylet import GcsClient
while True:
    try:
        nodes = GcsClient(address=sys.argv[1]).get_all_node_info().values()
        print("alive", sum(node.state == 0 for node in nodes), flush=True)
    except Exception as error:
        print(repr(error), flush=True)
    time.sleep(0.5)
"""


class ClusterFailed(RuntimeError):
    """The cluster did not come up; the message ends with its logs' last lines."""


@dataclass
class LocalCluster:
    """A running cluster: its address, folders, and processes as (pid, start time)."""

    address: str
    dashboard: str
    token: str
    temp_dir: str
    processes: list[tuple[int, float]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a program finds the cluster and may join it."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token,
        }

    def alive(self) -> bool:
        """Whether every node's process still runs."""
        return bool(self.processes) and all(_ours(*p) for p in self.processes)


@contextlib.contextmanager
def local_cluster(
    folder: Path = FOLDER,
    workers: int = WORKERS,
    worker_python: str = sys.executable,
    worker_environment: Mapping[str, str] | None = None,
) -> Iterator[LocalCluster]:
    """Run a cluster for the length of a `with` block; see `up`."""
    try:
        yield up(folder, workers, worker_python, worker_environment)
    finally:
        down(folder)


def up(
    folder: Path = FOLDER,
    workers: int = WORKERS,
    worker_python: str = sys.executable,
    worker_environment: Mapping[str, str] | None = None,
) -> LocalCluster:
    """Start a head and worker nodes of two CPUs each; keep one that already runs.

    Args:
        folder: For state, token and logs.
        workers: How many nodes besides the head.
        worker_python: The interpreter of the worker nodes.
        worker_environment: Variables that only the worker nodes get.

    Raises:
        ClusterFailed: Not all nodes were alive within five minutes.
    """
    running = read(folder)
    if running and running.alive():
        return running
    down(folder)
    cluster = _prepare(folder)
    environment = clean_environment() | cluster.environment
    del environment["RAY_ADDRESS"]
    # Else the proxy of one node keeps requests to the replicas that it has beside it.
    environment["RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING"] = "0"
    theirs = environment | dict(worker_environment or {})

    def start_worker(number: int) -> None:
        log = folder / f"worker-{number}.log"
        address = [f"--address={cluster.address}"]
        _start(cluster, number, log, worker_python, address, theirs)

    try:
        _start_head(cluster, folder, environment)
        _complete(cluster, folder, environment, workers, start_worker)
    except BaseException:
        down(folder)
        raise
    return cluster


def down(folder: Path = FOLDER) -> bool:
    """End the cluster's own processes, and no others; return whether it had any.

    A SIGTERM drains a node and ends what it started; what outlives that is killed.
    """
    cluster = read(folder)
    if not cluster:
        return False
    nodes = [p for p in (_ours(*p) for p in cluster.processes) if p]
    family = list(nodes)
    for process in nodes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    for process in reversed(nodes):  # the head last, so that workers can say goodbye
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(family, timeout=STOP_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_S)
    shutil.rmtree(cluster.temp_dir, ignore_errors=True)
    (folder / "state.json").unlink(missing_ok=True)
    return bool(nodes)


def read(folder: Path = FOLDER) -> LocalCluster | None:
    """Return the cluster that `up` noted in this folder, running or not."""
    try:
        return LocalCluster(**json.loads((folder / "state.json").read_text()))
    except FileNotFoundError:
        return None


def _prepare(folder: Path) -> LocalCluster:
    """Choose ports, write the token, and note the state before anything starts."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        log.unlink()
    token = folder / "token"
    token.unlink(missing_ok=True)
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    # Ray's Unix sockets lie below it, and their paths may have 107 characters at most.
    short = "/tmp" if os.access("/tmp", os.W_OK) else None
    port, dashboard = free_ports(2)
    return LocalCluster(
        address=f"{HOST}:{port}",
        dashboard=f"{HOST}:{dashboard}",
        token=str(token),
        temp_dir=tempfile.mkdtemp(prefix="doggos-ray-", dir=short),
    )


def _start_head(
    cluster: LocalCluster, folder: Path, environment: Mapping[str, str]
) -> None:
    client_port = free_ports(1)[0]
    options = [
        "--head",
        f"--port={cluster.address.partition(':')[2]}",
        f"--dashboard-port={cluster.dashboard.partition(':')[2]}",
        f"--ray-client-server-port={client_port}",
        f"--temp-dir={cluster.temp_dir}",
    ]
    log = folder / "head.log"
    _start(cluster, 0, log, sys.executable, options, environment)


def node_command(
    python: str, cpus: int, gpus: int, object_store_bytes: int, *options: str
) -> list[str]:
    """Return the command of a node that gets along with others on this machine."""
    return [
        *(python, "-m", "ray.scripts.scripts", "start", "--block", *options),
        f"--node-ip-address={HOST}",
        f"--num-cpus={cpus}",
        f"--num-gpus={gpus}",
        f"--object-store-memory={object_store_bytes}",
        "--dashboard-agent-listen-port=0",  # the default is one port for all nodes
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]


def _start(
    cluster: LocalCluster,
    number: int,
    log: Path,
    python: str,
    options: Sequence[str],
    environment: Mapping[str, str],
) -> None:
    """Start a node and note its process in the state file, in place `number`."""
    command = node_command(python, CPUS, 0, OBJECT_STORE_BYTES, *options)
    with open(log, "w") as output:
        started = subprocess.Popen(
            command,
            cwd=log.parent,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is not for the cluster
        )
    process = psutil.Process(started.pid)
    noted = [(started.pid, process.create_time())]
    cluster.processes[number : number + 1] = noted
    state = log.parent / "state.json"
    state.write_text(json.dumps(asdict(cluster), indent=2))


def _complete(
    cluster: LocalCluster,
    folder: Path,
    environment: Mapping[str, str],
    workers: int,
    start_worker: Callable[[int], None],
) -> None:
    """Start the workers once the head is alive, and return once they are too.

    A worker that gave up, as Ray's do on a busy machine, is started again.
    """
    restarts, deadline = workers, time.monotonic() + START_S
    log = folder / "nodes.log"
    with open(log, "w") as output:
        counting = subprocess.Popen(
            [sys.executable, "-c", COUNT, cluster.address],
            env=dict(environment),
            stdout=output,
            stderr=output,
        )
    try:
        while (alive := _count(log)) <= workers:
            if alive == len(cluster.processes):  # side by side, one often gives up
                start_worker(alive)
            dead = [i for i, p in enumerate(cluster.processes) if not _ours(*p)]
            if time.monotonic() > deadline or 0 in dead or len(dead) > restarts:
                wanted = f"{workers + 1} nodes, and {alive} came up"
                raise ClusterFailed(f"the cluster needs {wanted}{_tail(folder)}")
            for number in dead:
                restarts -= 1
                start_worker(number)
            time.sleep(0.2)
    finally:
        counting.kill()
        counting.wait()


def _count(log: Path) -> int:
    """Return the number of nodes in the last line that tells one."""
    told = re.findall(r"^alive (\d+)$", log.read_text(), re.MULTILINE)
    return int(told[-1]) if told else 0


def clean_environment() -> dict[str, str]:
    """Leave out what would make the nodes join or imitate another Ray."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return kept | NODE_VARIABLES


def _ours(pid: int, started: float) -> psutil.Process | None:
    """Return the process if it is still the one that was started."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def free_ports(count: int) -> list[int]:
    """Choose ports below those that systems give to outgoing connections."""
    free: list[int] = []
    while len(free) < count:
        port = random.randrange(20000, 30000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            free.append(port)
    return free


def _tail(folder: Path, lines: int = 15) -> str:
    """Quote the end of each log, for an error."""
    quoted = ""
    for log in sorted(folder.glob("*.log")):
        last = "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
        quoted += f"\n--- {log}\n{last}"
    return quoted


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands `up`, `down` and `env`."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.local_cluster", description=__doc__
    )
    parser.add_argument("command", choices=["up", "down", "env"])
    command = parser.parse_args(list(arguments)).command
    if command == "down":
        print("The cluster is down." if down() else "There was no cluster.")
        return 0
    try:
        cluster = up() if command == "up" else read()
    except ClusterFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not cluster or not cluster.alive():
        print("error: no cluster here. Fix: make cluster.", file=sys.stderr)
        return 1
    if command == "up":
        print(f"# {WORKERS + 1} nodes of {CPUS} CPUs are up. To join them from here:")
    for name, value in cluster.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    if command == "up":
        print(
            f"# Dashboard: http://{cluster.dashboard}. To end them: make cluster-down"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
