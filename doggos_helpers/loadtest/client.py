"""Load test: how fast a running service answers, and who answers."""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import aiohttp
import pandas as pd
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
SAYS = REPLICA, BATCH, TIMING = ("X-Served-By", "X-Batch-Size", "Server-Timing")
COLUMNS = [*SAYS, "node", "status", "second", "ms", "clients", "retries"]
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0  # before a request is sent again


class Load:
    """A load under way: what is sent, and what became of it."""

    def __init__(
        self, url: str, images: Sequence[bytes], retries: int, **session: Any
    ) -> None:
        """Open the session; nothing is sent yet."""
        self.url, self.images, self.retries = url, images, retries
        connector = aiohttp.TCPConnector(limit=0)
        self.session = aiohttp.ClientSession(connector=connector, **session)
        self.replies: list[dict[str, Any]] = []
        self.started, self.seconds = time.perf_counter(), 0.0

    async def try_once(self, turn: int) -> dict[str, Any]:
        """Send an image once; return the status or what went wrong, and who answers."""
        form = aiohttp.FormData()
        form.add_field("image", self.images[turn % len(self.images)], filename="image")
        try:
            async with self.session.post(self.url, data=form) as reply:
                said = {name: reply.headers.get(name, "") for name in SAYS}
                if reply.status == 200:
                    said["node"] = (await reply.json(content_type=None))["node"]
                return said | {"status": str(reply.status)}
        except (aiohttp.ClientError, TimeoutError) as error:
            return {"status": type(error).__name__}

    async def send(self, turn: int, due: float, clients: int) -> None:
        """Send an image until there is an answer, and note it."""
        for retry in range(self.retries + 1):
            said = await self.try_once(turn)
            if said["status"].startswith(("2", "4")) or retry == self.retries:
                break
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**retry)
            await asyncio.sleep(wait * random.uniform(0.5, 1))
        now = time.perf_counter()
        times = {"second": int(now - self.started), "ms": round((now - due) * 1000, 2)}
        self.replies.append(said | times | {"clients": clients, "retries": retry})
        self.seconds = now - self.started

    async def closed(
        self, clients: int, turns: Iterable[int], seconds: float = math.inf
    ) -> None:
        """Keep as many requests under way as there are clients."""
        shared, end = iter(turns), time.perf_counter() + seconds

        async def one_client() -> None:
            for turn in shared:  # each takes the next one
                await self.send(turn, time.perf_counter(), clients)
                if time.perf_counter() > end:
                    return

        await asyncio.gather(*(one_client() for _ in range(clients)))


async def send_load(
    url: str,
    images: Sequence[bytes],
    *,
    requests: int = 200,
    concurrency: int = 8,
    steps: Sequence[int] = (),
    step_s: float = 10,
    retries: int = 0,
    timeout_s: float = 60,
    token: str = "",
) -> dict[str, Any]:
    """Upload images to a service, keeping `concurrency` requests under way.

    Args:
        url: Of the service.
        images: Image files, sent in turn.
        requests: How many in all.
        concurrency: How many at a time.
        steps: Instead of both: so many at a time, one step after the other.
        step_s: How long a step lasts.
        retries: How often a request is sent again that got no reply or a status from
            500 on, each time after a wait twice as long, more or less.
        timeout_s: Of each try.
        token: That requests bear.

    Returns:
        seconds, throughput (good replies a second), latency_ms of the good replies
        (p50, p95, p99, mean), counts (requests, succeeded, failed, retried), statuses
        (of HTTP, or the name of what went wrong before one came), nodes (good replies
        by the node that embedded), batches (good replies by how many images were
        embedded at a time), parts_ms (the mean of each part, as the service says),
        series (a row a second) and latencies_ms, in the order of arrival.

    Raises:
        ServiceError: The service doesn't answer at the URL.
    """
    status, said = await asyncio.to_thread(ask, f"{url}/healthz", LISTENS_S)
    if status in (0, 404):
        fix = "Start the service: `python -m doggos_helpers.serve`, or check the URL"
        raise ServiceError("another service answers" if status else said, url, fix)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    options: Any = {"timeout": aiohttp.ClientTimeout(timeout_s), "headers": headers}
    load = Load(f"{url}/v1/predict/upload", images, retries, **options)
    async with load.session:
        for clients in steps:
            await load.closed(clients, itertools.count(), step_s)
        if not steps:
            await load.closed(concurrency, range(requests))
    return {"concurrency": concurrency} | summarise(load)


def summarise(load: Load) -> dict[str, Any]:
    """Count replies and describe their latencies; see `send_load`."""
    table = pd.DataFrame(load.replies, columns=COLUMNS)
    table["good"] = table.status == "200"
    good, failed = table[table.good], int((~table.good).sum())
    latency = good.ms.describe([0.5, 0.95, 0.99])[["50%", "95%", "99%", "mean"]]
    latency.index = pd.Index(["p50", "p95", "p99", "mean"])
    # Such as decode;dur=3.4, embed;dur=6.2, total;dur=11.0
    parts = good[TIMING].astype(str).str.extractall(r"(\w+);dur=([\d.]+)")
    part_ms = parts[1].astype(float).groupby(parts[0]).mean()
    by_second = table.groupby("second").agg(
        clients=("clients", "max"),
        throughput=("good", "sum"),
        p50=("ms", "median"),
        p95=("ms", lambda ms: ms.quantile(0.95)),
        replicas=(REPLICA, "nunique"),
    )
    counts = {"requests": len(table), "succeeded": len(good), "failed": failed}
    return {
        "seconds": round(load.seconds, 3),
        "throughput": round(len(good) / load.seconds, 2),
        "latency_ms": latency.dropna().round(2).to_dict(),
        "counts": counts | {"retried": int((table.retries > 0).sum())},
        "statuses": table.status.value_counts().sort_index().to_dict(),
        "nodes": good.node.value_counts().sort_index().to_dict(),
        "batches": good[BATCH].value_counts().sort_index().to_dict(),
        "parts_ms": part_ms.round(2).to_dict(),
        "series": by_second.reset_index().round(2).to_dict("records"),
        "latencies_ms": good.ms.tolist(),
    }


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
    folder, long = settings.serving_dir, ("latencies_ms", "series")
    write_json(folder / "loadtest.json", report)
    load = {name: part for name, part in report.items() if name not in long}
    parts = {"counts": load.pop("counts"), "nodes": load.pop("nodes"), "load": load}
    fingerprint = read_record(settings)["fingerprint"]
    write_run(folder, "serve", settings, started, fingerprint=fingerprint, **parts)
    return folder / "run.json"
