"""The service: starting the application on Ray Serve, and stopping it."""

import contextlib
import dataclasses
import errno
import io
import logging
import re
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.exceptions import RayServeException

from doggos_helpers import errors
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.errors import ServiceError
from doggos_helpers.serve.application import (
    _champion,
    application,
    beside,
    check_artefacts,
)
from doggos_helpers.serve.deployments import IMAGES
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from ray.serve import Application


def free_port(host: str, port: int) -> int:
    """Listen at a host and port for a moment; 0 takes any port that is free.

    Returns:
        The port.

    Raises:
        OSError: Nothing can listen there; `errno` says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # Connections of a service that has just ended don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


REQUEST_TIMEOUT_S = 60
ROUTE_TIMEOUT_S = 15  # a proxy hears of a new route a moment after it runs


@dataclass(frozen=True)
class Service:
    """A running application; `started_serve` tells whether Serve ran before it."""

    url: str
    app_name: str
    started_serve: bool


_started: set[str] = set()  # the clusters on which this process started Serve


def check_inputs(settings: Settings) -> None:
    """Find out without Ray what would stop the service.

    Raises:
        ServiceError: The port is taken, and not by a Serve that may be ours.
        StorageError, ModelError: An artefact is missing or doesn't fit.
    """
    check_port(settings, or_serve=True)
    check_artefacts(settings, _champion(settings))


def start(settings: Settings, cluster: Cluster) -> Service:
    """Start Serve where it doesn't run, deploy the app, and wait until it answers.

    Called again, it updates the app. An app that doesn't come up is taken away.

    Raises:
        ServiceError: The port is taken, or the app doesn't come up.
        ClusterError: The nodes can't hold the replicas.
        StorageError, ModelError: An artefact is missing or doesn't fit.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = serve.status()
    if not running.proxies:
        check_port(settings)
    app = application(settings, cluster.plan, _champion(settings))
    stage = cluster.plan.serve
    whole = dataclasses.replace(stage, cpus=stage.cpus + 2 * beside(stage))
    wait_for(whole, cluster, settings, room=False)
    if settings.app_name in running.applications:
        print(f"The app {settings.app_name} runs already: it is updated.")
    try:
        _deploy(app, settings, cluster)
        _check_health(_url(settings))
    except BaseException:
        if settings.app_name not in running.applications:
            stop(_service(settings, cluster))
        raise
    return _service(settings, cluster)


def _deploy(app: "Application", settings: Settings, cluster: Cluster) -> None:
    if not serve.status().proxies:
        _started.add(cluster.address)
        serve.start(
            proxy_location="HeadOnly" if _one_machine(cluster) else "EveryNode",
            http_options={
                "host": settings.host,
                "port": settings.port,
                "request_timeout_s": REQUEST_TIMEOUT_S,
            },
        )
    target = serve.RunTarget(app, name=settings.app_name, route_prefix="/")
    try:
        serve.run_many([target], wait_for_applications_running=False)
    except RayServeException as error:
        reason = str(error).strip().splitlines()[-1].partition("Exception: ")[2]
        fix = "Delete that app (serve shutdown), or update it (DOGGOS_APP_NAME)"
        raise ServiceError(reason or str(error), settings.app_name, fix) from error
    _wait_until_running(settings)


def _service(settings: Settings, cluster: Cluster) -> Service:
    started = cluster.address in _started
    return Service(_url(settings), settings.app_name, started)


def _url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://{host}:{settings.port}"


def stop(service: Service) -> None:
    """Delete this app; end Serve if `start` started it and no other app is left.

    Harmless if called twice, or after Ray has ended.
    """
    import ray

    if not ray.is_initialized():
        return
    if service.app_name in serve.status().applications:
        serve.delete(service.app_name)
    if service.started_serve and not serve.status().applications:
        # Serve kills its controller before it has answered, and Ray prints that as a
        # failed task: no news to the user.
        with contextlib.redirect_stdout(io.StringIO()):
            serve.shutdown()
            time.sleep(0.5)
        _started.clear()


def _one_machine(cluster: Cluster) -> bool:
    """Tell whether several Ray nodes share a machine, and so its HTTP port."""
    addresses = Counter(node.name.partition("/")[0] for node in cluster.nodes)
    return max(addresses.values()) > 1 or "127.0.0.1" in addresses


def check_port(settings: Settings, or_serve: bool = False) -> None:
    """Raise unless the port is free, or `or_serve` and a Ray Serve listens there."""
    try:
        free_port(settings.host, settings.port)
        return
    except OSError as failed:
        error = failed
    what = f"can't listen there ({error.strerror})"
    fix = "Set host to an address of this machine (DOGGOS_HOST)"
    if error.errno == errno.EACCES:
        fix = "Set a port above 1023 (DOGGOS_PORT)"
    elif error.errno == errno.EADDRINUSE:
        fix = "End what listens on it, or set another port (DOGGOS_PORT)"
        if _serve_listens(settings):
            if or_serve:
                return
            what = "a service on another Ray listens there"
    raise ServiceError(what, f"{settings.host}:{settings.port}", fix)


def _serve_listens(settings: Settings) -> bool:
    """Tell whether what listens on the port is a proxy of Ray Serve."""
    import httpx

    with contextlib.suppress(httpx.HTTPError):
        url = f"{_url(settings)}/-/healthz"
        return httpx.get(url, timeout=2, trust_env=False).text == "success"
    return False


def _wait_until_running(settings: Settings) -> None:
    """Wait for all replicas, and say why where they don't come."""
    deadline = time.monotonic() + max(60, settings.wait_for_cluster_s)
    while (app := serve.status().applications[settings.app_name]).status != "RUNNING":
        states = [f"{n}: {d.status} {d.message}" for n, d in app.deployments.items()]
        if app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise _replica_error("\n".join([app.message, *states]))
        if time.monotonic() > deadline:
            fix = "Free CPUs (ray status), or raise wait_for_cluster_s"
            raise ServiceError("the app waits for room", "; ".join(states), fix)
        time.sleep(0.2)


def _replica_error(log: str) -> errors.DoggosError:
    """Find what a replica raised in Serve's report of it, which is text."""
    pattern = r"^doggos_helpers\.errors\.(\w+): (.*)\n  Fix: (.*)\.$"
    if ours := re.findall(pattern, log, re.MULTILINE):
        kind, what, fix = ours[-1]
        return getattr(errors, kind)(what, fix=fix)
    last = log.strip().splitlines()[-1][:300]
    fix = "Mend what the message names; the Ray dashboard has the whole log"
    return ServiceError("the app did not start", last, fix)


def _check_health(url: str) -> None:
    """Return once the app answers at its URL."""
    import httpx

    deadline = time.monotonic() + ROUTE_TIMEOUT_S
    while True:
        try:
            reply = httpx.get(f"{url}/healthz", timeout=10, trust_env=False)
            if reply.status_code == 200:
                return
            what = f"status {reply.status_code}"
        except httpx.HTTPError as error:
            what = str(error)
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the app runs, and can't be reached ({what})",
                url,
                "If Serve was running before, set host and port to where it listens",
            )
        time.sleep(0.2)


def curl_line(settings: Settings, service: Service) -> str:
    """Write a request that works, for a terminal."""
    if settings.serves_images:
        path = read_embeddings(settings, "test").paths[0]
        image = f"{service.url}{IMAGES}{path}"
    else:
        image = "https://..."
    body = f'{{"url": "{image}", "k": {settings.k}}}'
    return (
        f"curl {service.url}/predict/ -H 'content-type: application/json' -d '{body}'"
    )
