"""The doctor: what a person who is asked for help wants to see, one line a finding.

What needs no Ray comes first; what each node has to say for itself comes last.
"""

import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import requires
from typing import Any

import ray
from packaging.requirements import Requirement
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from doggos_helpers.artefacts import RECORDED, check_storage, in_bucket, installed
from doggos_helpers.clip.model import check_model
from doggos_helpers.cluster.connect import connect
from doggos_helpers.cluster.nodes import growth_limits, live_nodes, node_name
from doggos_helpers.cluster.plan import GIB, plan_workers
from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.environment import token_source
from doggos_helpers.errors import DoggosError
from doggos_helpers.serve.service import check_port
from doggos_helpers.settings import Settings
from doggos_helpers.train.tracking import open_tracking

LEAST_FREE = 1 * GIB
NODE_S = 120  # the first task on a node starts a worker and imports Ray
MEND = "Mend what the message names, or report it with the log of the command"
SAME = "Give it what the driver has: packages, DOGGOS_STORAGE, DOGGOS_MODEL, free disk"

Check = Callable[[Settings], Any]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor; with a fix, it is not ok."""

    name: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        """Say `ok` or `NOT OK`, what was looked at, and the fix below it."""
        first = f"{'NOT OK' if self.fix else 'ok':<8}{self.name:<10}{self.text}"
        return f"{first}\n        Fix: {self.fix}." if self.fix else first


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that the series needs, in order; nothing is raised.

    It stays connected to the Ray that a notebook would join or start.
    """
    s, python = settings, f"Python {sys.version.split()[0]}, {sys.executable}"
    for name, check, text in (
        ("versions", _check_versions, f"{python}, packages as pinned"),
        ("storage", _check_storage, f"{s.storage_root}, writable"),
        ("data set", build_manifest, s.dataset_root),
        ("model", check_model, s.model),
        ("MLflow", lambda s: open_tracking(s.tracking), s.tracking),
        ("port", check_port, f"{s.host}:{s.port} is free for the service"),
        ("Ray", connect, f"answers, with the token {token_source()}"),
    ):
        found = _finding(name, check, settings, text)
        yield found
    if not found.fix:
        yield from _examine_nodes(settings)


def _finding(name: str, check: Check, settings: Settings, text: str) -> Finding:
    """Run a check, and say this text where it raises nothing."""
    try:
        check(settings)
    except Exception as error:  # a patient is examined to the end
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding(name, said, getattr(error, "fix", "") or MEND)
    return Finding(name, text)


def _check_versions(settings: Settings) -> None:
    wrong = []
    for wanted in map(Requirement, requires("doggos-helpers") or ()):
        found = installed(wanted.name)
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} is {found}, not {wanted.specifier}")
    if wrong:
        fix = "Install the pinned versions: pip install -r requirements.txt"
        raise DoggosError("; ".join(wrong), fix=fix)


def _check_storage(settings: Settings) -> None:
    """Try to write there, and look for room: here, and on each node."""
    check_storage(settings)
    root = settings.storage_root
    for disk in ("/",) if in_bucket(root) else ("/", str(root)):
        if (free := shutil.disk_usage(disk).free) < LEAST_FREE:
            fix = "Free space there, or set DOGGOS_STORAGE to another folder"
            raise DoggosError(f"only {free / GIB:.1f} GiB are free", disk, fix)


def _examine_nodes(settings: Settings) -> Iterator[Finding]:
    """Tell the plan, and what each node lacks of what the driver has."""
    nodes, here = live_nodes(), versions()
    plan = plan_workers(nodes, settings, growth_limits(settings))
    for line in str(plan).splitlines():
        yield Finding("plan", line)
    task, asked = ray.remote(num_cpus=0, max_retries=0)(report), {}
    marker = settings.storage_root / f".doctor-{uuid.uuid4().hex}"
    marker.write_bytes(b"")
    try:
        for raw in ray.nodes():
            there = NodeAffinitySchedulingStrategy(raw["NodeID"], soft=False)
            sent = task.options(scheduling_strategy=there)
            asked[node_name(raw)] = sent.remote(settings, marker.name, here)
        ray.wait([*asked.values()], num_returns=len(asked), timeout=NODE_S)
        for node in nodes:
            try:
                wrong = ray.get(asked[node.name], timeout=1)
            except RayError as error:
                wrong = [f"no answer: {str(error).splitlines()[-1]}"]
            text = "; ".join(wrong) or "has what the driver has"
            yield Finding("node", f"{node}; {text}", SAME if wrong else "")
    finally:
        marker.unlink()


def report(settings: Settings, marker: str, wanted: dict[str, str]) -> list[str]:
    """Say what a node lacks. Runs on that node."""
    here = versions()
    wrong = [f"{k} is {here[k]}, not {wanted[k]}" for k in here if here[k] != wanted[k]]
    for check in (_check_storage, check_model):
        found = _finding("", check, settings, "")
        wrong += [found.text] if found.fix else []
    if not (settings.storage_root / marker).exists():
        wrong.append(f"it sees another storage than the driver: {marker}")
    return wrong


def versions() -> dict[str, str]:
    """Return the versions that all nodes must share."""
    python = {"Python": sys.version.split()[0]}
    return python | {name: installed(name) for name in RECORDED}
