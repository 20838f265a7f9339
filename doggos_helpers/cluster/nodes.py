"""Nodes: what the cluster has, and what it may grow to.

The one place for what Ray keeps private; without that, the series runs all the same.
"""

import contextlib
import functools
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from doggos_helpers.cluster.plan import Node
from doggos_helpers.settings import Settings

NODE = "node"
RAY = (sys.executable, "-m", "ray.scripts.scripts")  # the command `ray`
ANSWER_S = 15  # importing Ray takes seconds
UNLIMITED = {"CPU": 64, "GPU": 8}  # what to plan for where there is no limit


def live_nodes() -> tuple[Node, ...]:
    """Return the nodes that are alive, the head first."""
    nodes = [_node(raw) for raw in ray.nodes() if raw["Alive"]]
    return tuple(sorted(nodes, key=lambda node: (not node.is_head, node.name)))


def _node(raw: dict[str, Any]) -> Node:
    have = raw["Resources"]
    kinds = [r.partition(":")[2] for r in have if r.startswith("accelerator_type:")]
    return Node(
        name=node_name(raw),
        cpus=have.get("CPU", 0.0),
        gpus=have.get("GPU", 0.0),
        memory=int(have.get("memory", 0)),
        accelerators=tuple(kinds),
        is_head="node:__internal_head__" in have,
        bfloat16=computes_in_bfloat16(),
    )


@functools.cache
def computes_in_bfloat16() -> bool:
    """Whether this machine's CPUs compute in bfloat16: asked once, for all nodes."""
    about = Path("/proc/cpuinfo")  # of Linux
    flags = about.read_text().split() if about.exists() else ()
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
    found: dict[str, float] = {}
    with _private("Ray doesn't say how far it grows: set DOGGOS_GROW_TO_CPUS"):
        from ray._private.state import state

        for name, most in (state.get_max_resources_from_cluster_config() or {}).items():
            found[name] = UNLIMITED.get(name, 0) if most >= sys.maxsize else most
    return found or None


def running_here() -> str:
    """Return the address of the Ray that runs on this machine, or nothing.

    A bare `ray.init()` would hang for two minutes where the last one has ended.
    """
    with _private("can't tell whether a Ray runs here: set RAY_ADDRESS to join one"):
        from ray._private.services import find_bootstrap_address

        if address := find_bootstrap_address(None):
            reach(address)
            return address
    return ""


def reach(address: str) -> None:
    """Raise OSError where nothing, or no Ray, listens, or one with another token.

    Ray itself would try for minutes, for ever, and for 20 seconds.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    ask = [*RAY, "health-check", "--address", address]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        raise TimeoutError("what listens there is no Ray, or hangs") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1]
        raise OSError(said.partition(". ")[0].rpartition(": ")[2])


@contextlib.contextmanager
def _private(without: str) -> Iterator[None]:
    """Go on without a part of Ray 2.60.0 that isn't public, where it isn't there."""
    try:
        yield
    except Exception:
        logging.getLogger(__name__).info(without, exc_info=True)
