"""Several hosts on this machine, and a shell on one of them: `make hosts`.

They end with the shell. Needs root, iproute2, openssh-server and rsync.
"""

import os
import shutil
import subprocess
import sys

from tests.hosts.hosts import ROOT, Hosts, missing
from tests.hosts.launched import WORKERS, Launched

FOLDER = ROOT / "build" / "hosts"


def main() -> int:
    """Start a laptop, a head and two workers, and a shell on the laptop."""
    if why := missing():
        print(f"error: {why}", file=sys.stderr)
        return 1
    shutil.rmtree(FOLDER, ignore_errors=True)
    with Hosts(FOLDER, ["laptop", "head", *WORKERS]) as hosts:
        cluster = Launched(hosts)
        for host in hosts:
            print(f"{host.name:<8} {host.address}   ssh {host.address}")
        print(f"{hosts.shared} is the folder that all of them share.\nTo launch Ray:\n")
        for name, value in cluster.yours.items():
            print(f"  export {name}={value}")
        print(
            "  python deploy/fill.py deploy/launcher/onprem.yaml > ~/onprem.yaml\n"
            "  export RAY_AUTH_MODE=token; ray get-auth-token --generate\n"
            "  ray up ~/onprem.yaml\n\n`exit` ends the hosts."
        )
        shell = f"cd {ROOT}; PS1='laptop$ ' exec bash --norc -i"
        term = {"TERM": os.environ.get("TERM", "dumb")}
        laptop = hosts["laptop"]
        return subprocess.call(laptop.entered(shell), env=laptop.environment(term))


if __name__ == "__main__":
    sys.exit(main())
