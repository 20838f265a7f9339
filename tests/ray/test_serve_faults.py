"""What goes wrong while requests come at a rate that the service can serve.

Each case is run with the client's policy of docs/guides/production.md (a request is
sent again, after growing waits) and, where it differs, without it. The rows are written
to build/serve_faults.md; a dated copy is in benchmarks/results.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import http.server
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray import serve

from benchmarks.serve import send_at
from doggos_helpers.loadtest.client import read_test_images, send_load
from doggos_helpers.serve.application import check_artefacts, roll_out
from doggos_helpers.serve.service import Service, start, stop
from tests.ray.serving import App, running, save_classifier, wait_until

RATE = 8.0  # requests a second: a third of what one replica answers on this machine
POLICY = {"retries": 9}
ROWS: list[str] = []
REPORT = Path(__file__).resolve().parents[2] / "build" / "serve_faults.md"
HEAD = "| fault | requests | failed | sent again | statuses of the last try | p95, ms |"


@pytest.fixture(scope="module")
def app(prepared, cluster) -> Iterator[App]:
    """Two replicas, on whatever CPUs there are."""
    changes = {"replicas": 2, "replica_cpus": 0.5, "allow_private_urls": True}
    with larger(prepared, cluster[1], **changes) as app:
        yield app
    if ROWS:
        today = f"{datetime.date.today()}, {os.cpu_count()} cores, {RATE:g} a second"
        lines = [f"# Faults under load ({today})", "", HEAD, "|" + "---|" * 6, *ROWS]
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text("\n".join([*lines, ""]))


@contextlib.contextmanager
def larger(settings: Any, cluster: Any, **changes: Any) -> Iterator[App]:
    """Run an app with another plan of its replicas."""
    from doggos_helpers.cluster.plan import plan_workers

    changed = settings.model_copy(update=changes)
    plan = plan_workers(cluster.nodes, changed)
    planned = dataclasses.replace(cluster, plan=plan)
    with running(settings, planned, **changes) as app:
        yield app


def under_load(
    app: App, name: str, fault: Callable[[], object], **how: Any
) -> dict[str, Any]:
    """Send requests at a fixed rate, let something go wrong, note what came of it."""
    options = {"rate": RATE, "requests": int(15 * RATE)} | POLICY | how
    images, report = read_test_images(app.settings), {}

    def send() -> None:
        report.update(send_at(app.url, images, **options))

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(2)
    try:
        fault()
    finally:
        sender.join()
    counts = report["counts"]
    cells = [counts["requests"], counts["failed"], counts["retried"]]
    cells += [report["statuses"], report["latency_ms"].get("p95")]
    ROWS.append(f"| {name} | {' | '.join(map(str, cells))} |")
    print(ROWS[-1])
    return report


def actors(of: str) -> list[Any]:
    """Find Serve's own actors by a part of their names."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return [ray.get_actor(a["name"], a["namespace"]) for a in named if of in a["name"]]


def kill(of: str) -> None:
    """Kill the process of one of Serve's actors, as the kernel or a person would."""
    ray.kill(actors(of)[0], no_restart=False)


def replicas(app: App, deployment: str = "Api") -> int:
    found = serve.status().applications[app.settings.app_name]
    return found.deployments[deployment].replica_states.get("RUNNING", 0)


def settled(app: App) -> None:
    """Wait until the app is whole again."""
    wait_until(lambda: replicas(app) == 2, 90)
    wait_until(lambda: app.client.get("/readyz").status_code == 200, 30)


def test_a_killed_replica_costs_nobody_who_asks_again_an_answer(app):
    report = under_load(app, "one of two replicas killed", lambda: kill("#Api#"))
    assert report["counts"]["failed"] == 0
    settled(app)


@pytest.mark.long
def test_a_killed_replica_costs_others_the_requests_it_had(app):
    fault = lambda: kill("#Api#")  # noqa: E731
    report = under_load(app, "the same, nothing sent again", fault, retries=0)
    assert report["counts"]["failed"] <= 10
    settled(app)


