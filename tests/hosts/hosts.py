"""Several real hosts on this machine, with networks, processes and SSH of their own.

One outer set of namespaces holds them all, with a bridge between their network cards.
Its first process reads from a pipe of this process: where this process dies, however it
does, the pipe ends, and the kernel ends everything within. Nothing is left outside.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("ip", "tc", "unshare", "nsenter", "ssh", "sshd", "ssh-keygen", "rsync")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
NETWORK = "10.77.0"
MARK = "DOGGOS_TEST_HOME"  # by it the tests know what they have left running
START_S = 20
BRIDGE = f"""
mount -t tmpfs none /run
ip link set lo up
ip link add bridge type bridge
ip address add {NETWORK}.1/24 dev bridge
ip link set bridge up
echo ready
exec cat >/dev/null
"""
# What differs between machines: the name, the home folder, what is in memory.
HOST = """
set -e
hostname {name}
mount -t tmpfs none /run
mkdir /run/tmp /run/sshd
mount --bind /tmp /run/tmp
mount -t tmpfs -o mode=1777 none /tmp
for kept in {kept}; do
  mkdir -p /tmp/$kept
  mount --bind /run/tmp/$kept /tmp/$kept
done
mount -t tmpfs -o size=2g none /dev/shm
mount --bind {folder}/passwd /etc/passwd
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config
"""
SSHD = """
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
"""
# For every shell, as a machine has it on which somebody has installed the tutorial.
PROFILE = """
export PATH={python}:$PATH PYTHONPATH={root} PYTHONSAFEPATH=1
export RAY_USAGE_STATS_ENABLED=0 DO_NOT_TRACK=1 RAY_raylet_start_wait_time_s=120
export TERM=dumb
"""


def missing() -> str:
    """Say why this machine can't run hosts, or nothing."""
    if os.geteuid():
        return "network namespaces need root"
    lacks = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    if lacks:
        return f"{', '.join(lacks)} missing: apt-get install openssh-server rsync"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link"],
        capture_output=True,
    )
    return "" if tried.returncode == 0 else "namespaces can't be made here"


needs_hosts = pytest.mark.skipif(bool(missing()), reason=missing())


