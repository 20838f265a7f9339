"""Takes a picture of MLflow's page of a run, with Debian's Chromium.

usage: python -m tools.mlflow_page [OUT [PAGE]]

The run is the newest of those that the tracking server or database of the settings
(DOGGOS_TRACKING_URI) knows for the champion's experiment. OUT is
docs/images/mlflow.png by default; PAGE is a tab of the run: model-metrics,
system-metrics, artifacts; empty: its overview.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from doggos_helpers.settings import Settings
from doggos_helpers.train.registry import champion
from doggos_helpers.train.tracking import open_tracking
from tools.local_cluster import free_ports

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "mlflow.png"
START_S, RENDER_MS, SIZE = 120, 30_000, "1900,1500"
# Without these Chromium calls home as soon as it starts.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--hide-scrollbars"),
)


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
    with server(settings.tracking) as address, tempfile.TemporaryDirectory() as profile:
        url = f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}/{page}"
        subprocess.run(
            [
                *("chromium", *FLAGS, f"--user-data-dir={profile}"),
                *(f"--window-size={SIZE}", f"--virtual-time-budget={RENDER_MS}"),
                *(f"--screenshot={out}", url),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    print(f"{out}: {url}")


if __name__ == "__main__":
    main(sys.argv[1:])