@pytest.mark.long
def test_a_killed_proxy_comes_back(app):
    report = under_load(app, "the proxy killed", lambda: kill("PROXY_ACTOR"))
    assert report["counts"]["failed"] == 0


@pytest.mark.long
def test_a_killed_controller_is_not_noticed(app):
    def fault() -> None:
        kill("SERVE_CONTROLLER_ACTOR")

    report = under_load(app, "the controller killed", fault, retries=0)
    assert report["counts"]["failed"] == 0
    settled(app)


@pytest.mark.long
def test_the_only_encoder_killed(prepared, cluster):
    changes = {"encoder_apart": "yes", "replica_cpus": 1}
    with larger(prepared, cluster[1], **changes) as app:
        report = under_load(app, "the only encoder killed", lambda: kill("#Encoder#"))
        assert report["counts"]["failed"] == 0
        assert report["counts"]["retried"] > 0


@pytest.mark.long
def test_a_storage_that_is_gone_for_a_while(app):
    """Replicas have in memory what they need; the images are on it as well."""
    folder = Path(app.settings.storage)
    away = folder.with_name("away")

    def fault() -> None:
        folder.rename(away)
        time.sleep(6)
        away.rename(folder)

    report = under_load(app, "the storage gone for 6 s", fault, retries=0)
    assert report["counts"]["failed"] == 0


@pytest.mark.long
def test_a_storage_that_hangs(app):
    """Who reads the champion's file waits: for longer than Serve takes to give up."""
    file = app.settings.champion_file
    before = {actor._actor_id for actor in actors("#Api#")}

    def fault() -> None:
        content = file.read_text()
        file.unlink()
        os.mkfifo(str(file))
        time.sleep(100)
        for _ in before:
            file.write_text(content)  # lets a replica go that reads
        file.unlink()
        file.write_text(content)

    report = under_load(
        app, "the storage hangs for 100 s", fault, retries=0, requests=int(100 * RATE)
    )
    assert report["counts"]["failed"] == 0
    assert {actor._actor_id for actor in actors("#Api#")} == before


class Hostile(http.server.BaseHTTPRequestHandler):
    """Answers nothing, or without an end, byte after byte."""

    def do_GET(self) -> None:
        if self.path == "/dead":
            time.sleep(20)
            return
        self.send_response(200)
        self.send_header("content-type", "image/jpeg")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * (2**20 if self.path == "/endless" else 1))
                time.sleep(0 if self.path == "/endless" else 0.1)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.long
