"""Connecting, waiting and refusing on a fixed local cluster."""

import dataclasses
import socket
import time

import pytest

from doggos_helpers.cluster import connect
from doggos_helpers.config import Settings
from doggos_helpers.errors import ClusterError
from doggos_helpers.nodes import this_node, wait_for


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


def test_an_address_where_nothing_listens_is_named(tmp_path):
    import subprocess
    import sys

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = ["--address", address, "--storage", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "doggos_helpers.cluster", *options],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == ClusterError.exit_code
    assert "no Ray cluster answers" in done.stderr and address in done.stderr
    assert "DOGGOS_ADDRESS" in done.stderr and "Traceback" not in done.stderr
    assert Settings().address == ""
