"""Connecting, waiting and refusing on a fixed local cluster."""

import dataclasses
import threading
import time

import pytest

from doggos_helpers.cluster import waiting
from doggos_helpers.cluster.another import another_node
from doggos_helpers.cluster.connect import connect
from doggos_helpers.cluster.doctor import _examine_nodes
from doggos_helpers.cluster.nodes import live_nodes, this_node
from doggos_helpers.cluster.plan import plan_workers
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings
from tools.local_cluster import free_ports


def test_connect_again_keeps_the_connection_and_says_the_same(cluster, capsys):
    settings, first = cluster
    again = connect(settings)
    assert again.started_here and again.address == first.address
    said = capsys.readouterr().out
    assert said.startswith("Started a local Ray: 1 node,")
    assert str(settings.storage_root) in said and "http://" in said
    assert this_node() in {node.name for node in again.nodes}
    assert [node.is_head for node in again.nodes] == [True]


def test_a_fixed_cluster_refuses_at_once_what_it_cannot_hold(cluster):
    settings, connected = cluster
    assert connected.grow_to is None
    too_much = dataclasses.replace(connected.plan.embed, workers=50, per_node=50)
    started = time.monotonic()
    with pytest.raises(ClusterError, match="50 workers of .* don't fit") as caught:
        wait_for(too_much, connected, settings)
    assert time.monotonic() - started < 5
    assert "embed_workers" in caught.value.fix and connected.nodes[0].name in str(
        caught.value
    )
    wait_for(connected.plan.embed, connected, settings)


def test_workers_wait_for_other_work_to_end_and_say_so(cluster, capsys, monkeypatch):
    import ray

    settings, connected = cluster
    plan = connected.plan
    monkeypatch.setattr(waiting, "SAY_AFTER_S", 0)

    @ray.remote(num_cpus=sum(node.cpus for node in connected.nodes))
    class Holder:
        def ready(self) -> bool:
            return True

    holder = Holder.remote()
    assert ray.get(holder.ready.remote(), timeout=120)
    hurried = settings.model_copy(update={"wait_for_cluster_s": 2})
    with pytest.raises(ClusterError, match="there was no room for 1 workers") as caught:
        wait_for(plan.embed, connected, hurried)
    assert "0 CPU, 0 GPU" in caught.value.where
    wait_for(plan.serve, connected, hurried, room=False)  # an update of an app
    threading.Timer(2, lambda: ray.kill(holder)).start()
    wait_for(
        plan.train, connected, settings.model_copy(update={"wait_for_cluster_s": 60})
    )
    assert "Waiting for room for 2 workers" in capsys.readouterr().out


def test_workers_that_leave_no_room_for_reading_are_refused(cluster):
    settings, connected = cluster
    whole = sum(node.cpus for node in connected.nodes)
    greedy = settings.model_copy(
        update={"embed_workers": int(whole), "embed_cpus": 1.0}
    )
    plan = plan_workers(connected.nodes, greedy)
    with pytest.raises(ClusterError, match="leave no node with 0.25 CPU to read"):
        wait_for(plan.embed, dataclasses.replace(connected, plan=plan), greedy)


def test_the_doctor_names_an_address_where_nothing_listens(tmp_path):
    import subprocess
    import sys

    address = f"127.0.0.1:{free_ports(1)[0]}"
    options = ["--address", address, "--storage", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "doggos_helpers.cluster", *options],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "NOT OK  Ray       no Ray cluster answers" in done.stdout
    assert address in done.stdout and "DOGGOS_ADDRESS" in done.stdout
    assert "Traceback" not in done.stderr
    assert Settings().address == ""


def test_a_monitor_sees_each_node_and_what_it_did(cluster):
    import ray

    _, connected = cluster

    with connected.monitor() as usage:
        kept = ray.put(bytes(200 * 2**20))
        spin = ray.remote(num_cpus=1)(_spin)
        ray.get([spin.remote(16.0) for _ in range(2)])
    del kept
    frame = usage.frame
    assert set(frame.node) == {node.name for node in connected.nodes}
    assert frame.seconds.is_monotonic_increasing and len(frame) >= 4
    assert frame["CPU (%)"].max() > 50
    assert 0 < frame["memory (GiB)"].max() < 10_000
    assert frame["object store (GiB)"].max() > 0.19
    assert usage.cost < 0.05
    assert "GPU (%)" in frame or not sum(node.gpus for node in connected.nodes)


def test_a_second_node_comes_up_and_goes(cluster):
    _, connected = cluster
    with another_node(connected) as node:
        assert node.cpus == 1 and not node.is_head
        assert [n.name for n in live_nodes()] == [connected.nodes[0].name, node.name]
    deadline = time.monotonic() + 30
    while len(live_nodes()) > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [n.name for n in live_nodes()] == [connected.nodes[0].name]


def _spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_the_doctor_finds_nothing_on_a_ray_on_which_all_is_well(cluster):
    settings, connected = cluster
    found = list(_examine_nodes(settings))
    assert [f.name for f in found] == ["plan"] * 4 + ["node"]
    assert not any(f.fix for f in found), found
    assert found[0].text.startswith("embed     1 workers of 1 CPU, 0 GPU")
    assert found[-1].text.startswith(connected.nodes[0].name)
    assert "has what the driver has" in found[-1].text
    assert not list(settings.storage_root.glob(".alike-*"))
