"""Measures a running service: ``python -m doggos_helpers.loadtest``."""

import asyncio
import time
from collections.abc import Sequence

from pydantic import Field

from doggos_helpers.errors import run_command
from doggos_helpers.loadtest.client import read_test_images, record, send_load
from doggos_helpers.serve.service import url_of
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
    url = (settings.url or url_of(settings)).rstrip("/")
    images, started = read_test_images(settings), time.time()
    load = settings.model_dump(include={"requests", "concurrency", "timeout_s"})
    report = asyncio.run(send_load(url, images, **load))
    path = record(settings, started, report)
    for name, part in report.items():
        if name != "latencies_ms":
            print(f"{name}: {part}")
    print(path)
    return 1 if report["counts"]["failed"] else 0


if __name__ == "__main__":
    run_command(main)
