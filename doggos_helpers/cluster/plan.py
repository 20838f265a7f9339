"""The worker plan: how many workers of each stage, and what each of them gets.

A pure function of the nodes and the settings, and the only source of these numbers.
It counts *per node*: three nodes with half a CPU left each can't run a task that
needs one CPU, though the sum says so, and Ray Data would wait for ever.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings

CPU_TRAIN_WORKERS = 2
GIB = 2**30
TO_COME = "to come"
CPUS_PER_ACTOR = 4  # more threads than this no longer speed up one small batch


@dataclass(frozen=True)
class Node:
    """One Ray node: `cpus` and `gpus` as Ray counts them, `memory` in bytes.

    `bfloat16` is whether its CPUs compute in it: on others it is slower than float32.
    """

    name: str
    cpus: float
    gpus: float = 0
    memory: int = 0
    accelerators: tuple[str, ...] = ()
    is_head: bool = False
    bfloat16: bool = False


@dataclass(frozen=True)
class StagePlan:
    """Workers of one stage; all but `workers` and `per_node` are of each.

    `memory` is what Ray reserves, in bytes. It limits how many workers a node gets,
    not what a worker uses. `task_cpus` is what one task beside the workers reserves to
    read, decode or write; it is at most `cpus` (see `leaves_room`).
    """

    workers: int
    per_node: int
    cpus: float
    gpus: float
    threads: int
    batch_size: int
    dtype: str
    memory: int = 0
    task_cpus: float = 0.0


@dataclass(frozen=True)
class WorkerPlan:
    """The plan of each stage, and what they share."""

    embed: StagePlan
    train: StagePlan
    evaluate: StagePlan
    serve: StagePlan
    device: str
    accelerator_type: str

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a stage, for a table."""
        stages = ("embed", "train", "evaluate", "serve")
        return [{"stage": s} | vars(getattr(self, s)) for s in stages]

    def __str__(self) -> str:
        """Say it in one line a stage."""
        return "\n".join(
            f"  {row['stage']:<9}{row['workers']} workers (at most {row['per_node']} a"
            f" node): {amounts(row['cpus'], row['gpus'], row['memory'])},"
            f" {row['threads']} threads, batch {row['batch_size']}, {row['dtype']}"
            for row in self.rows()
        )


def plan_workers(
    nodes: Sequence[Node], settings: Settings, grow_to: dict[str, float] | None = None
) -> WorkerPlan:
    """Plan the workers of each stage.

    Args:
        nodes: The nodes that are there.
        settings: Overrides; None leaves a number to the plan.
        grow_to: Totals ("CPU", "GPU") that an autoscaling cluster may reach. The
            larger of what is there and what may come counts.

    Raises:
        ClusterError: A GPU or an accelerator is asked for that no node has or can
            have, or no node has a CPU.
    """
    grown = _with_growth(nodes, grow_to or {})
    usable = _matching(grown, settings, fixed=grow_to is None)
    has_gpu = any(n.gpus > 0 for n in usable)
    asks = settings.use_gpu == "yes" or settings.gpus_per_worker
    if asks and settings.use_gpu != "no" and not has_gpu:
        name = "use_gpu" if settings.use_gpu else "gpus_per_worker"
        raise ClusterError(
            f"{name} is {getattr(settings, name)}, and no node has a GPU",
            ", ".join(n.name for n in grown),
            "Set use_gpu to no (DOGGOS_USE_GPU=no), or add a node with a GPU",
        )
    on_gpu = has_gpu and settings.use_gpu != "no"
    workers = [n for n in usable if (n.gpus > 0 if on_gpu else n.cpus >= 1)]
    if not workers:
        raise ClusterError(
            "no node has a whole CPU for a worker",
            ", ".join(f"{n.name}: {n.cpus:g} CPUs" for n in grown),
            "Start Ray with at least one CPU (ray start --num-cpus)",
        )
    embed, train, serve = (_on_gpus if on_gpu else _on_cpus)(workers, settings)
    held = max(embed.cpus * embed.per_node, train.cpus * train.per_node)
    free = min(max(n.cpus - held, 0.0) for n in workers)
    task_cpus = min(_quarter(min(1.0, free / 2)), embed.cpus)
    return WorkerPlan(
        embed=dataclasses.replace(embed, task_cpus=task_cpus),
        train=train,
        # The classifier is so small that a GPU would wait for its data.
        evaluate=dataclasses.replace(
            serve,
            gpus=0,
            batch_size=256,
            dtype="float32",
            task_cpus=min(task_cpus, serve.cpus),
        ),
        serve=serve,
        device="cuda" if on_gpu else "cpu",
        accelerator_type=(settings.accelerator_type or "") if on_gpu else "",
    )


def fits(nodes: Sequence[Node], stage: StagePlan) -> int:
    """Count how many workers of a stage the nodes can hold at once, node by node."""
    count = 0
    for node in nodes:
        by_cpu = node.cpus / stage.cpus if stage.cpus else math.inf
        by_gpu = node.gpus / stage.gpus if stage.gpus else math.inf
        by_memory = node.memory / stage.memory if stage.memory else math.inf
        count += int(min(by_cpu, by_gpu, by_memory, stage.per_node) + 1e-9)
    return count


