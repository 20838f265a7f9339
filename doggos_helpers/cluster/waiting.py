"""Waiting until the nodes have room for the workers of a stage."""

import ray
from ray.util import placement_group, remove_placement_group

from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.nodes import live_nodes
from doggos_helpers.cluster.plan import StagePlan, amounts, fits, leaves_room
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings

SAY_AFTER_S = 5
FIX = (
    "Ask for fewer or smaller workers (embed_workers, train_workers, replicas, *_cpus,"
    " memory_per_worker), end other work (`ray status` shows it), add nodes, or say how"
    " far the cluster grows (grow_to_cpus, grow_to_gpus) and wait_for_cluster_s"
)


def wait_for(
    stage: StagePlan, cluster: Cluster, settings: Settings, room: bool = True
) -> None:
    """Return once the nodes have room for all workers of a stage.

    On a fixed cluster that can't, it raises at once. Else a placement group of the
    workers waits, and asks an autoscaler, up to `wait_for_cluster_s`, saying for what.

    Args:
        stage: What is to start.
        cluster: Where.
        settings: For how long to wait.
        room: Whether to wait for other work; an app that is updated holds its own.

    Raises:
        ClusterError: The workers don't fit.
    """
    nodes = live_nodes()
    have, held, why = "; ".join(map(str, nodes)), fits(nodes, stage), ""
    if held < stage.workers:
        why = f"don't fit: the nodes hold {held}"
    elif not leaves_room(nodes, stage):
        why = f"leave no node with {stage.task_cpus:g} CPU to read and decode"
    if why and cluster.grow_to is None:
        raise ClusterError(f"{stage} {why}", have, FIX)
    if room or held < stage.workers:
        _wait_for_room(stage, have, settings.wait_for_cluster_s)


def _wait_for_room(stage: StagePlan, have: str, limit_s: float) -> None:
    """Hold the workers' resources for a moment, as soon as they are free."""
    worker = {"CPU": stage.cpus, "GPU": stage.gpus, "memory": stage.memory}
    bundles = [worker] * stage.workers + [{"CPU": stage.task_cpus}]
    bundles = [{k: v for k, v in bundle.items() if v} for bundle in bundles]
    group = placement_group([bundle for bundle in bundles if bundle])
    try:
        if group.wait(min(SAY_AFTER_S, limit_s)):
            return
        print(f"Waiting for room for {stage}; the nodes have {have}.", flush=True)
        if not group.wait(max(0, limit_s - SAY_AFTER_S)):
            free = ray.available_resources()
            where = f"{have}; free: {amounts(free.get('CPU', 0), free.get('GPU', 0))}"
            what = f"there was no room for {stage} within {limit_s} s"
            raise ClusterError(what, where, FIX)
    finally:
        remove_placement_group(group)
