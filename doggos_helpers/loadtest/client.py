"""Load test: how fast a running service answers, and who answers."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from upath import UPath

from doggos_helpers.artefacts import write_json, write_run
from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage
from doggos_helpers.embed.table import read_embeddings, read_record
from doggos_helpers.errors import DataError, ServiceError
from doggos_helpers.settings import Settings

MAX_IMAGES = 64  # different images sent; they are repeated after that
LISTENS_S = 10  # the service is given to answer at all


async def send_load(
    url: str,
    images: Sequence[bytes],
    *,
    requests: int = 200,
    concurrency: int = 8,
    timeout_s: float = 60,
) -> dict[str, Any]:
    """Upload images to a service, keeping `concurrency` requests under way.

    Args:
        url: Of the service.
        images: Image files, sent in turn.
        requests: How many in all.
        concurrency: How many at a time.
        timeout_s: Of each request.

    Returns:
        seconds, throughput (good replies a second), latency_ms of the good replies
        (p50, p95, p99, mean), counts (requests, succeeded, failed), statuses (of HTTP,
        or the name of what went wrong before one came), nodes (good replies by the
        node that embedded) and latencies_ms, in the order of arrival.

    Raises:
        ServiceError: The service doesn't answer at the URL.
    """
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    turns = iter(range(requests))
    await _check_it_answers(url)
    limits = httpx.Limits(max_connections=concurrency)
    client = httpx.AsyncClient(
        base_url=url, timeout=timeout_s, limits=limits, trust_env=False
    )

    async def one_client() -> None:
        for turn in turns:  # shared: each takes the next one
            files = {"image": ("image", images[turn % len(images)])}
            started = time.perf_counter()
            try:
                reply = await client.post("/predict/upload", files=files)
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1
                continue
            statuses[str(reply.status_code)] += 1
            if reply.status_code == 200:
                latencies.append((time.perf_counter() - started) * 1000)
                nodes[reply.json()["node"]] += 1

    async with client:
        started = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(concurrency)))
        seconds = time.perf_counter() - started
    good = len(latencies)
    return {
        "concurrency": concurrency,
        "seconds": round(seconds, 3),
        "throughput": round(good / seconds, 2),
        "latency_ms": _summary(latencies),
        "counts": {"requests": requests, "succeeded": good, "failed": requests - good},
        "statuses": dict(sorted(statuses.items())),
        "nodes": dict(sorted(nodes.items())),
        "latencies_ms": [round(ms, 2) for ms in latencies],
    }


async def _check_it_answers(url: str) -> None:
    """Raise unless this service answers, well or not."""
    try:
        async with httpx.AsyncClient(timeout=LISTENS_S, trust_env=False) as client:
            reply = await client.get(f"{url.rstrip('/')}/healthz")
        what = "another service answers" if reply.status_code == 404 else ""
    except httpx.TimeoutException:
        what = f"nothing answers within {LISTENS_S} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = f"nothing answers ({error})"
    if what:
        fix = "Start the service: `python -m doggos_helpers.serve`, or check the URL"
        raise ServiceError(what, url, fix)


def _summary(latencies: Sequence[float]) -> dict[str, float]:
    """Summarise milliseconds; empty where no request succeeded."""
    if not latencies:
        return {}
    figures = [*np.percentile(latencies, [50, 95, 99]), np.mean(latencies)]
    names = ("p50", "p95", "p99", "mean")
    return {n: round(float(ms), 2) for n, ms in zip(names, figures, strict=True)}


def read_test_images(settings: Settings) -> list[bytes]:
    """Read up to 64 images of the test split, spread over all of it.

    Raises:
        StorageError: The data set isn't embedded yet.
        DataError: It has no test images, or one is gone.
    """
    root, paths = settings.dataset_root, read_embeddings(settings, "test").paths
    chosen = paths[:: max(1, -(-len(paths) // MAX_IMAGES))]
    fix = "Run notebook 03_embedding again: the data set changed"
    try:
        if len(chosen):
            return [read_bytes(root, path) for path in chosen]
    except BadImage as error:
        raise DataError(f"an embedded image is gone ({error})", root, fix) from error
    raise DataError("no test image is embedded", root, fix)


def record(settings: Settings, started: float, report: dict[str, Any]) -> UPath:
    """Write a report to `serving_dir`: run.json, and loadtest.json with every latency.

    Args:
        settings: Of the service.
        started: `time.time()` before the load.
        report: From `send_load`.

    Returns:
        The path of run.json.
    """
    folder, shown = settings.serving_dir, dict(report)
    write_json(folder / "loadtest.json", report)
    shown.pop("latencies_ms")
    parts = {"counts": shown.pop("counts"), "nodes": shown.pop("nodes"), "load": shown}
    fingerprint = read_record(settings)["fingerprint"]
    write_run(folder, "serve", settings, started, fingerprint=fingerprint, **parts)
    return folder / "run.json"