def leaves_room(nodes: Sequence[Node], stage: StagePlan) -> bool:
    """Tell whether a task fits beside the workers of a stage, wherever Ray puts them.

    Where it doesn't, Ray Data counts the CPUs of all nodes together, finds enough, and
    waits for ever. A task needs at most as much as a worker: where the nodes could hold
    one more worker, it fits in that place; where they can't, every node is as full as
    it can be, and what is left of each doesn't depend on who went where.
    """
    slots = [math.floor(node.cpus / stage.cpus + 1e-9) for node in nodes]
    left = [n.cpus - s * stage.cpus for n, s in zip(nodes, slots, strict=True)]
    return sum(slots) > stage.workers or max(left) >= stage.task_cpus - 1e-9


def amounts(cpus: float, gpus: float, memory: float = 0) -> str:
    """Say resources as people do; `memory`, in bytes, where there is any."""
    gib = f", {memory / GIB:.1f} GiB of memory" if memory else ""
    return f"{cpus:g} CPU, {gpus:g} GPU{gib}"


def _with_growth(nodes: Sequence[Node], grow_to: dict[str, float]) -> list[Node]:
    """Add what may still come as one more node."""
    cpus = grow_to.get("CPU", 0) - sum(n.cpus for n in nodes)
    gpus = grow_to.get("GPU", 0) - sum(n.gpus for n in nodes)
    if cpus <= 0 and gpus <= 0:
        return list(nodes)
    return [*nodes, Node(TO_COME, max(cpus, 0), max(gpus, 0))]


def _matching(nodes: list[Node], settings: Settings, fixed: bool) -> list[Node]:
    """Keep the nodes with the accelerator asked for; what may come can have any."""
    wanted = settings.accelerator_type
    if not wanted or settings.use_gpu == "no":
        return nodes
    found = [n for n in nodes if wanted in n.accelerators or n.name == TO_COME]
    if not found and fixed:
        there = sorted({a for n in nodes for a in n.accelerators}) or ["none"]
        raise ClusterError(
            f"no node has an accelerator of type {wanted}",
            f"accelerators there: {', '.join(there)}",
            "Leave accelerator_type empty (DOGGOS_ACCELERATOR_TYPE=)",
        )
    return found


def _on_gpus(nodes: list[Node], settings: Settings) -> tuple[StagePlan, ...]:
    gpus = settings.gpus_per_worker or 1.0
    per_node = max(1, max(int(n.gpus / gpus) for n in nodes))
    count = max(1, sum(int(n.gpus / gpus) for n in nodes))
    # Half of a GPU node's CPUs stay free for reading and decoding.
    cpus = min(_quarter(min(1.0, n.cpus / 2 / max(1, n.gpus / gpus))) for n in nodes)
    base = StagePlan(count, per_node, cpus, gpus, 1, 256, settings.dtype or "float16")
    train = dataclasses.replace(base, dtype="float32")
    return _overridden(settings, base, train, dataclasses.replace(base, batch_size=64))


def _on_cpus(nodes: list[Node], settings: Settings) -> tuple[StagePlan, ...]:
    in_bfloat16 = all(node.bfloat16 for node in nodes)
    dtype = settings.dtype or ("bfloat16" if in_bfloat16 else "float32")
    cpus = min(
        _quarter(_actor_share(n.cpus) / max(1, n.cpus // CPUS_PER_ACTOR)) for n in nodes
    )
    actors = [max(1, int(_actor_share(n.cpus) / cpus)) for n in nodes]
    threads = max(1, min(int(n.cpus) // a for n, a in zip(nodes, actors, strict=True)))
    embed = StagePlan(sum(actors), max(actors), cpus, 0, threads, 32, dtype)

    count, smallest = CPU_TRAIN_WORKERS, min(n.cpus for n in nodes)
    each = math.ceil(count / len(nodes))
    cpus = _quarter(min(1.0, smallest / 2 / each))
    train = StagePlan(count, each, cpus, 0, 1, 32, "float32")
    cpus = _quarter(min(1.0, smallest / 2))
    serve = StagePlan(len(nodes), 1, cpus, 0, threads, 8, dtype)
    return _overridden(settings, embed, train, serve)


def _overridden(
    settings: Settings, embed: StagePlan, train: StagePlan, serve: StagePlan
) -> tuple[StagePlan, ...]:
    s, memory = settings, int((settings.memory_per_worker or 0) * GIB)

    def change(plan: StagePlan, workers: Any, cpus: Any, batch: Any) -> StagePlan:
        # More workers than planned are spread over as many nodes.
        spread = math.ceil((workers or 0) * plan.per_node / plan.workers)
        return dataclasses.replace(
            plan,
            workers=workers or plan.workers,
            per_node=max(plan.per_node, spread),
            cpus=cpus or plan.cpus,
            batch_size=batch or plan.batch_size,
            memory=memory,
        )

    return (
        change(embed, s.embed_workers, s.embed_cpus, s.embed_batch_size),
        change(train, s.train_workers, s.train_cpus, s.train_batch_size),
        change(serve, s.replicas, s.replica_cpus, None),
    )


def _actor_share(cpus: float) -> float:
    """CPUs of a node that embedding may hold; the rest decodes and writes."""
    return cpus / 2 if cpus < CPUS_PER_ACTOR else cpus * 3 / 4


def _quarter(cpus: float) -> float:
    """Round down to quarters of a CPU, at least one."""
    return max(0.25, math.floor(cpus * 4) / 4)
