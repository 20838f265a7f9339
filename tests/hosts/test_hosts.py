"""The hosts are hosts: what differs between machines differs, what can fail fails."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.hosts.hosts import MARK, ROOT, Hosts, needs_hosts

pytestmark = needs_hosts
SSH = "ssh -o StrictHostKeyChecking=no -o ConnectTimeout=2"
HOLD = """
import sys, time
from pathlib import Path
from tests.hosts.hosts import Hosts
with Hosts(Path(sys.argv[1]), ["one"]) as hosts:
    hosts["one"].popen("sleep 1000", Path(sys.argv[1]) / "log")
    print("up", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module")
def hosts(session_folder: Path) -> Iterator[Hosts]:
    with Hosts(session_folder / "hosts", ["one", "two"]) as hosts:
        yield hosts


def test_each_has_a_name_processes_and_folders_of_its_own(hosts):
    one, two = hosts["one"], hosts["two"]
    assert one.run("hostname; hostname -I").stdout.split() == ["one", one.address]
    one.run("touch /tmp/seen /dev/shm/seen ~/seen")
    assert two.run("ls /tmp /dev/shm ~").stdout.count("seen") == 0
    assert int(two.run("ls -d /proc/[0-9]* | wc -l").stdout) < 10
    assert not Path("/tmp/seen").exists() and not Path("/dev/shm/seen").exists()


def test_one_logs_in_at_the_other_with_a_key(hosts):
    said = hosts["one"].run(f"{SSH} {hosts['two'].address} 'hostname; which ray'")
    name, ray = said.stdout.split()
    assert name == "two" and ray == str(Path(sys.executable).parent / "ray")


def test_they_share_a_folder_until_it_is_hidden_from_one(hosts):
    (hosts.shared / "file").write_text("all")
    assert hosts["one"].run(f"cat {hosts.shared}/file").stdout == "all"
    hosts["one"].hide(hosts.shared)
    assert hosts["one"].run(f"ls {hosts.shared}").stdout == ""
    assert hosts["two"].run(f"cat {hosts.shared}/file").stdout == "all"
    hosts["one"].show(hosts.shared)
    assert hosts["one"].run(f"cat {hosts.shared}/file").stdout == "all"


def test_a_host_that_is_cut_off_comes_back(hosts):
    reach = f"{SSH} {hosts['two'].address} true"
    hosts["two"].cut()
    assert "timed out" in hosts["one"].run(reach, check=False).stderr
    hosts["two"].restore()
    hosts["one"].run(reach)


def test_a_killed_host_loses_its_processes_and_starts_again_without_them(hosts):
    two = hosts["two"]
    log = two.folder / "log"
    sleeping = two.popen("echo asleep; exec sleep 1000", log)
    until = time.monotonic() + 30
    while "asleep" not in log.read_text():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    two.kill()
    assert sleeping.wait(10) == -signal.SIGKILL
    there = hosts["one"].run(f"{SSH} {two.address} true", check=False)
    assert "refused" in there.stderr or "timed out" in there.stderr
    two.start()
    assert hosts["one"].run(f"{SSH} {two.address} hostname").stdout == "two\n"


def test_a_slow_cable_is_slow(hosts):
    copy = f"head -c 200000 /dev/zero | {SSH} {hosts['two'].address} 'wc -c'"
    hosts["two"].slow("1mbit")
    started = time.monotonic()
    assert hosts["one"].run(copy).stdout.strip() == "200000"
    assert time.monotonic() - started > 1  # 1.6 Mbit
    hosts["two"].slow("1gbit")


def test_nothing_is_left_when_the_tests_are_killed(tmp_path):
    mark = f"killed-{os.getpid()}"
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "hosts")],
        cwd=ROOT,
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
    )
    assert held.stdout and held.stdout.readline() == b"up\n"
    assert len(marked(mark)) > 3
    held.kill()
    held.wait()
    deadline = time.monotonic() + 10
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def marked(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return [line for line in found if line]
