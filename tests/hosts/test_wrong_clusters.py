"""A cluster that is wrong says so: each fault on real hosts, one message, its fix."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.datasets import dogs
from tests.hosts.hosts import Host, needs_hosts
from tests.hosts.launched import TOKEN, WORKERS, Launched, launched
from tests.hosts.wrong import DISK, SILENT, STORAGE, STRANGER, VERSION, Wrong

pytestmark = [needs_hosts, pytest.mark.long]
SAID_S = 60  # with importing Ray and connecting, on two cores for all hosts
EMBED = "python -m doggos_helpers.embed --images-per-class 2"


@pytest.fixture(scope="module")
def cluster(session_folder: Path) -> Iterator[Launched]:
    with launched(session_folder / "wrong") as cluster:
        cluster.at_head(EMBED, 300)  # workers are up, the sample is drawn
        yield cluster


def refused(cluster: Launched, command: str, *parts: str) -> None:
    """Assert that a command ends soon, with one error that has these parts."""
    started = time.monotonic()
    done = cluster.at_head(command, 150, check=False)
    took = time.monotonic() - started
    error = done.stderr[done.stderr.find("error: ") :]
    assert done.returncode == 6, done.stdout + done.stderr
    for part in (*parts, "Fix: "):
        assert part in error, error
    assert "Traceback" not in error and len(error.splitlines()) <= 4, error
    assert took < SAID_S, took


def lacks(cluster: Launched, wrong: Wrong, command: str, *parts: str) -> None:
    """Assert that a command says what the first worker lacks, as the page has it."""
    said = wrong.message.split("...")
    refused(cluster, command, *map(str.strip, said), wrong.fix, *parts)


def worker(cluster: Launched) -> Host:
    return cluster.hosts[WORKERS[0]]


def test_a_storage_that_one_host_does_not_mount(cluster):
    worker(cluster).hide(cluster.hosts.shared)
    try:
        lacks(cluster, STORAGE, EMBED, worker(cluster).address, "DOGGOS_STORAGE")
    finally:
        worker(cluster).show(cluster.hosts.shared)


def test_a_data_set_that_only_the_driver_sees(cluster):
    folder = dogs(cluster.head.folder / "dogs", each=2)
    for name in WORKERS:
        cluster.hosts[name].hide(folder)
    try:
        command = f"{EMBED} --dataset {folder}"
        lacks(cluster, STORAGE, command, f"it doesn't see {folder}", "data set")
    finally:
        for name in WORKERS:
            cluster.hosts[name].show(folder)


def test_another_version_of_torch_on_one_host(cluster):
    other = worker(cluster).home / "doggos" / "torch-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n"
    )
    try:
        lacks(cluster, VERSION, EMBED, worker(cluster).address)
    finally:
        shutil.rmtree(other)


def test_a_full_disk_on_one_host(cluster):
    worker(cluster).run("mount -o remount,size=900m /tmp")
    try:
        lacks(cluster, DISK, EMBED, worker(cluster).address)
    finally:
        worker(cluster).run("mount -o remount,size=10g /tmp")


def test_more_than_the_nodes_have(cluster):
    refused(
        cluster, f"{EMBED} --embed-cpus 64", "don't fit", "fewer or smaller workers"
    )
    refused(cluster, f"{EMBED} --memory-per-worker 999", "GiB of memory don't fit")
    refused(cluster, f"{EMBED} --use-gpu yes", "no node has a GPU", "use_gpu to no")
    refused(cluster, f"{EMBED} --accelerator-type H100", "a GPU of type H100")


def test_a_client_with_another_token(cluster):
    (cluster.head.home / "wrong").write_text("0" * 64)
    told = f"RAY_AUTH_TOKEN_PATH=~/wrong {EMBED} --address {cluster.head.address}:6379"
    refused(cluster, told, "token is missing or incorrect", "RAY_AUTH_MODE=token")


def test_a_host_with_another_token_cannot_join(cluster):
    """In Ray's own words, within a minute."""
    stranger = cluster.laptop
    (stranger.home / "wrong").write_text("0" * 64)
    join = (
        f"RAY_AUTH_TOKEN_PATH=~/wrong ray start --address={cluster.head.address}:6379"
    )
    done = stranger.run(join, 120, check=False, **TOKEN)
    assert done.returncode != 0
    assert STRANGER.message in done.stdout + done.stderr
    assert stranger.address not in cluster.nodes()


def test_a_host_that_has_just_died(cluster):
    """Ray takes half a minute to notice; the wait for its answer isn't silent."""
    dead = cluster.hosts[WORKERS[1]]
    dead.cut()
    try:
        done = cluster.at_head(EMBED, 200, check=False)
        said = done.stdout + done.stderr
        gone = "Joined" in said and "2 nodes" in said  # noticed before we asked
        assert gone or SILENT.message.rpartition("... ")[2] in said, said
        assert gone or "nodes don't answer yet" in said
    finally:
        dead.restore()
        cluster.wait_for(3, 300)


def test_then_all_is_well_again(cluster):
    said = cluster.at_head("python -m doggos_helpers.cluster", 200, check=False).stdout
    assert "NOT OK" not in said and said.count("has what the driver has") == 3, said
