"""Whether the nodes are alike: what each lacks of what the driver has."""

import shutil
import sys
import tempfile
import uuid
from collections.abc import Sequence

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from upath import UPath

from doggos_helpers.artefacts import RECORDED, in_bucket, installed
from doggos_helpers.cluster.nodes import node_name
from doggos_helpers.cluster.plan import GIB, Node
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings

LEAST_FREE = 1 * GIB
SAY_AFTER_S, ANSWER_S = 10, 110  # the first task on a node starts a worker
SAME = (
    "Give every node what the driver has: packages of the same versions, storage"
    " (DOGGOS_STORAGE), data set and model at the same paths, and free disk"
)


def check_alike(nodes: Sequence[Node], settings: Settings) -> None:
    """Ask every node of several what it lacks.

    Raises:
        ClusterError: A node sees another storage, has another version of a package,
            hardly any free disk, or doesn't answer within two minutes.
    """
    lacks = lacking(nodes, settings) if len(nodes) > 1 else {}
    wrong = [f"{node.name}: {'; '.join(told)}" for node, told in lacks.items() if told]
    if wrong:
        raise ClusterError("the nodes are not alike", "\n  ".join(wrong), SAME)


def lacking(nodes: Sequence[Node], settings: Settings) -> dict[Node, list[str]]:
    """Ask each node what it lacks of what the driver has; nothing is raised for that.

    The driver writes a file to the storage, for the nodes to see.
    """
    ids = {node_name(raw): raw["NodeID"] for raw in ray.nodes()}
    task, asked, found = ray.remote(num_cpus=0, max_retries=0)(report), {}, {}
    marker = settings.storage_root / f".alike-{uuid.uuid4().hex}"
    folders = [settings.dataset_root, settings.model]
    there = [UPath(p) for p in folders if p.startswith("/") and UPath(p).exists()]
    # Where nothing is mounted, there may still be an empty folder.
    there = [next(p.iterdir(), p) if p.is_dir() else p for p in there]
    marker.write_bytes(b"")
    try:
        for node in nodes:
            on = NodeAffinitySchedulingStrategy(ids[node.name], soft=False)
            sent = task.options(scheduling_strategy=on)
            asked[node] = sent.remote([marker, *there], versions())
        for seconds in (SAY_AFTER_S, ANSWER_S):
            answers = [*asked.values()]
            _, late = ray.wait(answers, num_returns=len(answers), timeout=seconds)
            if late:
                print(f"{len(late)} of {len(asked)} nodes don't answer yet", flush=True)
        for node, answer in asked.items():
            try:
                found[node] = ray.get(answer, timeout=1)
            except RayError as error:
                found[node] = [f"no answer: {str(error).splitlines()[-1]}"]
    finally:
        marker.unlink()
    alive = {raw["NodeID"] for raw in ray.nodes() if raw["Alive"]}  # some may have died
    return {node: told for node, told in found.items() if ids[node.name] in alive}


def report(paths: list[UPath], wanted: dict[str, str]) -> list[str]:
    """Say what a node lacks. Runs on that node."""
    here = versions()
    wrong = [f"{k} is {here[k]}, not {wanted[k]}" for k in here if here[k] != wanted[k]]
    wrong += [f"it doesn't see {path}" for path in paths if not path.exists()]
    root, places = paths[0].parent, [tempfile.gettempdir()]  # where Ray spills
    if not in_bucket(root) and root.exists():
        places.append(str(root))
    if (free := min(shutil.disk_usage(p).free for p in places)) < LEAST_FREE:
        wrong.append(f"only {free / GIB:.1f} GiB of disk are free")
    return wrong


def versions() -> dict[str, str]:
    """Return the versions that all nodes must share."""
    python = {"Python": sys.version.split()[0]}
    return python | {name: installed(name) for name in RECORDED}
