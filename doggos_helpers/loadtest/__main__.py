"""Measures a running service: ``python -m doggos_helpers.loadtest``."""

import asyncio
import time
from collections.abc import Sequence

from pydantic import Field, SecretStr

from doggos_helpers.errors import run_command
from doggos_helpers.loadtest.client import read_test_images, record, send_load
from doggos_helpers.serve.service import url_of
from doggos_helpers.serve.stages import NO_TOKEN
from doggos_helpers.settings import Settings


class LoadSettings(Settings):
    """Send requests to a running service, and measure."""

    url: str = Field("", description="of the service; empty: from host and port")
    requests: int = Field(200, gt=0, description="how many in all")
    concurrency: int = Field(8, gt=0, description="how many at a time")
    ramp: str = Field("", description="instead: clients of each step, such as 1,8,1")
    step_s: float = Field(10, gt=0, description="seconds of each step")
    retries: int = Field(0, ge=0, description="of a request that fails")
    timeout_s: float = Field(60, gt=0, description="of each try")
    token: SecretStr = Field(NO_TOKEN, description="to bear; better in DOGGOS_TOKEN")


def main(arguments: Sequence[str]) -> int:
    """Print the figures of a load test; return 1 if any request failed."""
    settings = LoadSettings.from_command("doggos_helpers.loadtest", list(arguments))
    images, started = read_test_images(settings), time.time()
    url = (settings.url or url_of(settings)).rstrip("/")
    names = {"requests", "concurrency", "step_s", "retries", "timeout_s"}
    load = settings.model_dump(include=names) | {
        "steps": [int(clients) for clients in settings.ramp.split(",") if clients],
        "token": settings.token.get_secret_value(),
    }
    report = asyncio.run(send_load(url, images, **load))
    path = record(settings, started, report)
    for row in report["series"] if settings.ramp else ():
        print(row)
    for name, part in report.items():
        if name not in ("latencies_ms", "series"):
            print(f"{name}: {part}")
    print(path)
    return 1 if report["counts"]["failed"] else 0


if __name__ == "__main__":
    run_command(main)
