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

import httpx
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.util.state import list_actors
from ray.util.state.exception import RayStateApiException

from doggos_helpers.cluster.connect import STARTED_HERE, Cluster
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.environment import environment
from doggos_helpers.errors import ServiceError
from doggos_helpers.serve.application import application, beside, check_artefacts
from doggos_helpers.serve.deployments import IMAGES
from doggos_helpers.settings import Settings

REQUEST_TIMEOUT_S = 60
ROUTE_TIMEOUT_S = 15  # a proxy hears of a new route a moment after it runs
PORT_FIXES = {
    errno.EACCES: "Set a port above 1023 (DOGGOS_PORT)",
    errno.EADDRINUSE: "End what listens on it, or set another port (DOGGOS_PORT)",
}


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


@dataclass(frozen=True)
class Service:
    """A running application."""

    url: str
    app_name: str


def check_inputs(settings: Settings) -> None:
    """Find out without Ray what would stop the service.

    Raises:
        ServiceError: The port is taken, and not by a Serve that may be ours.
        StorageError, ModelError: An artefact is missing or doesn't fit.
    """
    check_port(settings, or_serve=True)
    check_artefacts(settings)


def start(settings: Settings, cluster: Cluster) -> Service:
    """Start Serve where it doesn't run, deploy the app, and wait until it answers.

    Called again, it updates the app. An app that doesn't come up is taken away.

    Raises:
        ServiceError: The port is taken, or the app doesn't come up, for want of room
            or whatever its replicas say.
        ClusterError: The nodes can't hold the replicas.
        StorageError, ModelError: An artefact is missing or doesn't fit.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    service = Service(_url(settings), settings.app_name)
    running, stage = serve.status(), cluster.plan.serve
    new = service.app_name not in running.applications
    if not running.proxies:
        check_port(settings)
    app = application(settings, cluster.plan, check_artefacts(settings))
    whole = dataclasses.replace(stage, cpus=stage.cpus + 2 * beside(stage))
    wait_for(whole, cluster, settings, room=False)
    if not new:
        print(f"The app {service.app_name} runs already: it is updated.")
    try:
        if not running.proxies:
            serve.start(
                proxy_location="HeadOnly" if _one_machine(cluster) else "EveryNode",
                http_options={
                    "host": settings.host,
                    "port": settings.port,
                    "request_timeout_s": REQUEST_TIMEOUT_S,
                },
            )
        _run(app, settings)
        _check_health(service.url)
    except BaseException:
        if new:
            stop(service)
        raise
    return service


def _run(app: serve.Application, settings: Settings) -> None:
    """Deploy the app, and wait until all its replicas run.

    `serve.run` alone would wait for ever for a replica that finds no room.
    """
    name, patience = settings.app_name, max(60, settings.wait_for_cluster_s)
    deadline = time.monotonic() + patience
    target = serve.RunTarget(app, name=name, route_prefix="/")
    try:
        serve.run_many([target], wait_for_applications_running=False)
    except RayServeException as error:
        fix = "Delete that app (serve shutdown), or update it (DOGGOS_APP_NAME)"
        raise ServiceError(str(getattr(error, "cause", error)), name, fix) from error
    while (status := serve.status().applications[name]).status != "RUNNING":
        said = {n: d.message for n, d in status.deployments.items() if d.message}
        if status.status == "DEPLOY_FAILED":
            # What a replica raised is the last paragraph, after its traceback.
            reason = re.split(r"\n(?=\S)", "\n".join(said.values()).strip())[-1]
            fix = "Mend what it names; the Ray dashboard has the whole log"
            raise ServiceError("the app did not start", reason[:300], fix)
        if time.monotonic() > deadline:
            fix = "Free CPUs (`ray status`), or raise wait_for_cluster_s"
            raise ServiceError("the app waits for room", str(said)[:300], fix)
        time.sleep(0.2)


def _started_serve() -> bool:
    """Tell whether Serve was started over this connection to Ray.

    On a Ray that `connect` started, it was. Else Ray's dashboard is asked; where there
    is none, Serve is left running.
    """
    context = ray.get_runtime_context()
    if context.namespace == STARTED_HERE:
        return True
    # Else RAY_ADDRESS, or whichever Ray started last on this machine, would be asked.
    here = environment(RAY_API_SERVER_ADDRESS=context.gcs_address)
    with contextlib.suppress(RayError, RayStateApiException, ValueError), here:
        serves = list_actors(filters=[("class_name", "=", "ServeController")])
        jobs = {actor.job_id for actor in serves if actor.state == "ALIVE"}
        return context.get_job_id() in jobs
    return False


def _url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://{host}:{settings.port}"


def stop(service: Service) -> None:
    """Delete this app; end Serve if `start` started it and no other app is left.

    Harmless if called twice, or after Ray has ended.
    """
    if not ray.is_initialized():
        return
    if service.app_name in serve.status().applications:
        serve.delete(service.app_name)
    if not serve.status().applications and _started_serve():
        # Serve kills its controller before it has answered, and Ray prints that as a
        # failed task: no news to the user.
        with contextlib.redirect_stdout(io.StringIO()):
            serve.shutdown()
            time.sleep(0.5)


def _one_machine(cluster: Cluster) -> bool:
    """Tell whether several Ray nodes share a machine, and so its HTTP port."""
    addresses = Counter(node.name.partition("/")[0] for node in cluster.nodes)
    return max(addresses.values()) > 1 or "127.0.0.1" in addresses


def check_port(settings: Settings, or_serve: bool = False) -> None:
    """Raise unless the port is free, or `or_serve` and a Ray Serve listens there."""
    try:
        free_port(settings.host, settings.port)
    except OSError as error:
        what = f"can't listen there ({error.strerror})"
        other = "Set host to an address of this machine (DOGGOS_HOST)"
        fix = PORT_FIXES.get(error.errno or 0, other)
        in_use = error.errno == errno.EADDRINUSE
        if in_use and _ask(f"{_url(settings)}/-/healthz", 2) == "success":
            if or_serve:
                return
            what = "a service on another Ray listens there"
        raise ServiceError(what, f"{settings.host}:{settings.port}", fix) from error


def _ask(url: str, timeout_s: float) -> str:
    """Return what is answered at a URL, or nothing."""
    with contextlib.suppress(httpx.HTTPError):
        reply = httpx.get(url, timeout=timeout_s, trust_env=False)
        return reply.text if reply.is_success else ""
    return ""


def _check_health(url: str) -> None:
    """Return once the app answers at its URL."""
    deadline = time.monotonic() + ROUTE_TIMEOUT_S
    while not _ask(f"{url}/healthz", 10):
        if time.monotonic() > deadline:
            what = "the app runs, and can't be reached"
            fix = "If Serve was running before, set host and port to where it listens"
            raise ServiceError(what, url, fix)
        time.sleep(0.2)


def curl_line(settings: Settings, service: Service) -> str:
    """Write a request that works, for a terminal."""
    image = "https://..."
    if settings.serves_images:
        image = f"{service.url}{IMAGES}{read_embeddings(settings, 'test').paths[0]}"
    body = f'{{"url": "{image}", "k": {settings.k}}}'
    return (
        f"curl {service.url}/predict/ -H 'content-type: application/json' -d '{body}'"
    )
