"""Waiting until the nodes have room for the workers of a stage."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from doggos_helpers.cluster.nodes import free_nodes, live_nodes
from doggos_helpers.cluster.plan import Node, StagePlan, amounts, fits, leaves_room
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from doggos_helpers.cluster.connect import Cluster


SAY_AFTER_S = 5


def wait_for(
    stage: StagePlan, cluster: "Cluster", settings: Settings, room: bool = True
) -> None:
    """Return once the nodes hold all workers of a stage.

    On a fixed cluster that can't, it raises at once. On one that may grow, it asks
    for the growth and waits up to `wait_for_cluster_s`, saying for what. So it does
    where other work holds what the workers need.

    Args:
        stage: What is to start.
        cluster: Where.
        settings: For how long to wait.
        room: Whether to wait for other work; an app that is updated holds its own.

    Raises:
        ClusterError: The workers don't fit.
    """
    nodes, need = live_nodes(), _need(stage)
    held = fits(nodes, stage)
    if held < stage.workers:
        if cluster.grow_to is None:
            raise ClusterError(
                f"{need} don't fit: the nodes hold {held}", _say(nodes, stage), _SMALLER
            )
        _wait_for_growth(stage, need, settings.wait_for_cluster_s)
    plan = cluster.plan
    if stage is plan.embed and not leaves_room(live_nodes(), stage, plan.task_cpus):
        raise ClusterError(
            f"{need} leave no node with {plan.task_cpus:g} CPU to read and decode",
            _say(live_nodes(), stage),
            _SMALLER,
        )
    if room:
        task_cpus = plan.task_cpus if stage is plan.embed else 0.0
        _wait_for_room(stage, task_cpus, settings.wait_for_cluster_s)


_SMALLER = (
    "Ask for fewer or smaller workers (embed_workers, train_workers, replicas,"
    " *_cpus, gpus_per_worker, memory_per_worker), add nodes, or, if it grows by"
    " itself, say how far (grow_to_cpus, grow_to_gpus)"
)


def _need(stage: StagePlan) -> str:
    each = amounts(stage.cpus, stage.gpus, stage.memory)
    return f"{stage.workers} workers of {each}"


def _say(nodes: Sequence[Node], stage: StagePlan) -> str:
    """Say what the nodes have; of memory only where the stage asks for some."""
    has = [amounts(n.cpus, n.gpus, n.memory if stage.memory else 0) for n in nodes]
    return "; ".join(f"{n.name}: {one}" for n, one in zip(nodes, has, strict=True))


def _wait_for_room(stage: StagePlan, task_cpus: float, limit_s: int) -> None:
    """Wait while other work holds the CPUs or GPUs of a stage that would fit."""
    started, told = time.monotonic(), 0.0
    while True:
        free = free_nodes()
        if fits(free, stage) >= stage.workers and leaves_room(free, stage, task_cpus):
            return
        waited = time.monotonic() - started
        if waited > limit_s:
            raise ClusterError(
                f"other work left no room for {_need(stage)} within {limit_s} s",
                f"free are {_say(free, stage)}",
                "End it (an app of notebook 06, another notebook; `ray status` shows"
                " it), or raise wait_for_cluster_s",
            )
        if waited > told + SAY_AFTER_S:  # what has just ended is still counted
            told = waited
            there = _say(free, stage)
            print(f"Waiting for room for {_need(stage)}; free are {there}.")
        time.sleep(0.5)


def _wait_for_growth(stage: StagePlan, need: str, limit_s: int) -> None:
    from ray.autoscaler.sdk import request_resources

    asked = {"CPU": stage.cpus, "GPU": stage.gpus, "memory": stage.memory}
    bundle = {name: amount for name, amount in asked.items() if amount}
    request_resources(bundles=[bundle] * stage.workers)
    deadline = time.monotonic() + limit_s
    try:
        while (held := fits(live_nodes(), stage)) < stage.workers:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the cluster did not grow to {need} within {limit_s} s",
                    f"the nodes hold {held}",
                    "Raise wait_for_cluster_s, or look at the autoscaler's log",
                )
            print(f"Waiting for the cluster to grow to {need}; it holds {held}.")
            time.sleep(min(5.0, max(0.0, deadline - time.monotonic()) + 0.1))
    finally:
        request_resources(bundles=[])
