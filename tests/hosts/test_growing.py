"""A cluster of Ray's own fake provider: from nothing to the plan, and down again."""

from pathlib import Path

import pytest

from tests.hosts.hosts import ROOT, Hosts, needs_hosts


@needs_hosts
@pytest.mark.long
def test_it_grows_to_what_the_plan_asks_and_shrinks_again(session_folder: Path):
    with Hosts(session_folder / "growing", ["cloud"]) as hosts:
        command = f"python {ROOT}/tests/hosts/growing.py {hosts.shared}"
        done = hosts["cloud"].run(command, 500, check=False, RAY_AUTH_MODE="disabled")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "Waiting for room for 4 workers of" in done.stdout
        assert "grown in" in done.stdout and "shrunk in" in done.stdout
