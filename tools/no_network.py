"""Runs a command where the network leads nowhere, and lists whom it tried to reach.

python tools/no_network.py make tutorial

The command gets a network namespace of its own: loopback, and a default route into a
cable whose other end is watched. So an attempt is seen whether or not anybody would
have answered. The exit code is the command's, or 9 where that succeeded and tried.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence

NEAR, FAR, OWN = "near0", "far0", "192.0.2.2"
SET_UP = f"""
link set lo up
link add {NEAR} type veth peer name {FAR}
addr add {OWN}/24 dev {NEAR}
link set {NEAR} arp off
link set {NEAR} up
link set {FAR} up
route add unreachable 169.254.169.254
route add default dev {NEAR}
"""
ATTEMPTS = 9
IPV4, UDP, TCP, DNS, ALL = 0x0800, 17, 6, 53, 0x0003
# Ray 2.60's dashboard asks which cloud it runs in before it looks whether reports are
# off (usage_stats_head.py, `run`); no setting stops it. It asks the link-local address
# 169.254.169.254, which leaves no machine, and this name.
# torch.distributed asks for the name of its own workers' addresses (c10d, socket.cpp).
REVERSE = ".".join([*reversed(OWN.split(".")), "in-addr", "arpa"])
EXEMPT = ("metadata.google.internal", REVERSE)


def can_cut() -> str:
    """Return why this user can't run a command like this; empty where he can."""
    for tool in ("unshare", "ip"):
        if not shutil.which(tool):
            return f"no {tool} here"
    made = ["unshare", "-n", "ip", "link", "add", NEAR, "type", "veth"]
    tried = subprocess.run(made, capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"no such network: {tried.stderr.strip()}"


def destination(frame: bytes, from_near: bool) -> str:
    """Say whom an Ethernet frame is for; empty where that is no news.

    Args:
        frame: As it was sent.
        from_near: Whether it went into the cable; else it is loopback's, where only
            questions to a name server count.
    """
    if struct.unpack("!H", frame[12:14])[0] != IPV4:
        return ""
    packet = frame[14:]
    body = packet[(packet[0] & 15) * 4 :]
    if packet[9] not in (TCP, UDP) or len(body) < 4:
        return socket.inet_ntoa(packet[16:20]) if from_near else ""
    port = struct.unpack("!H", body[2:4])[0]
    if packet[9] == UDP and port == DNS:
        name = _asked(body[8:])
        return "" if name.removesuffix(".").endswith(EXEMPT) else f"the name {name}"
    return f"{socket.inet_ntoa(packet[16:20])}:{port}" if from_near else ""


def _asked(question: bytes) -> str:
    """Read the name in a DNS question."""
    labels, at = [], 12
    while at < len(question) and question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode("latin-1"))
        at += 1 + question[at]
    return ".".join(labels)


def watch(
    found: Counter[str], listening: socket.socket, ended: threading.Event
) -> None:
    """Count the destinations of what is sent, until the end."""
    listening.settimeout(0.2)
    while not ended.is_set():
        try:
            frame, (interface, *_) = listening.recvfrom(2048)
        except TimeoutError:
            continue
        if interface != NEAR and (whom := destination(frame, interface == FAR)):
            found[whom] += 1


def inside(command: Sequence[str]) -> int:
    """Set the network up, run the command, and say whom it tried to reach."""
    for line in SET_UP.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    for interface in (NEAR, FAR):  # no neighbour discovery of its own
        with open(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6", "w") as file:
            file.write("1")
    found, ended = Counter[str](), threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)) as wire:
        watching = threading.Thread(target=watch, args=(found, wire, ended))
        watching.start()
        try:
            code = subprocess.call(command)
            time.sleep(1)
        finally:
            ended.set()
            watching.join()
    for whom, count in found.most_common():
        print(f"tried to reach {whom} ({count} packets)", file=sys.stderr)
    if not found:
        print("no network call was tried", file=sys.stderr)
    return code or (ATTEMPTS if found else 0)


def main(arguments: Sequence[str]) -> int:
    """Run the command, or say why that can't be done."""
    if arguments[:1] == ["--inside"]:
        return inside(arguments[1:])
    if not arguments:
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    if why := can_cut():
        print(f"error: {why}. Fix: run as root on Linux, with iproute2.")
        return 2
    os.execvp(
        "unshare", ["unshare", "-n", sys.executable, __file__, "--inside", *arguments]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
