"""Connecting to Ray: which cluster, what it has, and leaving it as it was."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doggos_helpers.artefacts import check_storage
from doggos_helpers.cluster.kernel import prepare_kernel
from doggos_helpers.cluster.nodes import growth_limits, live_nodes
from doggos_helpers.cluster.plan import Node, WorkerPlan, plan_workers
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import (
    LOCAL,
    TELEMETRY_OFF,
    Settings,
    environment,
    job_runtime_env,
    ray_address,
)

ANSWER_S = 10
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


_current: Cluster | None = None


def connect(settings: Settings) -> Cluster:
    """Join or start a Ray cluster, and print one line that says which.

    The address is `settings.address`, else `RAY_ADDRESS`, else a cluster running on
    this machine that answers, else a new local one (`local` always starts one). On
    a cluster that it joins, this package is shipped to the workers. Calling it
    again keeps the connection. In a notebook, a cell that runs too early from now on
    names the cell that it needs.

    Raises:
        ClusterError: No cluster answers at the address, or it can't hold the plan.
    """
    global _current
    import ray

    prepare_kernel()
    started_here = bool(_current and _current.started_here)
    if not ray.is_initialized():
        started_here = _init(settings)
    check_storage(settings)
    nodes, grow_to = live_nodes(), growth_limits(settings)
    context = ray.get_runtime_context()
    cluster = Cluster(
        address=context.gcs_address,
        started_here=started_here,
        nodes=nodes,
        grow_to=grow_to,
        dashboard=_dashboard(),
        storage=str(settings.storage_root),
        plan=plan_workers(nodes, settings, grow_to),
    )
    _configure_ray_data(settings)
    _current = cluster
    print(cluster)
    return cluster


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[Cluster]:
    """Connect for the length of a block, as the commands do."""
    try:
        yield connect(settings)
    finally:
        disconnect()


def is_connected() -> bool:
    """Tell whether this process is connected to a Ray."""
    import ray

    return bool(ray.is_initialized())


def disconnect() -> None:
    """Leave the cluster; end it if `connect` started it. Harmless if called twice."""
    global _current
    import ray

    ray.shutdown()
    _current = None


def _init(settings: Settings) -> bool:
    """Run `ray.init`; return whether it started a cluster."""
    import ray
    from ray.exceptions import RayError

    given = settings.address or ray_address()
    address = given or _running_here()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address and address != LOCAL:
        try:
            with _quiet_driver():
                _check_answers(address)
                ray.init(address=address, **quiet, runtime_env=shipped())
            return False
        except (OSError, RuntimeError, ValueError, RayError) as error:
            if given:
                raise ClusterError(
                    f"no Ray cluster answers ({str(error).splitlines()[0]})",
                    address,
                    "Check DOGGOS_ADDRESS or RAY_ADDRESS and, where it asks for a"
                    " token, RAY_AUTH_MODE=token; address=local starts one here",
                ) from error
    try:
        with _quiet_driver():
            ray.init(address=LOCAL, **quiet)
    except Exception as error:  # Ray raises a bare one where a process didn't come up
        ray.shutdown()
        raise ClusterError(
            f"Ray can't be started here ({str(error).splitlines()[0]})",
            socket.gethostname(),
            "Run it again when the machine is less busy; /tmp/ray/session_latest/logs"
            " says more",
        ) from error
    _tighten_token()
    return True


def _running_here() -> str:
    """Return the address of the last `ray start` on this machine, or nothing.

    It may have ended since. Other programs' private Rays are not looked for.
    """
    from ray._private.services import find_bootstrap_address

    return find_bootstrap_address(None) or ""


def _check_answers(address: str) -> None:
    """Raise OSError where nothing, or no Ray, listens, or one with another token.

    Ray itself would try for minutes, for ever, and for 20 seconds.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    host, _, port = address.rpartition(":")
    if not port.isdigit() or "://" in address:
        return
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    no_proxy = [("grpc.enable_http_proxy", 0)]  # as Ray has it
    with init_grpc_channel(address, no_proxy) as channel:
        try:
            grpc.channel_ready_future(channel).result(ANSWER_S)
        except grpc.FutureTimeoutError:
            raise TimeoutError("what listens there is no Ray, or hangs") from None
    try:
        GcsClient(address=address).get_all_node_info(timeout=ANSWER_S)
    except AuthenticationError as error:
        raise PermissionError("it asks for a token that this process lacks") from error
    except RayError:
        pass  # what it is, `ray.init` says better


@contextlib.contextmanager
def _quiet_driver() -> Iterator[None]:
    """Keep Ray's C++ core from printing to this process's standard error.

    It reports as errors what a user can do nothing about, such as the arguments of
    every actor pool of Ray Data (ray-project/ray#53727), or that there is no network.
    The level is read from the environment when the driver connects. The processes
    that a local start makes before that keep their own, and so their logs.
    """
    import ray._private.worker as worker

    connect_driver = worker.connect

    def connect_quietly(*args: Any, **kwargs: Any) -> Any:
        with environment(RAY_BACKEND_LOG_LEVEL="fatal"):
            return connect_driver(*args, **kwargs)

    kept = os.dup(2)
    worker.connect = connect_quietly
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        worker.connect = connect_driver
        os.dup2(kept, 2)
        os.close(kept)


def shipped() -> dict[str, Any]:
    """Build the runtime environment that takes this package to the workers.

    What a submitted job already brings is left out: Ray refuses a field set twice.
    """
    job = job_runtime_env()
    ours: dict[str, Any] = {}
    if not {"py_modules", "working_dir"} & set(job):
        root = Path(__file__).resolve().parents[2]
        ours["py_modules"] = [str(root / package) for package in PACKAGES]
        ours["excludes"] = ["__pycache__"]
    variables = {
        k: v for k, v in TELEMETRY_OFF.items() if k not in job.get("env_vars", {})
    }
    return ours | {"env_vars": variables}


def _dashboard() -> str:
    import ray._private.worker

    url = ray._private.worker.get_dashboard_url()
    return f"http://{url}" if url else ""


def _configure_ray_data(settings: Settings) -> None:
    from ray.data import DataContext

    data = DataContext.get_current()
    data.enable_progress_bars = settings.shows_progress
    # Else the first worker of a pool to be ready takes all blocks of a short job.
    data.wait_for_min_actors_s = max(120, settings.wait_for_cluster_s)
    # Its wrapper loses what a worker raised on the way; `unwrapped` looks for that.
    data.raise_original_map_exception = True
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ != "SessionFileHandler":  # the log files keep all
            handler.setLevel(logging.WARNING)
            # An error is raised as well: it would be told twice, once with a traceback.
            handler.addFilter(_below_error)
    # With the bars off, it warns that they are off, at every execution.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def _below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _tighten_token() -> None:
    """Ray writes its token readable by all (mode 0644)."""
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        token.chmod(0o600)
