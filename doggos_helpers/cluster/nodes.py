"""Nodes: what the cluster has, what it may grow to, and waiting for that."""

import dataclasses
import logging
import sys
from typing import Any

from doggos_helpers.cluster.plan import Node
from doggos_helpers.settings import Settings

NODE = "node"
UNLIMITED = {"CPU": 64.0, "GPU": 8.0}  # what to plan for where there is no limit


def live_nodes() -> tuple[Node, ...]:
    """Return the nodes that are alive, the head first."""
    import ray

    nodes = []
    for raw in ray.nodes():
        if not raw["Alive"]:
            continue
        have = raw["Resources"]
        kinds = [r.partition(":")[2] for r in have if r.startswith("accelerator_type:")]
        nodes.append(
            Node(
                name=node_name(raw),
                cpus=have.get("CPU", 0.0),
                gpus=have.get("GPU", 0.0),
                memory=int(have.get("memory", 0)),
                accelerators=tuple(kinds),
                is_head="node:__internal_head__" in have,
            )
        )
    return tuple(sorted(nodes, key=lambda n: (not n.is_head, n.name)))


def free_nodes() -> tuple[Node, ...]:
    """Return the live nodes with the CPUs, GPUs and memory that nothing holds now."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    names = {node_name(raw): raw["NodeID"] for raw in ray.nodes()}
    now = [(node, free.get(names.get(node.name, ""), {})) for node in live_nodes()]
    return tuple(
        dataclasses.replace(
            node,
            cpus=have.get("CPU", 0.0),
            gpus=have.get("GPU", 0.0),
            memory=int(have.get("memory", 0)),
        )
        for node, have in now
    )


def node_name(raw: dict[str, Any]) -> str:
    """Name a node in figures and records: its address and the start of its id."""
    return f"{raw['NodeManagerAddress']}/{raw['NodeID'][:6]}"


def this_node() -> str:
    """Name the node on which this code runs, as `node_name` does. For workers."""
    import ray

    context = ray.get_runtime_context()
    return f"{ray.util.get_node_ip_address()}/{context.get_node_id()[:6]}"


def growth_limits(settings: Settings) -> dict[str, float] | None:
    """Return the totals ("CPU", "GPU") that the autoscaler may reach.

    They are `grow_to_cpus` and `grow_to_gpus`, else what Ray knows: Anyscale's
    autoscaler tells it, the open-source ones of Ray 2.60 don't. None: a fixed cluster.
    """
    import ray._private.state

    if settings.grow_to_cpus or settings.grow_to_gpus:
        return {"CPU": settings.grow_to_cpus, "GPU": settings.grow_to_gpus}
    try:
        limits = ray._private.state.state.get_max_resources_from_cluster_config()
    except Exception:  # a private call: without it the cluster counts as fixed
        logging.getLogger(__name__).debug("no autoscaler limits", exc_info=True)
        return None
    if limits is None:
        return None
    return {
        k: UNLIMITED.get(k, 0.0) if v >= sys.maxsize else float(v)
        for k, v in limits.items()
    }
