"""The worker plan, on the clusters that people have."""

import itertools

import pytest

from doggos_helpers.cluster.plan import (
    GIB,
    Node,
    StagePlan,
    fits,
    leaves_room,
    plan_workers,
)
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings

LAPTOP = [Node("a", 2)]
THREE = [Node("a", 2), Node("b", 2), Node("c", 2)]
HEAD0 = [Node("head", 0, is_head=True), Node("w", 48, 4)]
HEAD2 = [Node("head", 2, is_head=True), Node("w", 4, 4)]
WORKSTATION = [Node("a", 8, 1)]
EIGHT = [Node(f"w{i}", 8, 1) for i in range(8)]
BIG = [Node("a", 16)]
CLUSTERS = [LAPTOP, THREE, HEAD0, HEAD2, WORKSTATION, EIGHT, BIG, [Node("a", 1)]]


@pytest.mark.parametrize(
    ("nodes", "embed", "train", "serve", "device"),
    [
        (LAPTOP, 1, 2, 1, "cpu"),
        (THREE, 3, 2, 3, "cpu"),
        (HEAD0, 4, 4, 4, "cuda"),
        (HEAD2, 4, 4, 4, "cuda"),
        (WORKSTATION, 1, 1, 1, "cuda"),
        (EIGHT, 8, 8, 8, "cuda"),
    ],
)
def test_workers_of_each_stage(nodes, embed, train, serve, device):
    plan = plan_workers(nodes, Settings())
    counts = (plan.embed.workers, plan.train.workers, plan.serve.workers)
    assert (*counts, plan.device) == (embed, train, serve, device)


@pytest.mark.parametrize("nodes", CLUSTERS)
def test_workers_fit_and_leave_room_for_the_small_tasks_on_their_nodes(nodes):
    plan = plan_workers(nodes, Settings())
    for stage in (plan.embed, plan.train, plan.serve):
        assert fits(nodes, stage) >= stage.workers
        working = [n for n in nodes if (n.gpus if stage.gpus else n.cpus)]
        for node in working:
            held = stage.cpus * min(stage.per_node, stage.workers)
            assert node.cpus - held >= plan.embed.task_cpus > 0


def test_three_small_nodes_hold_one_worker_each():
    plan = plan_workers(THREE, Settings())
    assert (plan.embed.per_node, plan.train.per_node, plan.serve.per_node) == (1, 1, 1)
    assert plan.embed.cpus == 1


def test_gpu_workers_reserve_one_gpu_and_use_half_precision_but_train_does_not():
    plan = plan_workers(HEAD0, Settings())
    assert (plan.embed.gpus, plan.embed.dtype, plan.train.dtype) == (
        1,
        "float16",
        "float32",
    )


def test_what_may_come_counts_where_it_is_more_than_what_is_there():
    head = [Node("head", 0, is_head=True)]
    plan = plan_workers(head, Settings(), grow_to={"CPU": 48, "GPU": 4})
    assert (plan.embed.workers, plan.device) == (4, "cuda")
    assert fits(head, plan.embed) == 0
    there = plan_workers(HEAD0, Settings(), grow_to={"CPU": 8, "GPU": 0})
    assert there.embed.workers == 4


def test_every_number_can_be_overridden():
    settings = Settings(
        embed_workers=5, embed_cpus=0.25, embed_batch_size=7, train_workers=3,
        train_cpus=0.5, train_batch_size=11, replicas=2, replica_cpus=0.75,
        dtype="bfloat16",
    )  # fmt: skip
    plan = plan_workers(THREE, settings)
    embed, train, serve = plan.embed, plan.train, plan.serve
    assert (embed.workers, embed.cpus, embed.batch_size) == (5, 0.25, 7)
    assert (train.workers, train.cpus, train.batch_size) == (3, 0.5, 11)
    assert (serve.workers, serve.cpus, embed.dtype) == (2, 0.75, "bfloat16")
    assert embed.per_node == 2  # five workers on three nodes
    halves = plan_workers(WORKSTATION, Settings(gpus_per_worker=0.5))
    assert (halves.embed.workers, halves.embed.gpus) == (2, 0.5)


def test_a_gpu_is_refused_where_there_is_none_and_left_alone_if_not_wanted():
    with pytest.raises(ClusterError, match="no node has a GPU"):
        plan_workers(LAPTOP, Settings(use_gpu="yes"))
    assert plan_workers(WORKSTATION, Settings(use_gpu="no")).device == "cpu"


def test_gpus_for_each_worker_are_refused_where_there_is_no_gpu():
    with pytest.raises(ClusterError, match="gpus_per_worker is 2.0"):
        plan_workers(LAPTOP, Settings(gpus_per_worker=2))
    settings = Settings(gpus_per_worker=2, use_gpu="no")
    assert plan_workers(LAPTOP, settings).device == "cpu"
    halved = plan_workers(WORKSTATION, Settings(gpus_per_worker=2))
    assert fits(WORKSTATION, halved.embed) == 0