@dataclass
class Host:
    """One host: where it is, and what can happen to it."""

    name: str
    number: int
    folder: Path
    hosts: "Hosts"
    init: psutil.Process | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """Its address on the bridge."""
        return f"{NETWORK}.{10 + self.number}"

    @property
    def home(self) -> Path:
        """The home folder of its root, which no other host has."""
        return self.folder / "home"

    def start(self) -> None:
        """Switch it on."""
        script = HOST.format(name=self.name, folder=self.folder, kept=self._kept())
        namespaces = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        command = ["ip", "netns", "exec", self.name, "unshare", *namespaces]
        log = open(self.folder / "sshd.log", "w")
        with log:
            outer = self.hosts.start(
                [*command, "--mount-proc", "sh", "-c", script], log
            )
        deadline = time.monotonic() + START_S
        while not (self.init and self._listens()):
            assert time.monotonic() < deadline, (self.folder / "sshd.log").read_text()
            for process in psutil.Process(outer.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.name() == "sshd" and self.init is None:
                        self.init = process
            time.sleep(0.05)

    def _kept(self) -> str:
        """Say which folders below /tmp the hosts need: this repository, its Python."""
        needed = {ROOT, self.hosts.folder, *map(Path, (sys.prefix, sys.base_prefix))}
        below = [p.relative_to("/tmp") for p in needed if p.is_relative_to("/tmp")]
        return " ".join(map(str, below))

    def _listens(self) -> bool:
        log = self.folder / "sshd.log"
        return "listening on 0.0.0.0" in log.read_text()

    def kill(self) -> None:
        """Pull the plug: every process of it ends at once, by SIGKILL."""
        if self.init:
            self.init.kill()
            psutil.wait_procs([self.init], START_S)
            self.init = None

    def cut(self) -> None:
        """Pull the network cable; what it says goes nowhere, without an error."""
        self.hosts.run("ip", "link", "set", f"to-{self.number}", "down")

    def restore(self) -> None:
        """Put the network cable back."""
        self.hosts.run("ip", "link", "set", f"to-{self.number}", "up")

    def slow(self, rate: str) -> None:
        """Let no more than a rate through its cable, either way, such as 1mbit."""
        limit = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms"]
        self.hosts.run("tc", "qdisc", "replace", "dev", f"to-{self.number}", *limit)
        self.run(f"tc qdisc replace dev eth0 {' '.join(limit)}")

    def hide(self, folder: Path, size: str = "1m") -> None:
        """Mount an empty folder over one that all hosts share."""
        self.run(f"mount -t tmpfs -o size={size} none {folder}")

    def show(self, folder: Path) -> None:
        """Take the empty folder away again."""
        self.run(f"umount {folder}")

    def run(
        self, command: str, timeout: float = 60, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command there, as its root who has logged in."""
        done = subprocess.run(
            self.entered(command),
            env=self.environment(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def popen(self, command: str, log: Path, **variables: str) -> subprocess.Popen:
        """Start a shell command there, and go on."""
        with open(log, "w") as output:
            return subprocess.Popen(
                self.entered(command),
                env=self.environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def entered(self, command: str) -> list[str]:
        """Return the command line that runs a shell command in its namespaces."""
        assert self.init, f"{self.name} is off"
        enter = ["nsenter", "--target", str(self.init.pid), "--all"]
        return [*enter, f"--wd={self.home}", "bash", "-c", f". ~/.bashrc; {command}"]

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        """Return the environment of somebody who has just logged in."""
        mine = {"HOME": str(self.home), "PATH": PATH, "USER": "root"}
        return mine | {MARK: os.environ.get(MARK, "")} | variables


class Hosts:
    """Hosts on one bridge, and a folder that all see: their network file system.

    Args:
        folder: For their homes, keys and logs.
        names: One host each.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.shared = folder, folder / "shared"
        self.keys = folder / "keys"
        self.hosts = {
            name: Host(name, number, folder / name, self)
            for number, name in enumerate(names)
        }

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def __enter__(self) -> "Hosts":
        self.shared.mkdir(parents=True)
        self._make_keys()
        namespaces = ["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child"]
        self.outer = subprocess.Popen(
            ["unshare", *namespaces, "--mount-proc", "sh", "-ec", BRIDGE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": PATH, MARK: os.environ.get(MARK, "")},
            start_new_session=True,  # Ctrl-C is for the tests
        )
        try:
            assert self.outer.stdout and self.outer.stdout.readline() == b"ready\n"
            [self.init] = psutil.Process(self.outer.pid).children()
            for host in self:
                self._make_host(host)
                host.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Switch everything off: the kernel ends what is in the outer namespaces."""
        assert self.outer.stdin and self.outer.stdout
        self.outer.stdin.close()
        self.outer.wait(START_S)
        self.outer.stdout.close()

    def start(self, command: Sequence[str], output: object) -> subprocess.Popen:
        """Start a command beside the hosts."""
        return subprocess.Popen(
            [*self._entered(), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": PATH, MARK: os.environ.get(MARK, "")},
        )

    def run(self, *command: str) -> None:
        """Run a command beside the hosts, where the other ends of their cables are."""
        subprocess.run([*self._entered(), *command], check=True, env={"PATH": PATH})

    def _entered(self) -> list[str]:
        return ["nsenter", "--target", str(self.init.pid), "--all"]

    def _make_keys(self) -> None:
        self.keys.mkdir()
        for name in ("host", "user"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
            subprocess.run([*make, "-f", self.keys / name], check=True)

    def _make_host(self, host: Host) -> None:
        """Write its home and settings, and lay its cable."""
        (host.home / ".ssh").mkdir(parents=True)
        shutil.copy(self.keys / "user", host.home / ".ssh" / "id_ed25519")
        profile = PROFILE.format(python=Path(sys.executable).parent, root=ROOT)
        (host.home / ".bashrc").write_text(profile)
        (host.home / ".bash_profile").write_text(". ~/.bashrc\n")
        accounts = Path("/etc/passwd").read_text().splitlines()
        others = [line for line in accounts if not line.startswith("root:")]
        root = f"root:x:0:0:root:{host.home}:/bin/bash"
        (host.folder / "passwd").write_text("\n".join([root, *others, ""]))
        (host.folder / "sshd_config").write_text(SSHD.format(keys=self.keys))
        name, cable = host.name, f"to-{host.number}"
        self.run("ip", "netns", "add", name)
        ends = ["type", "veth", "peer", "name", "eth0", "netns", name]
        self.run("ip", "link", "add", cable, *ends)
        self.run("ip", "link", "set", cable, "master", "bridge", "up")
        inside = ["ip", "-netns", name]
        self.run(*inside, "link", "set", "lo", "up")
        self.run(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
        self.run(*inside, "link", "set", "eth0", "up")
        self.run(*inside, "route", "add", "default", "via", f"{NETWORK}.1")
