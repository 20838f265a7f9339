"""Load test: how fast a running service answers, and who answers."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np
from upath import UPath

from doggos_helpers.artefacts import write_json, write_run
from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage
from doggos_helpers.embed.table import read_embeddings, read_record
from doggos_helpers.errors import DataError, ServiceError
from doggos_helpers.serve.service import ask
from doggos_helpers.settings import Settings

MAX_IMAGES = 64  # different images sent; they are repeated after that
AGAIN = "Run notebook 03_embedding again: the data set changed"
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
    status, said = await asyncio.to_thread(ask, f"{url}/healthz", LISTENS_S)
    if status in (0, 404):
        fix = "Start the service: `python -m doggos_helpers.serve`, or check the URL"
        raise ServiceError("another service answers" if status else said, url, fix)
    good: list[tuple[float, str]] = []
    statuses: Counter[str] = Counter()
    turns = iter(range(requests))
    limits, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(timeout_s)
    session = aiohttp.ClientSession(connector=limits, timeout=timeout)

    async def one_client() -> None:
        for turn in turns:  # shared: each takes the next one
            form, started = aiohttp.FormData(), time.perf_counter()
            form.add_field("image", images[turn % len(images)], filename="image")
            try:
                async with session.post(f"{url}/predict/upload", data=form) as reply:
                    answer, status = await reply.json(content_type=None), reply.status
            except (aiohttp.ClientError, TimeoutError) as error:
                statuses[type(error).__name__] += 1
                continue
            statuses[str(status)] += 1
            if status == 200:
                ms = (time.perf_counter() - started) * 1000
                good.append((round(ms, 2), answer["node"]))

    async with session:
        started = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(concurrency)))
        seconds = time.perf_counter() - started
    latencies, failed = [ms for ms, _ in good], requests - len(good)
    return {
        "concurrency": concurrency,
        "seconds": round(seconds, 3),
        "throughput": round(len(good) / seconds, 2),
        "latency_ms": _summary(latencies),
        "counts": {"requests": requests, "succeeded": len(good), "failed": failed},
        "statuses": dict(sorted(statuses.items())),
        "nodes": dict(sorted(Counter(node for _, node in good).items())),
        "latencies_ms": latencies,
    }


def _summary(latencies: Sequence[float]) -> dict[str, float]:
    """Summarise milliseconds; empty where no request succeeded."""
    if not latencies:
        return {}
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    figures = {"p50": p50, "p95": p95, "p99": p99, "mean": np.mean(latencies)}
    return {name: round(float(ms), 2) for name, ms in figures.items()}


def read_test_images(settings: Settings) -> list[bytes]:
    """Read up to 64 images of the test split, spread over all of it.

    Raises:
        StorageError: The data set isn't embedded yet.
        DataError: It has no test images, or one is gone.
    """
    root, paths = settings.dataset_root, read_embeddings(settings, "test").paths
    if not len(paths):
        raise DataError("no test image is embedded", root, AGAIN)
    try:
        spread = paths[:: -(-len(paths) // MAX_IMAGES)]
        return [read_bytes(root, path) for path in spread]
    except BadImage as error:
        raise DataError(f"an embedded image is gone ({error})", root, AGAIN) from error


def record(settings: Settings, started: float, report: dict[str, Any]) -> UPath:
    """Write a report to `serving_dir`: run.json, and loadtest.json with every latency.

    Args:
        settings: Of the service.
        started: `time.time()` before the load.
        report: From `send_load`.

    Returns:
        The path of run.json.
    """
    folder = settings.serving_dir
    write_json(folder / "loadtest.json", report)
    load = {name: part for name, part in report.items() if name != "latencies_ms"}
    parts = {"counts": load.pop("counts"), "nodes": load.pop("nodes"), "load": load}
    fingerprint = read_record(settings)["fingerprint"]
    write_run(folder, "serve", settings, started, fingerprint=fingerprint, **parts)
    return folder / "run.json"
