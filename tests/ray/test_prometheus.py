"""A real Prometheus that scrapes a run: each rule of `deploy/observe` has data."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from doggos_helpers.cluster.connect import disconnect
from tools.local_cluster import LocalCluster, free_ports, local_cluster

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "observe"
DISCOVERY = "prom_metrics_service_discovery.json"
SMALL = ["--images-per-class", "4", "--epochs", "2"]
UP_S, LOADED_S = 30, 300

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not shutil.which("prometheus"),
        reason="Prometheus isn't installed (apt-get install prometheus)",
    ),
]
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]


def command(name: str, cluster: LocalCluster, *options: str) -> subprocess.Popen:
    line = [sys.executable, "-m", f"doggos_helpers.{name}", *SMALL, *options]
    return subprocess.Popen(line, cwd=ROOT, env=os.environ | cluster.environment)


@contextlib.contextmanager
def scraped(cluster: LocalCluster, folder: Path) -> Iterator[str]:
    """Run Prometheus on our configuration; only places and pauses are the test's."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "2s")
    [job] = config["scrape_configs"]
    job["file_sd_configs"][0]["files"] = [f"{cluster.temp_dir}/{DISCOVERY}"]
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "rules.yml", folder)
    at = f"127.0.0.1:{free_ports(1)[0]}"
    options = [f"--config.file={folder}/prometheus.yml", f"--web.listen-address={at}"]
    options += [f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)
    try:
        yield f"http://{at}"
    finally:
        process.terminate()
        process.wait(20)


def ask(url: str, expression: str) -> list:
    """Return what an expression gives; a wrong one raises."""
    reply = httpx.get(f"{url}/api/v1/query", params={"query": expression})
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]["result"]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory) -> Iterator[str]:
    """Embed, train, serve and ask, while Prometheus looks on."""
    disconnect()
    folder = tmp_path_factory.mktemp("observed")
    with (
        local_cluster(folder / "cluster", workers=1) as cluster,
        scraped(cluster, folder / "prometheus") as url,
    ):
        for stage in ("embed", "train"):
            assert command(stage, cluster).wait(LOADED_S) == 0
        port = ("--port", str(free_ports(1)[0]))
        serving = command("serve", cluster, *port)
        try:
            deadline = time.monotonic() + LOADED_S
            with_port = f"http://127.0.0.1:{port[1]}/healthz"
            while time.monotonic() < deadline and serving.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(with_port).is_success:
                        break
                time.sleep(1)
            for _ in range(3):  # a rate needs several looks
                load = command("loadtest", cluster, *port, "--requests", "60")
                assert load.wait(LOADED_S) == 0
            time.sleep(UP_S)
            yield url
        finally:
            serving.send_signal(signal.SIGINT)
            serving.wait(60)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["record"])
def test_each_rule_has_data(prometheus: str, rule: dict) -> None:
    assert ask(prometheus, f"max_over_time(({rule['expr']})[15m:5s])"), "the expression"
    found = ask(prometheus, f"max_over_time({rule['record']}[15m])")
    assert found, "what Prometheus recorded"
    assert all(float(series["value"][1]) >= 0 for series in found)


def test_every_node_is_scraped(prometheus: str) -> None:
    up = ask(prometheus, 'max_over_time(up{job="ray"}[15m])')
    assert len(up) >= 2 and all(series["value"][1] == "1" for series in up)
