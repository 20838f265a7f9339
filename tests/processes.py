"""Processes that tests start, press Ctrl-C in, and end whatever happens."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

import psutil
import pytest

END_S = 20
# Root without the right to pass over permissions. Unlike another user, it reaches this
# folder and its Python wherever they are.
RIGHTS = "=-dac_override,-dac_read_search"
BOUND = ["setpriv", f"--bounding-set{RIGHTS}", f"--inh-caps{RIGHTS}"]
REFUSABLE = BOUND if os.geteuid() == 0 else []
needs_refusal = pytest.mark.skipif(
    os.geteuid() == 0
    and not (shutil.which("setpriv") and not subprocess.call([*BOUND, "true"])),
    reason="root may do anything, and setpriv can't change that here",
)


def at_a_terminal(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a command that Ctrl-C ends, in a process group of its own.

    Where a shell starts the tests in the background, they ignore Ctrl-C, and what they
    start inherits that.
    """
    return subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all that it started; none where it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def end(processes: Iterable[psutil.Process], wait_s: float = 0) -> list[str]:
    """Kill those that still run after a while; return their commands."""
    _, left = psutil.wait_procs(processes, wait_s)
    told = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            told.append(f"{process.pid} {' '.join(process.cmdline())[:150]}")
            process.kill()
    psutil.wait_procs(left, END_S)
    return told
