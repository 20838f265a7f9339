"""On the defaults no network call is even tried.

The command runs in a network namespace that has loopback alone, without the variables
of CI and pytest, which switch some libraries' reports off; strace notes each attempt.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRACED = "connect,sendto,sendmsg,sendmmsg"
ADDRESS = re.compile(
    r"sin_port=htons\((?P<port>\d+)\), sin_addr=inet_addr\(\"(?P<v4>[^\"]+)\"\)"
    r"|sin6_port=htons\((?P<port6>\d+)\).*?inet_pton\(AF_INET6, \"(?P<v6>[^\"]+)\""
)
LOOPBACK = ("127.", "0.0.0.0", "::1", "::ffff:127.")
# Ray 2.60's dashboard asks which cloud it runs in before it looks whether reports are
# off (usage_stats_head.py, `run`); no setting stops it. The address is link-local: no
# packet gets beyond the machine or its hypervisor. It also looks up Google's name for
# it, hence the same thread's DNS queries.
CLOUD = "169.254.169.254"


def can_cut() -> bool:
    """Whether this user may make a network namespace."""
    tools = all(map(shutil.which, ("unshare", "ip")))
    return tools and not subprocess.run(["unshare", "-n", "true"]).returncode


pytestmark = [
    pytest.mark.skipif(not shutil.which("strace"), reason="no strace here"),
    pytest.mark.skipif(not can_cut(), reason="no network namespace without root"),
]


def attempts(trace: str) -> list[str]:
    """Return the traced calls to addresses beyond this machine, but Ray's to CLOUD."""
    found = []
    for line in trace.splitlines():
        match = ADDRESS.search(line)
        if match and not (match["v4"] or match["v6"]).startswith(LOOPBACK):
            found.append((line.split()[0], match["port"] or match["port6"], line))
    asked = {thread for thread, port, line in found if CLOUD in line and port == "80"}
    exempt = [
        line
        for thread, port, line in found
        if thread in asked and (port == "53" or CLOUD in line)
    ]
    return [line for _, _, line in found if line not in exempt]


def trace(folder: Path, *command: str) -> tuple[str, str]:
    """Run a command, cut off and watched; return its output and what it tried."""
    log = folder / "trace.log"
    watched = f"strace -f --seccomp-bpf -e trace={TRACED} -s 64 -o {log}".split()
    in_namespace = 'ip link set lo up && exec "$@"'
    ran = subprocess.run(
        ["unshare", "-n", "sh", "-c", in_namespace, "sh", *watched, *command],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout, log.read_text()


def test_the_watch_sees_an_attempt(tmp_path: Path) -> None:
    ask = "import socket\ntry: socket.getaddrinfo('pypi.org', 443)\nexcept OSError: 0\n"
    ask += "s = socket.socket()\ntry: s.connect(('192.0.2.1', 80))\nexcept OSError: 0"
    _, calls = trace(tmp_path, sys.executable, "-c", ask)
    assert any("192.0.2.1" in line for line in attempts(calls))


def test_embedding_the_sample_tries_no_network_call(tmp_path: Path) -> None:
    command = "doggos_helpers.embed --address local --images-per-class 1".split()
    output, calls = trace(tmp_path, sys.executable, "-m", *command)
    assert "embedded + 0 bad" in output
    assert "127.0.0.1" in calls, "Ray's own calls on loopback were not seen"
    assert attempts(calls) == []
