"""Measures a running service: ``python -m doggos_helpers.loadtest``."""

import asyncio
import time
from collections.abc import Sequence

from pydantic import Field

from doggos_helpers.errors import run_command
from doggos_helpers.loadtest.client import read_test_images, record, send_load
from doggos_helpers.settings import Settings


class LoadSettings(Settings):
    """Send requests to a running service, and measure."""

    url: str = Field("", description="of the service; empty: from host and port")
    requests: int = Field(200, gt=0, description="how many in all")
    concurrency: int = Field(8, gt=0, description="how many at a time")
    timeout_s: float = Field(60, gt=0, description="of each request")


def main(arguments: Sequence[str]) -> int:
    """Print the figures of a load test; return 1 if any request failed."""
    settings = LoadSettings.from_command("doggos_helpers.loadtest", list(arguments))
    url = settings.url or f"http://{settings.host}:{settings.port}"
    images = read_test_images(settings)
    started = time.time()
    load = settings.model_dump(include={"requests", "concurrency", "timeout_s"})
    report = asyncio.run(send_load(url, images, **load))
    path = record(settings, started, report)
    counts = report["counts"]
    print(
        f"{counts['succeeded']} of {counts['requests']} requests succeeded in"
        f" {report['seconds']:g} s: {report['throughput']:g} a second,"
        f" {settings.concurrency} at a time"
    )
    print("ms: " + ", ".join(f"{k} {v:g}" for k, v in report["latency_ms"].items()))
    print("statuses: " + ", ".join(f"{k}: {v}" for k, v in report["statuses"].items()))
    print("nodes: " + ", ".join(f"{k}: {v}" for k, v in report["nodes"].items()))
    print(path)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    run_command(main)
