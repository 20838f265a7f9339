"""A Ray cluster on hosts, by the Cluster Launcher, started as from a laptop."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hosts.hosts import ROOT, Host, Hosts

WORKERS = ("worker1", "worker2")
UP_S, JOIN_S, DOWN_S = 300, 300, 120
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_UP_enable_autoscaler_v2": "1"}
PROFILE = ". ~/.doggos-profile; "
COUNT = """
import json, ray
ray.init(address="auto", log_to_driver=False, logging_level=40)
nodes = [n for n in ray.nodes() if n["Alive"]]
print(json.dumps({n["NodeManagerAddress"]: n["Resources"].get("CPU") for n in nodes}))
"""


class Launched:
    """What `ray up` made of the hosts.

    Every command is one that a page tells people to type, on the host where they would.
    """

    def __init__(self, hosts: Hosts) -> None:
        """Give each host what a machine of somebody's has: Python, packages, SSH."""
        self.hosts, self.laptop, self.head = hosts, hosts["laptop"], hosts["head"]
        for host in hosts:
            # What `pip install` puts there takes minutes, and the hosts no network.
            (host.home / ".doggos-env").symlink_to(sys.prefix)
            config = "Host *\n  StrictHostKeyChecking no\n  LogLevel ERROR\n"
            (host.home / ".ssh" / "config").write_text(config)
        self.yours = {
            "HEAD_IP": self.head.address,
            "WORKER_IPS": ",".join(hosts[name].address for name in WORKERS),
            "SSH_USER": "root",
            "STORAGE": str(hosts.shared),
        }

    def up(self) -> None:
        """Follow the top of onprem.yaml, and wait until every host has joined."""
        fill = "python deploy/fill.py deploy/launcher/onprem.yaml > ~/onprem.yaml"
        self.laptop.run(f"cd {ROOT} && {fill}", **self.yours)
        self.laptop.run("ray get-auth-token --generate", **TOKEN)
        self.laptop.run("ray up -y --no-config-cache ~/onprem.yaml", UP_S, **TOKEN)
        self.wait_for(1 + len(WORKERS), JOIN_S)

    def wait_for(self, count: int, seconds: float) -> None:
        """Return once so many nodes are alive."""
        deadline = time.monotonic() + seconds
        while len(self.nodes()) != count:
            assert time.monotonic() < deadline, self.told()
            time.sleep(3)

    def nodes(self) -> dict[str, float]:
        """Return the CPUs of each node that is alive, by its address."""
        (self.head.home / "count.py").write_text(COUNT)
        done = self.at_head("python ~/count.py", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def at_head(self, command: str, timeout: float = 120, **options):
        """Run a command on the head, as somebody who has logged in there."""
        return self.head.run(PROFILE + command, timeout, **options)

    def job(self, command: str, timeout: float = 300, check: bool = True):
        """Submit a job from the head, and wait for its end."""
        submit = "ray job submit --address http://127.0.0.1:8265 -- "
        return self.at_head(submit + command, timeout, check=check)

    def told(self) -> str:
        """Return the end of what the head's autoscaler and the laptop say."""
        logs = "tail -n 40 /tmp/ray/session_latest/logs/monitor.*"
        return self.head.run(logs, check=False).stdout

    def down(self) -> None:
        """End the cluster from the laptop."""
        self.laptop.run("ray down -y ~/onprem.yaml", DOWN_S, **TOKEN)


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[Launched]:
    """Run a launched cluster of a head and two workers for the length of a block."""
    with Hosts(folder, ["laptop", "head", *WORKERS]) as hosts:
        cluster = Launched(hosts)
        cluster.up()
        yield cluster


def processes(host: Host) -> str:
    """Name the Ray processes of a host."""
    return host.run(
        "ps ax -o args= | grep -E 'gcs_server|raylet' | grep -v grep || true"
    ).stdout
