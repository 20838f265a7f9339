"""Connecting to Ray: which cluster, what it has, and leaving it as it was."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

import doggos_helpers
import doggos_sample
from doggos_helpers import environment
from doggos_helpers.artefacts import check_storage
from doggos_helpers.cluster.alike import check_alike
from doggos_helpers.cluster.kernel import let_go_after_interrupts
from doggos_helpers.cluster.monitor import Usage, monitor
from doggos_helpers.cluster.nodes import growth_limits, live_nodes, reach, running_here
from doggos_helpers.cluster.plan import Node, WorkerPlan, plan_workers
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import LOCAL, Settings

BLOCK_BYTES = 16 * 2**20  # what a task holds at a time, several times over
STARTED_HERE = "doggos-started-here"  # the namespace tells it whenever one connects
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
# Ray's C++ core reports as errors what a user can do nothing about; and Ray refuses
# what a job has set as well.
AT_INIT = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
FIX = (
    "Check DOGGOS_ADDRESS or RAY_ADDRESS and, where it asks for a token,"
    " RAY_AUTH_MODE=token; address=local starts one here, with logs in /tmp/ray"
)


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
            f"{how}: {nodes}, {cpus:g} CPUs, {gpus:g} GPUs; storage {self.storage};"
            f" dashboard {self.dashboard or 'off'}"
        )

    def monitor(self) -> contextlib.AbstractContextManager[Usage]:
        """Sample what each node uses while a `with` block runs; see `Usage`."""
        return monitor()


def connect(settings: Settings, alike: bool = True) -> Cluster:
    """Join or start a Ray cluster, and print one line that says which.

    The address is `settings.address`, else `RAY_ADDRESS`, else a cluster running on
    this machine that answers, else a new local one (`local` always starts one). On
    a cluster that it joins, this package is shipped to the workers. Calling it
    again keeps the connection.

    Raises:
        ClusterError: No cluster answers at the address, it can't hold the plan, or its
            nodes differ (only asked if `alike`).
    """
    let_go_after_interrupts()
    if not ray.is_initialized():
        _join_or_start(settings)
    check_storage(settings)
    _configure_ray_data(settings)
    nodes, grow_to = live_nodes(), growth_limits(settings)
    if alike:
        check_alike(nodes, settings)
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


def _join_or_start(settings: Settings) -> None:
    given = settings.address or environment.ray_address()
    address = given or running_here() or LOCAL
    options: dict[str, Any] = {"runtime_env": shipped(settings)}
    if address == LOCAL:
        options = {"namespace": STARTED_HERE}
    try:
        if given:
            reach(given)
        with environment.environment(**AT_INIT):
            ray.init(address=address, **options, **QUIET)
    except Exception as error:  # Ray's own are of several families, and bare ones
        ray.shutdown()
        what = "starts here" if address == LOCAL else "cluster answers"
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ClusterError(f"no Ray {what} ({why})", address, FIX) from error
    # Ray writes its token readable by all (mode 0644).
    with contextlib.suppress(FileNotFoundError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def shipped(settings: Settings) -> dict[str, Any]:
    """Build the runtime environment that takes this package to the workers.

    In a submitted job it wins over the job's own where both set something. A key to
    buckets goes along where the data set or the storage is one.
    """
    bucket = "s3://" in f"{settings.dataset} {settings.storage}"
    key = environment.bucket_access() if bucket else {}
    return {
        "py_modules": [*doggos_helpers.__path__, *doggos_sample.__path__],
        "excludes": ["__pycache__"],
        "env_vars": environment.telemetry() | key,
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
