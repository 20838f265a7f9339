"""A second node on this machine, to see how a cluster grows and shrinks."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ray

from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.nodes import RAY, live_nodes
from doggos_helpers.cluster.plan import Node
from doggos_helpers.environment import environment
from doggos_helpers.errors import ClusterError

START_S = 120
OBJECT_STORE_BYTES = 100 * 2**20
END_S = 20


@contextlib.contextmanager
def another_node(cluster: Cluster) -> Iterator[Node]:
    """Start a Ray node of one CPU here, which joins the cluster; end it after a block.

    It is what `ray start --address` starts on a machine of its own.

    Raises:
        ClusterError: It didn't join within two minutes.
    """
    before = set(live_nodes())
    command = [
        *(*RAY, "start", "--block"),
        f"--address={cluster.address}",
        f"--node-ip-address={ray.util.get_node_ip_address()}",
        *("--num-cpus=1", "--num-gpus=0"),
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        # The defaults are for one node a machine.
        *("--dashboard-agent-listen-port=0", "--min-worker-port=0"),
        "--max-worker-port=0",
    ]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        # Where Ray notes the cluster for the next `ray.init()`: that isn't for others.
        with log.open("w") as output, environment(RAY_TMPDIR=folder):
            node = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + START_S
            while not (new := set(live_nodes()) - before):
                if node.poll() is not None or time.monotonic() > deadline:
                    said = " ".join(log.read_text().split()[-30:])
                    what = f"no second node came up ({said})"
                    fix = "Run it again when the machine is less busy"
                    raise ClusterError(what, cluster.address, fix)
                time.sleep(0.2)
            yield new.pop()
        finally:
            node.terminate()  # drains it, and ends what it started
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(END_S)
            node.kill()
