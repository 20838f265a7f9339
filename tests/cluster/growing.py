"""What `test_growth` does on its cluster, in a process of its own.

A process settles Ray's token mode once, and other tests use tokens.
"""

import sys

import ray
from ray.core.generated import autoscaler_pb2
from ray.experimental import internal_kv

from doggos_helpers.cluster.connect import connect, disconnect
from doggos_helpers.cluster.nodes import live_nodes
from doggos_helpers.cluster.plan import StagePlan, fits
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings

WORKER = {"CPU": 4, "GPU": 2}
MOST = 2


def tell_limits() -> None:
    """Write the key in which Ray looks for limits.

    Anyscale's autoscaler writes it; the open-source one of Ray 2.60 does not.
    """
    group = autoscaler_pb2.NodeGroupConfig(
        resources=WORKER, max_count=MOST, name="worker"
    )
    config = autoscaler_pb2.ClusterConfig(node_group_configs=[group])
    internal_kv._internal_kv_put(
        ray._raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY,
        config.SerializeToString(),
        namespace=ray._raylet.GCS_AUTOSCALER_STATE_NAMESPACE,
    )


def refused(message: str, call, *arguments) -> None:
    """Assert that a call ends with a `ClusterError` of this message."""
    try:
        call(*arguments)
    except ClusterError as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"not refused: {message}")


def main(address: str, storage: str) -> None:
    """Plan for what may come, wait for it, and refuse what can't come."""
    settings = Settings(address=address, storage=storage, wait_for_cluster_s=240)
    # No limits are known: it counts as fixed.
    refused("no node has a whole CPU", connect, settings)
    said = settings.model_copy(update={"grow_to_cpus": 8, "grow_to_gpus": 4})
    assert connect(said).plan.embed.workers == 4
    tell_limits()
    cluster = connect(settings)
    assert sum(n.gpus for n in cluster.nodes) == 0
    assert cluster.grow_to == {"CPU": 8, "GPU": 4}, cluster.grow_to
    assert (cluster.plan.embed.workers, cluster.plan.device) == (4, "cuda")
    wait_for(cluster.plan.embed, cluster, settings)
    assert fits(live_nodes(), cluster.plan.embed) == 4
    too_much = StagePlan(9, 9, 1, 1, 1, 1, "float16")
    hurried = settings.model_copy(update={"wait_for_cluster_s": 2})
    refused("no room for 9 workers", wait_for, too_much, cluster, hurried)
    disconnect()
    print("grown")


if __name__ == "__main__":
    main(*sys.argv[1:])
