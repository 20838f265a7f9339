"""How fast the service answers, beside what limits it and what most people write.

    python -m benchmarks.serve sample|vit [ROUNDS]
    python -m benchmarks.serve trace

One run on one machine, the same JPEGs, CLIP, index and dtype: the sample's own CLIP, or
a ViT-B/32 of random weights.

(a) decoding and forward passes in a loop, with the best of some threads and batches,
without HTTP: the limit; (b) FastAPI and uvicorn, one process, one image at a time, with
the best of some threads; (c) the usual pattern on Ray Serve: one replica that fetches,
decodes and embeds in the handler, one image at a time; (d) ours, as Ray starts it;
(e) ours with Ray Serve's throughput options; (f) with HAProxy in front as well.

They alternate. Each of `CLIENTS` keeps one request under way for `SECONDS`; then images
by their URL, from a host that takes 100 ms; then requests at fixed rates, whose latency
counts from when each was due. CPU and memory are those of the server's processes, the
client's own CPU is told beside them. Clients do as the docs ask: whoever gets a 503
waits, longer each time. Each figure is the median of the rounds.

`trace` asks where the time of a lone request goes, as each answer tells in its header
Server-Timing, and draws it: docs/images/serve_trace.svg.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import psutil

from doggos_helpers.data.images import decode
from doggos_helpers.loadtest.client import Load, read_test_images, send_load, summarise
from doggos_helpers.serve.stages import ServeSettings
from tools.local_cluster import free_ports

RESULTS = Path(__file__).parent / "results"
CLIENTS, SECONDS, WARM_S = (1, 8, 32, 128), 8.0, 2.0
RATES = (0.5, 0.8, 1.2)  # of the throughput of (d) with 32 clients
DELAY_S, RETRIES = 0.1, 8  # of the slow host; docs/guides/production.md
CORES = os.cpu_count() or 1
FAST = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
HAPROXY = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}
HAPROXY["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "1"
SERVERS: dict[str, tuple[str, dict[str, str]]] = {
    "b uvicorn": ("plain", {}),
    "c usual": ("usual", {}),
    "d ours": ("ours", {}),
    "e ours, throughput options": ("ours", FAST),
    "f ours, HAProxy": ("ours", HAPROXY),
}


# --- what is compared: each runs in a process of its own -------------------------


def pieces(settings: ServeSettings, threads: int) -> Callable[[bytes, int], dict]:
    """Make what (b) and (c) do for an image: decode, embed, classify, search."""
    from upath import UPath

    from doggos_helpers.clip.encoder import ClipEncoder
    from doggos_helpers.search.index import open_index
    from doggos_helpers.train.classifier import load, predict_probabilities

    dtype: Any = settings.dtype
    encoder = ClipEncoder(settings.model, dtype=dtype, threads=threads)
    index, (model, classes) = open_index(settings), load(UPath(settings.champion))

    def answer(data: bytes, k: int = 4) -> dict:
        pixels = decode(data, encoder.preprocessing)
        vector = encoder.encode_images(pixels[None])[0]
        shares = predict_probabilities(model, vector[None])[0]
        best = np.argsort(-shares)[:5]
        breeds = [{"breed": classes[i], "probability": float(shares[i])} for i in best]
        similar = [vars(match) for match in index.top_k(vector, k)]
        return {"breeds": breeds, "similar": similar, "node": "here"}

    return answer


def plain(settings: ServeSettings, threads: int) -> None:
    """Run (b) until it is ended."""
    import uvicorn
    from fastapi import FastAPI, UploadFile
    from pydantic import BaseModel

    app, answer = FastAPI(), pieces(settings, threads)

    class Query(BaseModel):
        url: str

    @app.post("/v1/predict/upload")
    async def upload(image: UploadFile) -> dict:
        return await asyncio.to_thread(answer, await image.read())

    @app.post("/predict/")
    async def predict(query: Query) -> dict:
        async with httpx.AsyncClient(trust_env=False) as client:
            data = (await client.get(query.url)).content
        return await asyncio.to_thread(answer, data)

    uvicorn.run(app, port=settings.port, log_level="warning")


def usual(settings: ServeSettings, threads: int) -> None:
    """Run (c) until it is ended."""
    import ray
    from fastapi import FastAPI, UploadFile
    from pydantic import BaseModel
    from ray import serve

    app = FastAPI()

    class Query(BaseModel):
        url: str

    @serve.deployment(ray_actor_options={"num_cpus": 1})
    @serve.ingress(app)
    class Usual:
        def __init__(self) -> None:
            self.answer = pieces(settings, threads)

        @app.post("/v1/predict/upload")
        async def upload(self, image: UploadFile) -> dict:
            return self.answer(await image.read())

        @app.post("/predict/")
        async def predict(self, query: Query) -> dict:
            return self.answer(httpx.get(query.url, trust_env=False).content)

    ray.init(address="local", log_to_driver=False)
    serve.start(http_options={"port": settings.port})
    serve.run(Usual.bind(), route_prefix="/")
    time.sleep(10**6)


def ours(settings: ServeSettings, threads: int) -> None:
    """Run (d), (e) or (f) until it is ended."""
    from doggos_helpers.cluster.connect import connected
    from doggos_helpers.serve.service import start

    with connected(settings) as cluster:
        start(settings, cluster)
        time.sleep(10**6)


def slow_host(port: int, folder: str) -> None:
    """Hand out images, each after `DELAY_S`, until it is ended."""
    from aiohttp import web

    files = [file.read_bytes() for file in sorted(Path(folder).iterdir())]

    async def image(request: web.Request) -> web.Response:
        await asyncio.sleep(DELAY_S)
        body = files[int(request.match_info["number"]) % len(files)]
        return web.Response(body=body, content_type="image/jpeg")

    app = web.Application()
    app.router.add_get("/{number}", image)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


# --- the limit ---------------------------------------------------------------------


def loop(settings: ServeSettings, images: Sequence[bytes]) -> dict[str, Any]:
    """Run (a): images a second, of the best way of some."""
    from doggos_helpers.clip.encoder import ClipEncoder

    tried = {}
    for threads, readers, size in ((1, 1, 8), (CORES, 1, 32), (CORES, CORES, 32)):
        dtype: Any = settings.dtype
        encoder = ClipEncoder(settings.model, dtype=dtype, threads=threads)

        def read(turn: int, encoder: Any = encoder) -> np.ndarray:
            return decode(images[turn % len(images)], encoder.preprocessing)

        with ThreadPoolExecutor(readers) as pool:
            count, started = 0, 0.0
            coming = [pool.submit(read, turn) for turn in range(size)]
            while not started or time.perf_counter() - started < SECONDS / 2:
                pixels = np.stack([future.result() for future in coming])
                coming = [pool.submit(read, count + turn) for turn in range(size)]
                encoder.encode_images(pixels)
                started = started or time.perf_counter()  # the first warms up
                count += size
            seconds = time.perf_counter() - started
            tried[f"{threads} threads, {readers} readers, batch {size}"] = round(
                (count - size) / seconds, 2
            )
    best = max(tried, key=lambda way: tried[way])
    return {"throughput": tried[best], "way": best, "tried": tried}


def alone(settings: ServeSettings, images: Sequence[bytes]) -> float:
    """Return the ms that decoding and embedding one image take, nothing else."""
    from doggos_helpers.clip.encoder import ClipEncoder

    best = float("inf")
    for threads in (1, CORES):
        dtype: Any = settings.dtype
        encoder, took = ClipEncoder(settings.model, dtype=dtype, threads=threads), []
        for turn in range(60):
            started = time.perf_counter()
            encoder.encode_images(decode(images[turn % 8], encoder.preprocessing)[None])
            took.append((time.perf_counter() - started) * 1000)
        best = min(best, statistics.median(took[20:]))
    return round(best, 2)


# --- measuring -----------------------------------------------------------------------


async def fixed_rate(load: Load, rate: float, requests: int) -> None:
    """Send so many requests a second, whether they are answered or not.

    Latencies count from when each was due.
    """
    begun, sent = time.perf_counter(), []
    for turn in range(requests):
        due = begun + turn / rate
        await asyncio.sleep(due - time.perf_counter())
        sent.append(asyncio.create_task(load.send(turn, due, 0)))
    await asyncio.gather(*sent)


def send_at(
    url: str, images: Sequence[bytes], rate: float, requests: int, retries: int = 0
) -> dict[str, Any]:
    """Upload images at a fixed rate; return what `send_load` does."""

    async def run() -> Load:
        timeout = aiohttp.ClientTimeout(60)
        load = Load(f"{url}/v1/predict/upload", images, retries, timeout=timeout)
        async with load.session:
            await fixed_rate(load, rate, requests)
        return load

    return summarise(asyncio.run(run()))


class ByUrl(Load):
    """A load of URLs instead of uploads."""

    host = ""

    async def try_once(self, turn: int) -> dict[str, Any]:
        """Ask for the breed of an image of the slow host."""
        body = {"url": f"{self.host}/{turn}"}
        try:
            async with self.session.post(self.url, json=body) as reply:
                await reply.read()
                return {"status": str(reply.status)}
        except Exception as error:
            return {"status": type(error).__name__}


def usage(process: psutil.Process) -> tuple[float, float]:
    """Return CPU seconds and MiB (proportional) of a process and its children."""
    cpu = memory = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = one.cpu_times()
            cpu += times.user + times.system
            memory += one.memory_full_info().pss / 2**20
    return cpu, memory


def measure(
    kind: type[Load],
    url: str,
    images: Sequence[bytes],
    process: psutil.Process,
    clients: int = 0,
    rate: float = 0,
) -> dict[str, Any]:
    """Run a load, and tell what it took."""

    async def run() -> tuple[Load, list[float]]:
        load = kind(url, images, RETRIES, timeout=aiohttp.ClientTimeout(60))
        async with load.session:
            if clients:
                await load.closed(clients, range(10**9), WARM_S)
            load.replies.clear()
            load.started = time.perf_counter()
            before = [*usage(process), sum(os.times()[:2])]
            if clients:
                await load.closed(clients, range(10**9), SECONDS)
            else:
                await fixed_rate(load, rate, int(rate * SECONDS))
        return load, before

    load, before = asyncio.run(run())
    after = [*usage(process), sum(os.times()[:2])]
    report, count = summarise(load), len(load.replies)
    return {
        "replies/s": report["throughput"],
        **report["latency_ms"],
        "errors": report["counts"]["failed"],
        "server cpu ms": round((after[0] - before[0]) * 1000 / count, 2),
        "client cpu ms": round((after[2] - before[2]) * 1000 / count, 2),
        "memory MiB": round(after[1]),
    }


@contextlib.contextmanager
def running(*arguments: str, **variables: str) -> Iterator[psutil.Process]:
    """Run a part of this module in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serve", *arguments]
    started = subprocess.Popen(command, env=os.environ | variables)
    process = psutil.Process(started.pid)
    try:
        yield process
    finally:
        family = [process, *process.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.terminate()
        for one in psutil.wait_procs(family, 10)[1]:
            with contextlib.suppress(psutil.Error):
                one.kill()


def wait_for(url: str) -> None:
    """Return once a server answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.3)
    raise TimeoutError(url)


# --- the whole of it ---------------------------------------------------------------


def prepare(which: str, folder: Path) -> ServeSettings:
    """Embed some of the sample with the model, and save a classifier for it."""
    import torch

    from doggos_helpers.clip.files import model_fingerprint
    from doggos_helpers.cluster.connect import connected
    from doggos_helpers.embed.stage import check, embed
    from doggos_helpers.embed.table import read_embeddings
    from doggos_helpers.train import classifier

    if which == "vit":
        command = [sys.executable, "-m", "tools.random_clip", str(folder / "vit")]
        subprocess.run(command, check=True)
    settings = ServeSettings(
        model=str(folder / "vit") if which == "vit" else "sample",
        storage=str(folder / "storage"),
        images_per_class=4,
        champion=str(folder / "champion"),
        address="local",
        allow_private_urls=True,
    )
    with connected(settings) as cluster:
        dtype = cluster.plan.serve.dtype
        embed(check(settings), cluster)
    table = read_embeddings(settings)
    names = sorted(set(table.classes.tolist()))
    torch.manual_seed(0)
    model = classifier.Classifier(table.vectors.shape[1], 256, len(names))
    about = {"encoder": model_fingerprint(settings.model), "val_loss": 1.0, "epoch": 1}
    classifier.save(model, Path(settings.champion), names, **about)
    return settings.model_copy(update={"dtype": dtype})


def serve_and_measure(
    settings: ServeSettings, name: str, threads: int, host: str, limit: float
) -> dict[str, Any]:
    """Start one of the servers, and put it under each load."""
    port, images = free_ports(1)[0], read_test_images(settings)
    kind, variables = SERVERS[name]
    given = settings.model_copy(update={"port": port}).model_dump_json()
    url, figures = f"http://127.0.0.1:{port}", {}
    with running(kind, given, str(threads), **variables) as process:
        wait_for(f"{url}/openapi.json")
        upload, predict = f"{url}/v1/predict/upload", f"{url}/predict/"
        for clients in CLIENTS:
            one = measure(Load, upload, images, process, clients=clients)
            figures[f"{clients} clients"] = one
        ByUrl.host = host
        one = measure(ByUrl, predict, images, process, clients=32)
        figures["32 clients, slow host"] = one
        for share in RATES if limit else ():
            one = measure(Load, upload, images, process, rate=share * limit)
            figures[f"{share * limit:.0f} a second"] = one
    return figures


def median_of(rounds: Sequence[Any]) -> Any:
    """Take the median of each figure of several rounds of the same shape."""
    first = rounds[0]
    if isinstance(first, dict):
        return {k: median_of([r[k] for r in rounds if k in r]) for k in first}
    return round(statistics.median(rounds), 2) if first is not None else None


def compare(which: str, rounds: int) -> dict[str, Any]:
    """Run all of it, print each figure as it comes, and return the medians."""
    seen: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        settings = prepare(which, Path(name))
        images, (port,) = read_test_images(settings), free_ports(1)
        pictures = Path(name) / "pictures"
        pictures.mkdir()
        for number, data in enumerate(images):
            (pictures / f"{number:03}").write_bytes(data)
        host = f"http://127.0.0.1:{port}"
        with running("slow_host", str(port), str(pictures)):
            wait_for(f"{host}/0")
            limit, best = 0.0, fastest(settings, host)
            for _ in range(rounds):
                seen.setdefault("a loop", []).append(loop(settings, images))
                seen.setdefault("alone", []).append(alone(settings, images))
                for server in SERVERS:
                    figures = serve_and_measure(settings, server, best, host, limit)
                    seen.setdefault(server, []).append(figures)
                    print(server, json.dumps(figures, indent=1), flush=True)
                    if server.startswith("d "):
                        limit = limit or figures["32 clients"]["replies/s"]
        ways = {"way": seen["a loop"][0]["way"], "dtype": settings.dtype, "b": best}
    medians = {
        "a loop": statistics.median(one["throughput"] for one in seen["a loop"]),
        "alone": statistics.median(seen["alone"]),
        **{server: median_of(seen[server]) for server in SERVERS},
    }
    return {"model": which, "rounds": rounds, "ways": ways, "figures": medians}


def fastest(settings: ServeSettings, host: str) -> int:
    """Find the threads with which (b) and (c) answer most."""
    found = {}
    for threads in sorted({1, CORES}):
        port = free_ports(1)[0]
        given = settings.model_copy(update={"port": port}).model_dump_json()
        with running("plain", given, str(threads)) as process:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/openapi.json")
            images = read_test_images(settings)
            one = measure(Load, f"{url}/v1/predict/upload", images, process, clients=8)
            found[threads] = one["replies/s"]
    print("(b) by threads:", found, flush=True)
    return max(found, key=lambda threads: found[threads])


def table(report: dict[str, Any]) -> str:
    """Write the medians as a table in Markdown."""
    lines = [
        "| | load | replies/s | p50 | p95 | p99 | errors | server CPU | client CPU"
    ]
    lines[0] += " | memory |"
    lines.append("|" + "---|" * 10)
    for server, loads in report["figures"].items():
        if not isinstance(loads, dict):
            lines.append(f"| {server} | | {loads:g} | | | | | | | |")
            continue
        for load, one in loads.items():
            names = ("replies/s", "p50", "p95", "p99", "errors", "server cpu ms")
            cells = [one.get(n, "") for n in (*names, "client cpu ms", "memory MiB")]
            lines.append(f"| {server} | {load} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def trace() -> None:
    """Ask each of ours where the time of a lone request goes, and draw it."""
    from matplotlib.figure import Figure

    rows = {}
    with tempfile.TemporaryDirectory() as name:
        settings = prepare("sample", Path(name))
        images = read_test_images(settings)
        for server in [server for server in SERVERS if "ours" in server]:
            port = free_ports(1)[0]
            given = settings.model_copy(update={"port": port}).model_dump_json()
            kind, variables = SERVERS[server]
            with running(kind, given, "1", **variables):
                url = f"http://127.0.0.1:{port}"
                wait_for(f"{url}/readyz")
                loads = [
                    asyncio.run(send_load(url, images, requests=n, concurrency=1))
                    for n in (50, 200)
                ]
            parts, mean = loads[-1]["parts_ms"], loads[-1]["latency_ms"]["mean"]
            total = parts.pop("total")
            whole = {"HTTP and proxy": mean - total, "API": total - sum(parts.values())}
            rows[server] = {k: round(v, 2) for k, v in (whole | parts).items()}
            print(server, rows[server], "mean", mean, flush=True)
    figure = Figure(figsize=(8, 1 + 0.6 * len(rows)), layout="constrained")
    axis, left = figure.subplots(), dict.fromkeys(rows, 0.0)
    for part in next(iter(rows.values())):
        widths = [row[part] for row in rows.values()]
        axis.barh(list(rows), widths, left=list(left.values()), label=part)
        left = {k: left[k] + w for k, w in zip(rows, widths, strict=True)}
    axis.invert_yaxis()
    axis.set_xlabel("ms of a lone request")
    axis.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.4, 1))
    figure.savefig(RESULTS.parents[1] / "docs" / "images" / "serve_trace.svg")
    (RESULTS / "serve_trace.json").write_text(json.dumps(rows, indent=2) + "\n")


def main(arguments: list[str]) -> None:
    """Run a part of it in this process, or all of it."""
    if arguments[0] == "slow_host":
        return slow_host(int(arguments[1]), arguments[2])
    if arguments[0] in ("plain", "usual", "ours"):
        part = {"plain": plain, "usual": usual, "ours": ours}[arguments[0]]
        part(ServeSettings.model_validate_json(arguments[1]), int(arguments[2]))
        return
    if arguments[0] == "trace":
        return trace()
    report = compare(arguments[0], int(arguments[1]) if len(arguments) > 1 else 1)
    file = RESULTS / f"serve_{arguments[0]}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


if __name__ == "__main__":
    main(sys.argv[1:])
