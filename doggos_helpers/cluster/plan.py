"""The worker plan: how many workers of each stage, and what each of them gets.

A pure function of the nodes and the settings, and the only source of these numbers.
It counts *per node*: three nodes with half a CPU left each can't run a task that
needs one CPU, though the sum says so, and Ray Data would wait for ever.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    def __str__(self) -> str:
        """Say what it has."""
        kinds = f" ({', '.join(self.accelerators)})" if self.accelerators else ""
        return f"{self.name}: {amounts(self.cpus, self.gpus, self.memory)}{kinds}"


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

    def __str__(self) -> str:
        """Say what it asks of the nodes."""
        return f"{self.workers} workers of {amounts(self.cpus, self.gpus, self.memory)}"


@dataclass(frozen=True)
class WorkerPlan:
    """The plan of each stage, and what they share."""

    embed: StagePlan
    train: StagePlan
    evaluate: StagePlan
    serve: StagePlan
    device: str
    accelerator_type: str

    @property
    def stages(self) -> dict[str, StagePlan]:
        """The plan of each stage by its name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, StagePlan)}

    def __str__(self) -> str:
        """Say it in one line a stage."""
        return "\n".join(f"{name:<9} {plan}" for name, plan in self.stages.items())


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
    on_gpu = _with_gpu(grown, settings)
    workers = on_gpu or [n for n in grown if n.cpus >= 1]
    if not workers:
        what = "no node has a whole CPU for a worker"
        fix = "Start Ray with at least one CPU (ray start --num-cpus)"
        raise ClusterError(what, "; ".join(map(str, grown)), fix)
    embed, train, serve = (_on_gpus if on_gpu else _on_cpus)(workers, settings)
    s = settings
    embed = _asked(embed, s, s.embed_workers, s.embed_cpus, s.embed_batch_size)
    train = _asked(train, s, s.train_workers, s.train_cpus, s.train_batch_size)
    serve = _asked(serve, s, s.replicas, s.replica_cpus)
    held = max(embed.cpus * embed.per_node, train.cpus * train.per_node)
    free = min(max(n.cpus - held, 0.0) for n in workers)
    task_cpus = min(_quarter(min(1.0, free / 2)), embed.cpus)
    # The classifier is so small that a GPU would wait for its data.
    evaluate = replace(serve, gpus=0, batch_size=256, dtype="float32")
    evaluate = replace(evaluate, task_cpus=min(task_cpus, evaluate.cpus))
    embed = replace(embed, task_cpus=task_cpus)
    device, kind = ("cuda", settings.accelerator_type) if on_gpu else ("cpu", "")
    return WorkerPlan(embed, train, evaluate, serve, device, kind or "")


def fits(nodes: Sequence[Node], stage: StagePlan) -> int:
    """Count how many workers of a stage the nodes can hold at once, node by node."""
    asks, count = (stage.cpus, stage.gpus, stage.memory), 0
    for node in nodes:
        has = (node.cpus, node.gpus, node.memory)
        times = [have / ask for have, ask in zip(has, asks, strict=True) if ask]
        count += int(min([*times, stage.per_node]) + 1e-9)
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
    cpus = max(0, grow_to.get("CPU", 0) - sum(n.cpus for n in nodes))
    gpus = max(0, grow_to.get("GPU", 0) - sum(n.gpus for n in nodes))
    return [*nodes, Node(TO_COME, cpus, gpus)] if cpus or gpus else [*nodes]


def _with_gpu(nodes: Sequence[Node], settings: Settings) -> list[Node]:
    """Keep the nodes whose GPUs may be used; what is to come can have any kind."""
    if settings.use_gpu == "no":
        return []
    kept, of_type = [n for n in nodes if n.gpus], ""
    if kind := settings.accelerator_type:
        kept = [n for n in kept if kind in n.accelerators or n.name == TO_COME]
        of_type = f" of type {kind}"
    for name in ("use_gpu", "gpus_per_worker", "accelerator_type"):
        if (asked := getattr(settings, name)) and not kept:
            what = f"{name} is {asked}, and no node has a GPU{of_type}"
            fix = f"Set use_gpu to no, leave out DOGGOS_{name.upper()}, or add a GPU"
            raise ClusterError(what, "; ".join(map(str, nodes)), fix)
    return kept


def _on_gpus(nodes: Sequence[Node], settings: Settings) -> tuple[StagePlan, ...]:
    gpus = settings.gpus_per_worker or 1.0
    slots = [int(n.gpus / gpus) for n in nodes]
    # Half of a GPU node's CPUs stay free for reading and decoding.
    halves = zip(nodes, slots, strict=True)
    cpus = min(_quarter(min(1.0, n.cpus / 2 / max(1, s))) for n, s in halves)
    dtype = settings.dtype or "float16"
    base = StagePlan(max(1, sum(slots)), max(1, *slots), cpus, gpus, 1, 256, dtype)
    return base, replace(base, dtype="float32"), replace(base, batch_size=64)


def _on_cpus(nodes: Sequence[Node], settings: Settings) -> tuple[StagePlan, ...]:
    in_bfloat16 = all(node.bfloat16 for node in nodes)
    dtype = settings.dtype or ("bfloat16" if in_bfloat16 else "float32")
    # CPUs of a node that embedding may hold; the rest decodes and writes.
    shares = [n.cpus * (0.5 if n.cpus < CPUS_PER_ACTOR else 0.75) for n in nodes]
    pairs = list(zip(nodes, shares, strict=True))
    cpus = min(_quarter(s / max(1, n.cpus // CPUS_PER_ACTOR)) for n, s in pairs)
    actors = [max(1, int(share / cpus)) for share in shares]
    threads = max(1, min(int(n.cpus / a) for n, a in zip(nodes, actors, strict=True)))
    embed = StagePlan(sum(actors), max(actors), cpus, 0, threads, 32, dtype)

    half = min(n.cpus for n in nodes) / 2
    each = math.ceil(CPU_TRAIN_WORKERS / len(nodes))
    cpus = _quarter(min(1.0, half / each))
    train = StagePlan(CPU_TRAIN_WORKERS, each, cpus, 0, 1, 32, "float32")
    cpus = _quarter(min(1.0, half))
    return embed, train, StagePlan(len(nodes), 1, cpus, 0, threads, 32, dtype)


def _asked(
    plan: StagePlan, settings: Settings, workers: Any, cpus: Any, batch_size: Any = None
) -> StagePlan:
    """Put what the settings ask in the place of what is planned."""
    count = workers or plan.workers
    return replace(
        plan,
        workers=count,
        # More workers than planned are spread over as many nodes.
        per_node=max(plan.per_node, math.ceil(count * plan.per_node / plan.workers)),
        cpus=cpus or plan.cpus,
        batch_size=batch_size or plan.batch_size,
        memory=int((settings.memory_per_worker or 0) * GIB),
    )


def _quarter(cpus: float) -> float:
    """Round down to quarters of a CPU, at least one."""
    return max(0.25, math.floor(cpus * 4) / 4)
