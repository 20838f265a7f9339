"""On the defaults no network call is even tried.

The command runs in a network that leads nowhere and is watched, without the variables
of CI and pytest, which switch some libraries' reports off. `.ci/run` runs the whole
series like that.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.no_network import ATTEMPTS, can_cut

ROOT = Path(__file__).resolve().parents[2]
CUT = can_cut()
pytestmark = pytest.mark.skipif(bool(CUT), reason=CUT)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command in that network, with next to nothing in its environment."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "no_network.py"), *command],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "RES_OPTIONS": "timeout:1 attempts:1",  # of names; there are none here
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("attempt", "whom"),
    [
        ("socket.getaddrinfo('pypi.org', 443)", "the name pypi.org"),
        ("socket.create_connection(('192.0.2.99', 80), 0.3)", "192.0.2.99:80"),
        (
            "socket.socket(type=socket.SOCK_DGRAM).sendto(b'.', ('198.51.100.1', 9))",
            "198.51.100.1:9",
        ),
    ],
)
def test_the_watch_sees_an_attempt(tmp_path: Path, attempt: str, whom: str) -> None:
    code = f"import socket\ntry: {attempt}\nexcept OSError: 0"
    seen = run(tmp_path, sys.executable, "-c", code)
    assert seen.returncode == ATTEMPTS and f"tried to reach {whom} " in seen.stderr


@pytest.mark.long  # .ci/run does the same with the whole series
def test_embedding_the_sample_tries_no_network_call(tmp_path: Path) -> None:
    command = "doggos_helpers.embed --address local --images-per-class 1".split()
    seen = run(tmp_path, sys.executable, "-m", *command)
    assert "embedded + 0 bad" in seen.stdout
    assert "no network call was tried" in seen.stderr, seen.stderr
    assert seen.returncode == 0