def test_an_accelerator_that_no_node_has_is_refused_on_a_fixed_cluster():
    nodes = [Node("a", 8, 1, accelerators=("T4",))]
    settings = Settings(accelerator_type="L4")
    with pytest.raises(ClusterError, match="L4") as caught:
        plan_workers(nodes, settings)
    assert "T4" in caught.value.where
    growing = plan_workers(nodes, settings, grow_to={"CPU": 16, "GPU": 3})
    assert (growing.embed.workers, growing.accelerator_type) == (2, "L4")


def test_a_cluster_without_a_whole_cpu_is_refused():
    with pytest.raises(ClusterError, match="whole CPU"):
        plan_workers([Node("a", 0.5)], Settings())


def test_fits_counts_node_by_node():
    nodes = [Node("a", 0.5), Node("b", 0.5), Node("c", 0.5)]
    stage = StagePlan(1, 1, 1.0, 0, 1, 1, "float32")
    assert fits(nodes, stage) == 0
    assert fits([Node("a", 1.5)], stage) == 1


def test_memory_limits_how_many_workers_a_node_holds():
    nodes = [Node("a", 16, memory=10 * GIB), Node("b", 16, memory=3 * GIB)]
    plan = plan_workers(nodes, Settings(memory_per_worker=4))
    assert "4.0 GiB of memory" in str(plan)
    for stage in (plan.embed, plan.train, plan.serve):
        assert stage.memory == 4 * GIB
    assert plan.embed.per_node >= 2 and fits(nodes, plan.embed) == 2
    assert plan_workers(nodes, Settings()).embed.memory == 0


@pytest.mark.parametrize("nodes", CLUSTERS)
def test_our_own_plans_leave_room_for_the_small_tasks_wherever_workers_go(nodes):
    plan = plan_workers(nodes, Settings())
    assert leaves_room(nodes, plan.embed)


@pytest.mark.parametrize(
    ("cpus", "workers", "worker", "task", "room"),
    [
        ([2, 2, 2], 3, 2.0, 0.25, False),  # every node full
        ([2, 2, 2], 3, 1.75, 0.25, True),  # a quarter left on each
        ([2, 2, 2], 3, 1.5, 1.0, False),  # 1.5 CPUs are left, and half a CPU a node
        ([2, 2, 2], 2, 1.5, 1.0, True),  # two workers can't fill three nodes
        ([0.5, 0.5, 0.5], 3, 0.5, 0.25, False),  # what an app and its actors leave
        ([4, 2], 3, 2.0, 0.5, False),
        ([4, 2], 2, 2.0, 0.5, True),  # both on the first, or one on each
        ([0, 4], 1, 1.0, 1.0, True),
    ],
)
def test_room_for_a_task_is_counted_node_by_node(cpus, workers, worker, task, room):
    nodes = [Node(str(i), n) for i, n in enumerate(cpus)]
    stage = StagePlan(workers, workers, worker, 0, 1, 1, "float32", task_cpus=task)
    assert leaves_room(nodes, stage) is room


def test_gpu_workers_cannot_fill_a_node_without_gpus():
    nodes = [Node("head", 2), Node("w", 4, 4)]
    stage = StagePlan(4, 4, 1.0, 1, 1, 1, "float32", task_cpus=1.0)
    assert leaves_room(nodes, stage)
    assert not leaves_room(nodes[1:], stage)


def fillings(free, workers, worker):
    """Every way to put the workers on nodes: what each node has left."""
    if not workers:
        return {tuple(free)}
    return {
        left
        for i, cpus in enumerate(free)
        if cpus >= worker
        for left in fillings(
            [*free[:i], cpus - worker, *free[i + 1 :]], workers - 1, worker
        )
    }


def test_where_workers_and_a_task_fit_at_once_a_task_fits_wherever_workers_go():
    """Why Ray Data can't hang after the wait: by all placements on small clusters."""
    quarters = [n / 4 for n in range(9)]
    seen = {True: 0, False: 0}
    for free in itertools.combinations_with_replacement(quarters, 3):
        for workers, worker, task in itertools.product(
            (1, 2, 3), (0.25, 0.5, 1.0, 1.5), (0.25, 0.5, 1.0, 1.5)
        ):
            left = fillings(list(free), workers, worker)
            if task > worker or not left:
                continue
            together = any(max(nodes) >= task for nodes in left)
            always = all(max(nodes) >= task for nodes in left)
            nodes = [Node(str(i), cpus) for i, cpus in enumerate(free)]
            stage = StagePlan(
                workers, workers, worker, 0, 1, 1, "float32", task_cpus=task
            )
            assert together == always == leaves_room(nodes, stage), (free, stage)
            seen[always] += 1
    assert min(seen.values()) > 100, seen


@pytest.mark.parametrize("nodes", CLUSTERS)
def test_a_task_needs_at_most_as_much_as_a_worker(nodes):
    for cpus in (None, 0.1, 0.25, 1.0):
        plan = plan_workers(nodes, Settings(embed_cpus=cpus))
        assert 0 < plan.embed.task_cpus <= plan.embed.cpus
