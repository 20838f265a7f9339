"""Connecting to Ray: which cluster, what it has, and leaving it as it was."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from doggos_helpers.artefacts import check_storage
from doggos_helpers.cluster.kernel import let_go_after_interrupts
from doggos_helpers.cluster.nodes import growth_limits, live_nodes, remembered_address
from doggos_helpers.cluster.plan import Node, WorkerPlan, plan_workers
from doggos_helpers.environment import (
    bucket_access,
    environment,
    ray_address,
    telemetry,
)
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import LOCAL, Settings

BLOCK_BYTES = 16 * 2**20  # what a task holds at a time, several times over
ANSWER_S = 10
STARTED_HERE = "doggos-started-here"  # the namespace tells it whenever one connects
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
PACKAGES = ("doggos_helpers", "doggos_sample")  # what workers import


@dataclass(frozen=True)
class Cluster:
    """The cluster that this process is connected to."""

    address: str
    started_here: bool
    nodes: tuple[Node, ...]
    grow_to: dict[str, float] | None
    dashboard: str
    storage: str
    plan: WorkerPlan

    def __str__(self) -> str:
        """Say in one line which cluster this is and what it has."""
        how = "Started a local Ray" if self.started_here else f"Joined {self.address}"
        cpus, gpus = sum(n.cpus for n in self.nodes), sum(n.gpus for n in self.nodes)
        nodes = f"{len(self.nodes)} node{'s' if len(self.nodes) != 1 else ''}"
        return (
            f"{how}: {nodes}, {cpus:g} CPUs, {gpus:g} GPUs; "
            f"storage {self.storage}; dashboard {self.dashboard or 'off'}"
        )


def connect(settings: Settings) -> Cluster:
    """Join or start a Ray cluster, and print one line that says which.

    The address is `settings.address`, else `RAY_ADDRESS`, else a cluster running on
    this machine that answers, else a new local one (`local` always starts one). On
    a cluster that it joins, this package is shipped to the workers. Calling it
    again keeps the connection.

    Raises:
        ClusterError: No cluster answers at the address, or it can't hold the plan.
    """
    let_go_after_interrupts()
    if not ray.is_initialized():
        # Ray's C++ core reports as errors what a user can do nothing about; and Ray
        # refuses what a job has set as well.
        quiet = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
        with environment(**quiet), _no_stderr():
            _join_or_start(settings)
    check_storage(settings)
    nodes, grow_to = live_nodes(), growth_limits(settings)
    context = ray.get_runtime_context()
    dashboard = ray.init(ignore_reinit_error=True, **QUIET).dashboard_url
    cluster = Cluster(
        address=context.gcs_address,
        started_here=context.namespace == STARTED_HERE,
        nodes=nodes,
        grow_to=grow_to,
        dashboard=f"http://{dashboard}" if dashboard else "",
        storage=str(settings.storage_root),
        plan=plan_workers(nodes, settings, grow_to),
    )
    _configure_ray_data(settings)
    print(cluster)
    return cluster


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[Cluster]:
    """Connect for the length of a block, as the commands do."""
    try:
        yield connect(settings)
    finally:
        disconnect()


def disconnect() -> None:
    """Leave the cluster; end it if `connect` started it. Harmless if called twice."""
    ray.shutdown()


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Keep what is below Python from printing to standard error for a block.

    Ray 2.60.0 announces its log level there at each start, as it does an address that
    doesn't answer; what goes wrong is raised as well.
    """
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _join_or_start(settings: Settings) -> None:
    given = settings.address or ray_address()
    address = given or remembered_address()
    if address and address != LOCAL:
        try:
            _check_answers(address)
            ray.init(address=address, runtime_env=shipped(settings), **QUIET)
            return
        except (OSError, RuntimeError, ValueError, RayError) as error:
            if given:
                raise ClusterError(
                    f"no Ray cluster answers ({str(error).splitlines()[0]})",
                    address,
                    "Check DOGGOS_ADDRESS or RAY_ADDRESS and, where it asks for a"
                    " token, RAY_AUTH_MODE=token; address=local starts one here",
                ) from error
    try:
        ray.init(address=LOCAL, namespace=STARTED_HERE, **QUIET)
    except Exception as error:  # Ray raises a bare one where a process didn't come up
        ray.shutdown()
        raise ClusterError(
            f"Ray can't be started here ({str(error).splitlines()[0]})",
            socket.gethostname(),
            "Run it again when the machine is less busy; /tmp/ray/session_latest/logs"
            " says more",
        ) from error
    # Ray writes its token readable by all (mode 0644).
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        token.chmod(0o600)


def _check_answers(address: str) -> None:
    """Raise OSError where nothing, or no Ray, listens, or one with another token.

    Ray itself would try for minutes, for ever, and for 20 seconds.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "://" in address:
        return
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address"]
    try:
        asked = subprocess.run(
            [*ask, address], capture_output=True, text=True, timeout=ANSWER_S
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError("what listens there is no Ray, or hangs") from None
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or ["its health check failed"])[-1]
        raise OSError(said.partition(". ")[0].rpartition(": ")[2])


def shipped(settings: Settings) -> dict[str, Any]:
    """Build the runtime environment that takes this package to the workers.

    In a submitted job it wins over the job's own where both set something. A key to
    buckets goes along where the data set or the storage is one.
    """
    bucket = "s3://" in f"{settings.dataset} {settings.storage}"
    found = [str(find_spec(name).origin) for name in PACKAGES]  # type: ignore[union-attr]
    return {
        "py_modules": [str(Path(origin).parent) for origin in found],
        "excludes": ["__pycache__"],
        "env_vars": telemetry() | (bucket_access() if bucket else {}),
    }


def _configure_ray_data(settings: Settings) -> None:
    data = ray.data.DataContext.get_current()
    data.target_max_block_size = BLOCK_BYTES
    data.enable_progress_bars = settings.shows_progress
    # Else the first worker of a pool to be ready takes all blocks of a short job.
    data.wait_for_min_actors_s = max(120, settings.wait_for_cluster_s)
    # Its wrapper loses what a worker raised on the way; `unwrapped` looks for that.
    data.raise_original_map_exception = True
    # An error is raised as well: it would be told twice, once with a traceback.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # It tells of each package that it takes to a job.
    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
