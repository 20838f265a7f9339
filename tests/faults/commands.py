"""Running commands of the package, in this process or in their own."""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import pytest

from doggos_helpers.errors import run_command
from tests.faults.case import Outcome

TIMEOUT_S = 180


def in_process(command: Sequence[str], variables, monkeypatch, capfd) -> Outcome:
    """Run a command in this process, to spare the seconds of its imports."""
    stage, *options = command
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [stage, *options])
    main = importlib.import_module(f"doggos_helpers.{stage}.__main__").main
    capfd.readouterr()
    started = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    seconds = time.monotonic() - started
    said = capfd.readouterr()
    return Outcome(int(ended.value.code or 0), said.out, said.err, seconds)


def in_its_own(command: Sequence[str], variables: Mapping[str, str]) -> Outcome:
    """Run a command as a user does."""
    stage, *options = command
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"doggos_helpers.{stage}", *options],
        env=os.environ | dict(variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    seconds = time.monotonic() - started
    return Outcome(done.returncode, done.stdout, done.stderr, seconds)
