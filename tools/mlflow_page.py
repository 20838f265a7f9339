"""Takes a picture of MLflow's page of a run, with the Chromium that is installed.

usage: python -m tools.mlflow_page [OUT [PAGE]]

The run is the newest of those that the tracking server or database of the settings
(DOGGOS_TRACKING_URI) knows for the champion's experiment. OUT is
docs/images/mlflow.png by default; PAGE is a tab of the run: model-metrics,
system-metrics, artifacts; empty: its overview.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import TimeoutError

from doggos_helpers.settings import Settings
from doggos_helpers.train.registry import champion
from doggos_helpers.train.tracking import open_tracking
from tools.local_cluster import free_ports
from tools.screenshots import browser

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "mlflow.png"
START_S, SETTLE_MS, SIZE = 120, 3000, {"width": 1250, "height": 900}
CLIP = {"x": 200, "y": 48, "width": 1040, "height": 842}  # without the menu
DRAWN = "document.querySelectorAll('.js-plotly-plot .trace').length > 3"


@contextlib.contextmanager
def server(store: str) -> Iterator[str]:
    """Run MLflow's server on a database for a block; a server's address stays."""
    if store.startswith("http"):
        yield store
        return
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}"]
    started = subprocess.Popen(
        [*command, "--backend-store-uri", store, "--workers=1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            with (
                contextlib.suppress(OSError),
                urlopen(f"http://127.0.0.1:{port}/health"),
            ):
                break
            assert time.monotonic() < deadline, "MLflow's server doesn't start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        started.wait()


def main(arguments: list[str]) -> None:
    """Start what is needed, and take the picture."""
    out, page = (*arguments, *(str(OUT), "model-metrics")[len(arguments) :])[:2]
    settings = Settings()
    run = open_tracking(settings.tracking).get_run(champion(settings).run_id).info
    with server(settings.tracking) as address, browser() as chromium:
        url = f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}/{page}"
        tab = chromium.new_page(viewport=SIZE)
        tab.set_default_timeout(START_S * 1000)
        tab.goto(url)
        with contextlib.suppress(TimeoutError):  # it is in the way, where it is open
            tab.get_by_role("button", name="Close").first.click(timeout=5_000)
        if "metrics" in page:
            tab.wait_for_function(DRAWN)
        tab.wait_for_timeout(SETTLE_MS)  # it asks for news, and is never idle
        tab.screenshot(path=out, clip=CLIP)
    print(f"{out}: {url}")


if __name__ == "__main__":
    main(sys.argv[1:])
