"""Waiting until the nodes have room for the workers of a stage."""

import time

import ray
from ray.util import placement_group, remove_placement_group

from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.nodes import live_nodes
from doggos_helpers.cluster.plan import StagePlan, amounts, fits, leaves_room
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings

SAY_AFTER_S = 5
SMALLER = (
    "Ask for fewer or smaller workers (embed_workers, train_workers, replicas,"
    " *_cpus, gpus_per_worker, memory_per_worker), add nodes, or, if it grows by"
    " itself, say how far (grow_to_cpus, grow_to_gpus)"
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
    need = f"{stage.workers} workers of {amounts(stage.cpus, stage.gpus, stage.memory)}"
    each = [amounts(n.cpus, n.gpus, n.memory if stage.memory else 0) for n in nodes]
    have = "; ".join(f"{n.name}: {one}" for n, one in zip(nodes, each, strict=True))
    held = fits(nodes, stage)
    if cluster.grow_to is None:
        if held < stage.workers:
            raise ClusterError(
                f"{need} don't fit: the nodes hold {held}", have, SMALLER
            )
        if not leaves_room(nodes, stage):
            task = f"{stage.task_cpus:g} CPU to read and decode"
            raise ClusterError(f"{need} leave no node with {task}", have, SMALLER)
    if room or held < stage.workers:
        _wait_for_room(stage, f"room for {need}", have, settings.wait_for_cluster_s)


def _wait_for_room(stage: StagePlan, what: str, have: str, limit_s: float) -> None:
    """Hold the workers' resources for a moment, as soon as they are free."""
    worker = {"CPU": stage.cpus, "GPU": stage.gpus, "memory": stage.memory}
    bundles = [worker] * stage.workers + [{"CPU": stage.task_cpus}]
    bundles = [{k: v for k, v in bundle.items() if v} for bundle in bundles]
    group = placement_group([bundle for bundle in bundles if bundle])
    try:
        started = time.monotonic()
        if group.wait(min(SAY_AFTER_S, limit_s)):
            return
        print(f"Waiting for {what}; the nodes have {have}.", flush=True)
        if not group.wait(max(0, limit_s - (time.monotonic() - started))):
            free = ray.available_resources()
            free_now = amounts(free.get("CPU", 0), free.get("GPU", 0))
            raise ClusterError(
                f"there was no {what} within {limit_s} s",
                f"{have}; free now, together: {free_now}",
                "End other work (an app of notebook 06, another notebook; `ray status`"
                " shows it), look at the log of the autoscaler, or raise"
                " wait_for_cluster_s",
            )
    finally:
        remove_placement_group(group)