def test_hosts_that_are_slow_dead_or_endless_disturb_nobody_else(app):
    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, statuses = f"http://127.0.0.1:{server.server_port}", []

    def fetch(path: str) -> None:
        body = {"url": f"{url}/{path}"}
        with httpx.Client(base_url=app.url, timeout=60, trust_env=False) as client:
            statuses.append(client.post("/predict/", json=body).status_code)

    def fault() -> None:
        paths = ["slow", "dead"] * 10 + ["endless"] * 4
        threads = [threading.Thread(target=fetch, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    report = under_load(app, "24 slow, dead or endless hosts", fault, retries=0)
    server.shutdown()
    assert report["counts"]["failed"] == 0
    assert sorted(set(statuses)) == [413, 504] and statuses.count(504) == 20


@pytest.mark.long
def test_a_rolling_update_and_back(app, tmp_path):
    served = check_artefacts(app.settings)
    save_classifier(tmp_path, served.dimension, seed=1)

    def fault() -> None:
        for k in (3, 4):
            start(app.settings.model_copy(update={"k": k}), app.cluster)

    report = under_load(app, "a rolling update and back", fault, requests=300)
    assert report["counts"]["failed"] == 0
    settled(app)


@pytest.mark.long
def test_a_champion_rolled_out_and_back(app, tmp_path):
    served = check_artefacts(app.settings)
    save_classifier(tmp_path, served.dimension, seed=1)
    new = dataclasses.replace(served, champion={"folder": str(tmp_path), "version": 2})

    def fault() -> None:
        for one in (new, served):
            roll_out(one)
            time.sleep(4)

    report = under_load(app, "a champion rolled out and back", fault, retries=0)
    assert report["counts"]["failed"] == 0


def memory(app: App) -> tuple[float, int]:
    """Return MiB and open files of the app's replicas and its proxy, together."""
    mib, files = 0.0, 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if "ServeReplica" in line or "ProxyActor" in line:
                mib += process.memory_info().rss / 2**20
                files += process.num_fds()
    return mib, files


def test_five_times_too_many_requests_are_refused_and_the_rest_answered(app):
    """Bounded queues, 503 with Retry-After, no collapse, and recovery in seconds."""
    images = read_test_images(app.settings)
    closed = asyncio.run(send_load(app.url, images, requests=150, concurrency=16))
    before, _ = memory(app)
    rate = 5 * closed["throughput"]
    report = send_at(app.url, images, rate, int(10 * rate))
    after, _ = memory(app)
    counts, statuses = report["counts"], report["statuses"]
    ROWS.append(
        f"| five times overload ({rate:.0f} a second) | {counts['requests']} |"
        f" {counts['failed']} | 0 | {statuses} | {report['latency_ms']['p95']} |"
    )
    print(ROWS[-1], f"memory {before:.0f} -> {after:.0f} MiB")
    assert set(statuses) == {"200", "503"}, statuses
    # It doesn't collapse: 0.35 to 0.43 were seen where the client, which sends five
    # times as much, shares two cores with the service.
    assert report["throughput"] > 0.2 * closed["throughput"]
    assert after < before + 400
    began = time.monotonic()
    again = asyncio.run(send_load(app.url, images, requests=20, concurrency=1))
    assert again["counts"]["failed"] == 0 and time.monotonic() - began < 10


@pytest.mark.long
def test_refusals_say_when_to_come_again(app):
    files = {"image": ("dog.jpg", app.read())}

    async def flood() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=600)
        async with httpx.AsyncClient(
            base_url=app.url, timeout=60, trust_env=False, limits=limits
        ) as client:
            asked = [client.post("/v1/predict/upload", files=files) for _ in range(600)]
            return await asyncio.gather(*asked)

    refused = [r for r in asyncio.run(flood()) if r.status_code == 503]
    assert refused and all(r.headers["retry-after"] == "1" for r in refused)


@pytest.mark.long
def test_clients_that_hang_up_cost_nothing(app):
    def fault() -> None:
        for _ in range(200):
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(
                    f"{app.url}/v1/predict/upload",
                    files={"image": app.read()},
                    timeout=0.005,
                    trust_env=False,
                )

    report = under_load(app, "200 clients that hang up", fault, retries=0)
    assert report["counts"]["failed"] == 0


@pytest.mark.long
def test_a_soak_leaves_memory_and_open_files_as_they_were(app):
    """Bounded: five minutes, after one to warm up."""
    images = read_test_images(app.settings)
    send_at(app.url, images, RATE, int(60 * RATE))
    mib, files = memory(app)
    report = send_at(app.url, images, RATE, int(300 * RATE))
    after, open_after = memory(app)
    counts = report["counts"]
    ROWS.append(
        f"| five minutes: {mib:.0f} -> {after:.0f} MiB, {files} -> {open_after} files |"
        f" {counts['requests']} | {counts['failed']} | 0 | {report['statuses']} |"
        f" {report['latency_ms']['p95']} |"
    )
    assert counts["failed"] == 0
    assert after < mib * 1.1 + 20 and open_after < files + 20


@pytest.mark.long
def test_requests_under_way_are_answered_when_the_service_is_stopped(app):
    def fault() -> None:
        stop(Service(app.url, app.settings.app_name))

    images, report = read_test_images(app.settings), {}

    def send() -> None:
        sent = send_load(app.url, images, requests=16, concurrency=16)
        report.update(asyncio.run(sent))

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(0.3)
    fault()
    sender.join()
    ROWS.append(f"| stopped with 16 under way | 16 | | 0 | {report['statuses']} | |")
    assert report["statuses"] == {"200": 16}
