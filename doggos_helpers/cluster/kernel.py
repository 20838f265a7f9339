"""What a notebook does about a cell that was interrupted."""

import gc
import sys
from typing import Any


def let_go_after_interrupts() -> None:
    """Have the kernel let go of what an interrupted cell held.

    Its traceback would keep that until the next error: the workers of a Ray Data
    pipeline, too, and the same cell, run again, would wait for their CPUs for ever.
    Harmless if called twice, and outside of IPython.
    """
    ipython = sys.modules.get("IPython")
    if shell := ipython and ipython.get_ipython():
        shell.events.register("post_run_cell", _let_go)


def _let_go(result: Any) -> None:
    if isinstance(result.error_in_exec, KeyboardInterrupt):
        shell = sys.modules["IPython"].get_ipython()
        result.error_in_exec.__traceback__ = shell.InteractiveTB.tb = None
        for name in ("last_exc", "last_value", "last_traceback"):
            setattr(sys, name, None)
        gc.collect()  # an actor pool and its operator refer to each other
