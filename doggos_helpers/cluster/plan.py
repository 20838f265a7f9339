"""The worker plan: how many workers of each stage, and what each of them gets.

A pure function of the nodes and the settings, and the only source of these numbers.
It counts *per node*: three nodes with half a CPU left each can't run a task that
needs one CPU, though the sum says so, and Ray Data would wait for ever.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings

CPU_TRAIN_WORKERS = 2
GIB = 2**30
CPUS_PER_ACTOR = 4  # more threads than this no longer speed up one small batch


@dataclass(frozen=True)
class Node:
    """One Ray node: `cpus` and `gpus` as Ray counts them, `memory` in bytes."""

    name: str
    cpus: float
    gpus: float = 0
    memory: int = 0
    accelerators: tuple[str, ...] = ()
    is_head: bool = False


@dataclass(frozen=True)
class StagePlan:
    """Workers of one stage; all but `workers` and `per_node` are of each.

    `memory` is what Ray reserves, in bytes. It limits how many workers a node gets,
    not what a worker uses.
    """

    workers: int
    per_node: int
    cpus: float
    gpus: float
    threads: int
    batch_size: int
    dtype: str
    memory: int = 0


@dataclass(frozen=True)
class WorkerPlan:
    """The plan of the three stages, and of the small tasks around them.

    `task_cpus` is what one read, decode or write task reserves: it fits beside the
    workers on every node that has a worker.
    """

    embed: StagePlan
    train: StagePlan
    serve: StagePlan
    task_cpus: float
    device: str
    accelerator_type: str

    def rows(self) -> list[dict[str, object]]:
        """Return one row a stage, for a table."""
        return [
            {"stage": name} | dataclasses.asdict(stage)
            for name, stage in self._stages().items()
        ]

    def _stages(self) -> dict[str, StagePlan]:
        return {"embed": self.embed, "train": self.train, "serve": self.serve}

    def __str__(self) -> str:
        """Say it in one line a stage."""
        return "\n".join(
            f"  {name:<6}{s.workers} workers (at most {s.per_node} a node):"
            f" {amounts(s.cpus, s.gpus, s.memory)}, {s.threads} threads,"
            f" batch {s.batch_size}, {s.dtype}"
            for name, s in self._stages().items()
        )


def plan_workers(
    nodes: Sequence[Node],
    settings: Settings,
    grow_to: dict[str, float] | None = None,
) -> WorkerPlan:
    """Plan the workers of each stage.

    Args:
        nodes: The nodes that are there.
        settings: Overrides; 0 or empty leaves a number to the plan.
        grow_to: Totals ("CPU", "GPU") that an autoscaling cluster may reach. The
            larger of what is there and what may come counts.

    Raises:
        ClusterError: A GPU or an accelerator is asked for that no node has or can
            have, or no node has a CPU.
    """
    grown = _with_growth(nodes, grow_to)
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
    if on_gpu:
        embed, train, serve = _on_gpus(workers, settings)
    else:
        embed, train, serve = _on_cpus(workers, settings)
    held = max(embed.cpus * embed.per_node, train.cpus * train.per_node)
    free = min(max(n.cpus - held, 0.0) for n in workers)
    return WorkerPlan(
        embed=embed,
        train=train,
        serve=serve,
        task_cpus=_quarter(min(1.0, max(free / 2, 0.25))),
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


def amounts(cpus: float, gpus: float, memory: float = 0) -> str:
    """Say resources as people do; `memory`, in bytes, where there is any."""
    gib = f", {memory / GIB:.1f} GiB of memory" if memory else ""
    return f"{cpus:g} CPU, {gpus:g} GPU{gib}"


def leaves_room(nodes: Sequence[Node], stage: StagePlan, task_cpus: float) -> bool:
    """Tell whether a task of `task_cpus` fits beside the workers, wherever they go.

    Where it doesn't, Ray Data counts the CPUs of all nodes together, finds enough, and
    waits for ever. Ray may place the workers so that every node is just too full: the
    question is whether there are enough of them for that.
    """
    to_fill = 0
    for node in nodes:
        if task_cpus > node.cpus:
            continue
        held = fits([node], dataclasses.replace(stage, per_node=stage.workers))
        needed = math.floor((node.cpus - task_cpus + 1e-9) / stage.cpus) + 1
        if needed > held:
            return True
        to_fill += needed
    return to_fill > stage.workers


def _with_growth(nodes: Sequence[Node], grow_to: dict[str, float] | None) -> list[Node]:
    """Add what may still come as one more node."""
    if not grow_to:
        return list(nodes)
    more_cpus = grow_to.get("CPU", 0) - sum(n.cpus for n in nodes)
    more_gpus = grow_to.get("GPU", 0) - sum(n.gpus for n in nodes)
    if more_cpus <= 0 and more_gpus <= 0:
        return list(nodes)
    return [*nodes, Node("to come", max(more_cpus, 0), max(more_gpus, 0))]


def _matching(nodes: list[Node], settings: Settings, fixed: bool) -> list[Node]:
    """Keep the nodes with the accelerator asked for; what may come can have any."""
    wanted = settings.accelerator_type
    if not wanted or settings.use_gpu == "no":
        return nodes
    found = [n for n in nodes if wanted in n.accelerators or n.name == "to come"]
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
    dtype = settings.dtype or "float32"
    cpus = min(_actor_cpus(n.cpus) for n in nodes)
    actors = [max(1, int(_actor_share(n.cpus) / cpus)) for n in nodes]
    threads = max(1, min(int(n.cpus) // a for n, a in zip(nodes, actors, strict=True)))
    embed = StagePlan(sum(actors), max(actors), cpus, 0, threads, 32, dtype)

    train_per_node = math.ceil(CPU_TRAIN_WORKERS / len(nodes))
    smallest = min(n.cpus for n in nodes)
    train_cpus = _quarter(min(1.0, smallest / 2 / train_per_node))
    train = StagePlan(
        CPU_TRAIN_WORKERS, train_per_node, train_cpus, 0, 1, 32, "float32"
    )
    serve_cpus = _quarter(min(1.0, smallest / 2))
    serve = StagePlan(len(nodes), 1, serve_cpus, 0, threads, 8, dtype)
    return _overridden(settings, embed, train, serve)


def _overridden(
    settings: Settings, embed: StagePlan, train: StagePlan, serve: StagePlan
) -> tuple[StagePlan, ...]:
    def change(
        plan: StagePlan, workers: int | None, cpus: float | None, batch_size: int | None
    ) -> StagePlan:
        per_node = plan.per_node
        if (
            workers and workers > plan.workers
        ):  # spread what is asked over as many nodes
            per_node = math.ceil(workers * per_node / plan.workers)
        return dataclasses.replace(
            plan,
            workers=workers or plan.workers,
            per_node=per_node,
            cpus=cpus or plan.cpus,
            batch_size=batch_size or plan.batch_size,
            memory=int((settings.memory_per_worker or 0) * GIB),
        )

    s = settings
    return (
        change(embed, s.embed_workers, s.embed_cpus, s.embed_batch_size),
        change(train, s.train_workers, s.train_cpus, s.train_batch_size),
        change(serve, s.replicas, s.replica_cpus, None),
    )


def _actor_share(cpus: float) -> float:
    """CPUs of a node that embedding may hold; the rest decodes and writes."""
    return cpus / 2 if cpus < CPUS_PER_ACTOR else cpus * 3 / 4


def _actor_cpus(cpus: float) -> float:
    actors = max(1, int(cpus // CPUS_PER_ACTOR))
    return _quarter(_actor_share(cpus) / actors)


def _quarter(cpus: float) -> float:
    """Round down to quarters of a CPU, at least one."""
    return max(0.25, math.floor(cpus * 4) / 4)
