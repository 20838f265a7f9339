"""The service: starting the application on Ray Serve, and stopping it."""

import contextlib
import errno
import io
import logging
import os
import socket
import time
from dataclasses import dataclass

import httpx
import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.errors import ServiceError
from doggos_helpers.serve.application import application, check_artefacts, roll_out
from doggos_helpers.serve.stages import ServeSettings
from doggos_helpers.settings import Settings

HTTP_OPTIONS = {"request_timeout_s": 60}
SAID = 400  # characters of what Serve says: at its end is what a replica raised
IN_USE = "End what listens on it, or set another port (DOGGOS_PORT)"
NOT_OURS = "Set host to an address of this machine (DOGGOS_HOST), or a port above 1023"


@dataclass(frozen=True)
class Service:
    """A running application."""

    url: str
    app_name: str


def start(settings: ServeSettings, cluster: Cluster) -> Service:
    """Start Serve where it doesn't run, deploy the app, and wait until it answers.

    Called again, it updates the app. An app that doesn't come up is taken away.

    Raises:
        ServiceError: The port is taken, or the app doesn't come up, for want of room
            or whatever its replicas say.
        ClusterError: The nodes can't hold the replicas.
        StorageError, ModelError: An artefact is missing or doesn't fit.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    service, running = Service(url_of(settings), settings.app_name), serve.status()
    new = service.app_name not in running.applications
    if not running.proxies:
        check_port(settings)
    elif not ask(f"{service.url}/-/healthz", 10)[0]:
        fix = "Set host and port to where it listens, or shut it down (serve shutdown)"
        raise ServiceError("Serve runs, and listens elsewhere", service.url, fix)
    served = check_artefacts(settings)
    app = application(served, cluster)
    wait_for(cluster.plan.serve, cluster, settings, room=False)
    if not new:
        print(f"The app {service.app_name} runs already: it is updated.")
    try:
        if not running.proxies:
            # Nodes that share a machine share its HTTP port as well.
            addresses = {node.name.partition("/")[0] for node in cluster.nodes}
            shared = len(addresses) < len(cluster.nodes) or "127.0.0.1" in addresses
            http = settings.model_dump(include={"host", "port"}) | HTTP_OPTIONS
            serve.start("HeadOnly" if shared else "EveryNode", http)
        roll_out(served)
        _deploy(app, service, max(60, settings.wait_for_cluster_s))
    except BaseException:
        if new:
            stop(service)
        raise
    return service


def _deploy(app: serve.Application, service: Service, patience_s: float) -> None:
    """Deploy the app, and wait until all its replicas run and it answers.

    `serve.run` alone would wait for ever for a replica that finds no room.
    """
    target = serve.RunTarget(app, name=service.app_name, route_prefix="/")
    try:
        serve.run_many([target], wait_for_applications_running=False)
    except RayServeException as error:
        what = str(getattr(error, "cause", error))
        fix = "Delete that app (serve shutdown), or update it (DOGGOS_APP_NAME)"
        raise ServiceError(what, service.app_name, fix) from error
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        app_now = serve.status().applications[service.app_name]
        said = "\n".join(d.message for d in app_now.deployments.values()).strip()
        if app_now.status == "DEPLOY_FAILED":
            fix = "Mend what it names; the Ray dashboard has the whole log"
            raise ServiceError("the app did not start", said[-SAID:], fix)
        # A proxy hears of a new route a moment after it runs.
        if app_now.status == "RUNNING" and ask(f"{service.url}/readyz", 10)[0] == 200:
            return
        time.sleep(0.2)
    fix = "Free CPUs (`ray status`), or raise wait_for_cluster_s"
    raise ServiceError("the app waits for room", said[-SAID:], fix)


def stop(service: Service) -> None:
    """Delete this app; end Serve with its last one.

    Harmless if called twice, or after Ray has ended.
    """
    if not ray.is_initialized():
        return
    if service.app_name in serve.status().applications:
        serve.delete(service.app_name)
    if not serve.status().applications:
        # Serve kills its controller before it has answered, and Ray prints that as a
        # failed task: no news to the user.
        with contextlib.redirect_stdout(io.StringIO()):
            serve.shutdown()
            time.sleep(0.5)


def free_port(host: str, port: int) -> int:
    """Listen at a host and port for a moment; 0 takes any port that is free.

    Returns:
        The port.

    Raises:
        OSError: Nothing can listen there; `errno` says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as probe:
        return int(probe.getsockname()[1])


def check_port(settings: Settings, or_serve: bool = False) -> None:
    """Raise unless the port is free, or `or_serve` and a Ray Serve listens there.

    Raises:
        ServiceError: Saying why nothing can listen there.
    """
    try:
        free_port(settings.host, settings.port)
    except OSError as error:
        number, where = error.errno or 0, f"{settings.host}:{settings.port}"
        what = f"can't listen there ({os.strerror(number)})"
        if ask(f"{url_of(settings)}/-/healthz", 2) == (200, "success"):
            if or_serve:
                return
            what = "a service on another Ray listens there"
        fix = IN_USE if number == errno.EADDRINUSE else NOT_OURS
        raise ServiceError(what, where, fix) from error


def url_of(settings: Settings) -> str:
    """Say where a service of these settings is reached from its own machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://{host}:{settings.port}"


def ask(url: str, timeout_s: float) -> tuple[int, str]:
    """Return the status and text that a URL answers; 0 and why, where none comes."""
    try:
        reply = httpx.get(url, timeout=timeout_s, trust_env=False)
        return reply.status_code, reply.text
    except httpx.TimeoutException:
        return 0, f"nothing answers within {timeout_s:g} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return 0, f"nothing answers ({error})"
