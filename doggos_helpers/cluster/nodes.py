"""Nodes: what the cluster has, and what it may grow to.

The one place for what Ray keeps private; without that, the series runs all the same.
"""

import functools
import logging
import sys
from pathlib import Path
from typing import Any

import ray

from doggos_helpers.cluster.plan import Node
from doggos_helpers.settings import Settings

NODE = "node"
UNLIMITED = {"CPU": 64.0, "GPU": 8.0}  # what to plan for where there is no limit


def live_nodes() -> tuple[Node, ...]:
    """Return the nodes that are alive, the head first."""
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
                bfloat16=computes_in_bfloat16(),
            )
        )
    return tuple(sorted(nodes, key=lambda n: (not n.is_head, n.name)))


@functools.cache
def computes_in_bfloat16() -> bool:
    """Whether this machine's CPUs compute in bfloat16: asked once, for all nodes."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:  # not Linux
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def node_name(raw: dict[str, Any]) -> str:
    """Name a node in figures and records: its address and the start of its id."""
    return f"{raw['NodeManagerAddress']}/{raw['NodeID'][:6]}"


def this_node() -> str:
    """Name the node on which this code runs, as `node_name` does. For workers."""
    node_id = ray.get_runtime_context().get_node_id()
    return f"{ray.util.get_node_ip_address()}/{node_id[:6]}"


def growth_limits(settings: Settings) -> dict[str, float] | None:
    """Return the totals ("CPU", "GPU") that the autoscaler may reach.

    They are `grow_to_cpus` and `grow_to_gpus`, else what Ray knows: Anyscale's
    autoscaler tells it, the open-source ones of Ray 2.60 don't. None: a fixed cluster.
    """
    if settings.grow_to_cpus or settings.grow_to_gpus:
        return {"CPU": settings.grow_to_cpus, "GPU": settings.grow_to_gpus}
    try:  # private, checked on 2.60.0: what Ray Train asks, and nothing public tells
        from ray._private.state import state

        limits = state.get_max_resources_from_cluster_config() or {}
    except Exception:
        message = "Ray doesn't say how far this cluster grows: set DOGGOS_GROW_TO_CPUS"
        logging.getLogger(__name__).info(message, exc_info=True)
        return None
    found = {
        k: UNLIMITED.get(k, 0.0) if v >= sys.maxsize else v for k, v in limits.items()
    }
    return found or None


def remembered_address() -> str:
    """Return the address of the last `ray start` on this machine, or nothing.

    It may have ended since: then a bare `ray.init()` hangs for two minutes.
    """
    try:  # private, checked on 2.60.0: `ray.init` alone reads it
        from ray._private.services import find_bootstrap_address

        return find_bootstrap_address(None) or ""
    except Exception:
        message = "can't tell whether a Ray runs here: set RAY_ADDRESS to join one"
        logging.getLogger(__name__).info(message, exc_info=True)
        return ""
