"""What each node does while a block runs, from Ray's own metrics."""

import contextlib
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import ray

from doggos_helpers.cluster.nodes import node_name

EVERY_S = 2.5  # as often as nodes measure themselves; their object store each 10 s
ANSWER_S = 2.0
MEASURES = {  # of Ray 2.60: what they are called here, and in which unit
    "ray_node_cpu_utilization": ("CPU (%)", 1),
    "ray_node_mem_used": ("memory (GiB)", 2**30),
    "ray_object_store_memory": ("object store (GiB)", 2**30),
    "ray_node_disk_usage": ("disk (GiB)", 2**30),
    "ray_node_gpus_utilization": ("GPU (%)", 1),
    "ray_node_gram_used": ("GPU memory (GiB)", 2**10),
}


@dataclass
class Usage:
    """What was seen: one sample a node and moment, and what looking took.

    `cost` is the share of one CPU of this process; Ray's nodes measure themselves
    whether anybody looks or not.
    """

    samples: list[dict[str, Any]] = field(default_factory=list)
    cost: float = 0.0

    @property
    def frame(self) -> pd.DataFrame:
        """The samples as a table: seconds, node, and what there is of `MEASURES`."""
        return pd.DataFrame(self.samples, columns=None if self.samples else ["seconds"])


@contextlib.contextmanager
def monitor() -> Iterator[Usage]:
    """Sample all nodes while a block runs, nodes that come and go as well."""
    usage, ended = Usage(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(usage, ended), daemon=True)
    watcher.start()
    try:
        yield usage
    finally:
        ended.set()
        watcher.join(2 * ANSWER_S)


def _watch(usage: Usage, ended: threading.Event) -> None:
    started, busy = time.monotonic(), time.thread_time()
    while True:
        now = time.monotonic() - started
        for raw in (node for node in ray.nodes() if node["Alive"]):
            url = f"http://{raw['NodeManagerAddress']}:{raw['MetricsExportPort']}"
            sample = {"seconds": round(now, 1), "node": node_name(raw)}
            with contextlib.suppress(OSError):  # a node that comes or goes just now
                usage.samples.append(sample | measured(f"{url}/metrics"))
        usage.cost = (time.thread_time() - busy) / max(now, EVERY_S)
        if ended.wait(EVERY_S):
            return


def measured(url: str) -> dict[str, float]:
    """Read what a node says of itself, summed over its disks' and GPUs' lines."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(url, timeout=ANSWER_S) as reply:
        lines = reply.read().decode().splitlines(keepends=True)
    ours = "".join(line for line in lines if line.startswith(tuple(MEASURES)))
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(ours):  # some name others, longer
        if family.name in MEASURES:
            name, unit = MEASURES[family.name]
            here = [s for s in family.samples if s.labels.get("Location") != "SPILLED"]
            found[name] = sum(sample.value for sample in here) / unit
    return found
