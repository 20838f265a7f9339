"""What `test_growing` runs on its host: a cluster that grows from nothing, and shrinks.

Ray's own fake provider starts real Ray nodes, which say that they have GPUs. It calls
`ray stop` first, which ends every Ray of a machine: hence the host.
"""

import sys
import time

import ray
from ray.cluster_utils import AutoscalingCluster

from doggos_helpers.cluster.connect import connect, disconnect
from doggos_helpers.cluster.nodes import live_nodes
from doggos_helpers.cluster.plan import fits
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.settings import Settings

WORKER = {"CPU": 4, "GPU": 2, "object_store_memory": 80 * 2**20}
MOST, IDLE_MINUTES, SHRINK_S = 2, 0.2, 120


def main(storage: str) -> None:
    """Grow to what the plan asks for, and down again when nothing asks."""
    kind = {"resources": WORKER, "node_config": {}, "min_workers": 0}
    cluster = AutoscalingCluster(
        head_resources={"CPU": 0, "object_store_memory": 80 * 2**20},
        worker_node_types={"gpu": kind | {"max_workers": MOST}},
        max_workers=MOST,
        idle_timeout_minutes=IDLE_MINUTES,
        autoscaler_v2=True,
    )
    cluster.start()
    settings = Settings(
        address="auto",
        storage=storage,
        wait_for_cluster_s=240,
        grow_to_cpus=WORKER["CPU"] * MOST,
        grow_to_gpus=WORKER["GPU"] * MOST,
    )
    joined = connect(settings)
    assert [node.cpus for node in joined.nodes] == [0]
    assert (joined.plan.embed.workers, joined.plan.device) == (4, "cuda")
    started = time.monotonic()
    wait_for(joined.plan.embed, joined, settings)
    assert fits(live_nodes(), joined.plan.embed) == 4
    print(f"grown in {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    while len(live_nodes()) > 1:
        assert time.monotonic() - started < SHRINK_S, ray.nodes()
        time.sleep(1)
    print(f"shrunk in {time.monotonic() - started:.0f} s", flush=True)
    disconnect()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
