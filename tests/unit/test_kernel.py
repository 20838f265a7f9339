"""What an interrupted cell held is let go of."""

import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from doggos_helpers.cluster.kernel import let_go_after_interrupts

CELL = """
import weakref
class Worker: pass
def cell():
    worker = Worker()
    held.append(weakref.ref(worker))
    raise {error}
cell()
"""


@pytest.fixture
def shell():
    quiet = Config({"HistoryManager": {"enabled": False}})
    yield InteractiveShell.instance(config=quiet)
    InteractiveShell.clear_instance()
    for name in ("last_exc", "last_value", "last_traceback"):
        setattr(sys, name, None)


@pytest.mark.parametrize(
    ("error", "gone"), [("KeyboardInterrupt", True), ("ValueError", False)]
)
def test_after_an_interrupt_nothing_holds_the_workers(shell, error, gone, capsys):
    let_go_after_interrupts()
    let_go_after_interrupts()  # every connect does
    shell.user_ns["held"] = held = []
    result = shell.run_cell(CELL.format(error=error))
    assert error in capsys.readouterr().out  # it was shown
    assert type(result.error_in_exec).__name__ == error
    # Another error's traceback stays, for `%debug`.
    assert (held[0]() is None) is gone
