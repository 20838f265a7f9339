"""The doctor: what a person who is asked for help wants to see, one line a finding.

What needs no Ray comes first; what each node has to say for itself comes last.
"""

import contextlib
import io
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import ray
from packaging.requirements import Requirement
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from upath import UPath

from doggos_helpers.artefacts import check_storage, in_bucket
from doggos_helpers.clip.model import check_model
from doggos_helpers.cluster.connect import connect, disconnect
from doggos_helpers.cluster.nodes import node_name
from doggos_helpers.cluster.plan import GIB, Node
from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.environment import token_source
from doggos_helpers.errors import DoggosError
from doggos_helpers.places import SAMPLE
from doggos_helpers.serve.service import check_port
from doggos_helpers.settings import Settings
from doggos_helpers.train.tracking import open_tracking

LEAST_FREE = 1 * GIB
OF_DRIVERS = {"jupyterlab", "ipywidgets", "papermill", "nbmake", "matplotlib"}
NODE_S = 120  # the first task on a node starts a worker and imports Ray


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
    """Look at everything that the series needs, in order; nothing is raised."""
    yield Finding("Python", f"{sys.version.split()[0]}, {sys.executable}")
    if wrong := off_pins(pins()):
        fix = "Install the pinned versions: pip install -r requirements.txt"
        yield Finding("versions", "; ".join(wrong), fix)
    else:
        yield Finding("versions", f"{len(pins())} packages as pinned")
    for name, check in {
        "storage": _storage,
        "data set": _dataset,
        "model": _model,
        "MLflow": _tracking,
        "port": _port,
    }.items():
        yield _finding(name, check, settings)
    yield from _examine_cluster(settings)


def _finding(
    name: str, check: Callable[[Settings], str], settings: Settings
) -> Finding:
    try:
        return Finding(name, check(settings))
    except DoggosError as error:
        where = f": {error.where}" if error.where else ""
        return Finding(name, f"{error.what}{where}", error.fix or "See the message")
    except Exception as error:  # a patient is examined to the end
        first = (str(error).splitlines() or [""])[0]
        fix = "Mend what the message names, or report it with the log of the command"
        return Finding(name, f"{type(error).__name__}: {first}", fix)


def pins() -> dict[str, Requirement]:
    """Return the versions that this package asks for, by distribution.

    Empty where it isn't installed, as on workers to which Ray ships it.
    """
    try:
        found = [Requirement(line) for line in requires("doggos-helpers") or ()]
    except PackageNotFoundError:
        return {}
    return {r.name: r for r in found if not r.marker}


def off_pins(pinned: Mapping[str, Requirement]) -> list[str]:
    """Name what is installed here in another version, or not at all."""
    wrong = []
    for name, wanted in pinned.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is missing, not {wanted.specifier}")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{name} is {found}, not {wanted.specifier}")
    return wrong


def _storage(settings: Settings) -> str:
    check_storage(settings)
    if in_bucket(settings.storage_root):
        return f"{settings.storage_root}, writable"
    free = shutil.disk_usage(str(settings.storage_root)).free
    if free < LEAST_FREE:
        raise DoggosError(
            f"only {free / GIB:.1f} GiB are free",
            str(settings.storage_root),
            "Free space there, or set DOGGOS_STORAGE to another folder",
        )
    return f"{settings.storage_root}, writable, {free / GIB:.0f} GiB free"


def _dataset(settings: Settings) -> str:
    if settings.dataset == SAMPLE and not UPath(settings.dataset_root).is_dir():
        return "the sample, which the first use draws"
    manifest = build_manifest(settings)
    counts = f"{manifest.rows} images, {len(manifest.classes)} classes"
    return f"{settings.dataset_root}: {counts}"


def _model(settings: Settings) -> str:
    check_model(settings)
    try:
        check_model(settings, ["text"])
    except DoggosError as error:
        return f"{settings.model}, for images alone ({error.what})"
    return f"{settings.model}, for images and texts"


def _tracking(settings: Settings) -> str:
    open_tracking(settings.tracking)
    return settings.tracking


def _port(settings: Settings) -> str:
    check_port(settings)
    return f"{settings.host}:{settings.port} is free for the service"


def _examine_cluster(settings: Settings) -> Iterator[Finding]:
    """Join or start the Ray that a notebook would, ask each node, and leave it."""
    joined_before = ray.is_initialized()
    marker = settings.storage_root / f".doctor-{uuid.uuid4().hex}"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cluster = connect(settings)
        yield Finding("Ray", str(cluster))
        yield Finding("token", token_source())
        rows = cluster.plan.rows()
        plan = (f"{r['stage']} {r['workers']} x {r['cpus']:g} CPU" for r in rows)
        yield Finding("plan", f"{cluster.plan.device}: {', '.join(plan)}")
        with contextlib.suppress(OSError):
            marker.write_bytes(b"")
        reports = _ask_nodes(settings, marker)
        for node in cluster.nodes:
            yield _node(node, reports.get(node.name))
    except DoggosError as error:
        yield Finding("Ray", f"{error.what}: {error.where}", error.fix)
    finally:
        with contextlib.suppress(OSError):
            marker.unlink()
        if not joined_before:
            disconnect()


def _ask_nodes(settings: Settings, marker: UPath) -> dict[str, dict[str, Any]]:
    """Run `report` on every node; one that doesn't answer is left out."""
    task = ray.remote(num_cpus=0, max_retries=0)(report)
    pinned = {name: p for name, p in pins().items() if name not in OF_DRIVERS}
    asked = {}
    for raw in (node for node in ray.nodes() if node["Alive"]):
        here = NodeAffinitySchedulingStrategy(raw["NodeID"], soft=False)
        there = task.options(scheduling_strategy=here)
        asked[there.remote(settings, str(marker), pinned)] = node_name(raw)
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_S)
    reports = {}
    for answer in ready:
        with contextlib.suppress(Exception):  # then it counts as not answering
            reports[asked[answer]] = ray.get(answer)
    return reports


def report(
    settings: Settings, marker: str, pinned: Mapping[str, Requirement]
) -> dict[str, Any]:
    """Say what a node has and lacks. Runs on that node."""
    problems = off_pins(pinned)
    for check in (check_storage, check_model):
        try:
            check(settings)
        except DoggosError as error:
            problems.append(f"{error.what}: {error.where}")
    if not UPath(marker).exists():
        problems.append(f"it sees another storage than the driver: {marker}")
    disk = next(p for p in Path(str(marker)).absolute().parents if p.exists())
    free, python = shutil.disk_usage(disk).free, sys.version.split()[0]
    return {"python": python, "free": free, "problems": problems}


def _node(node: Node, told: dict[str, Any] | None) -> Finding:
    kinds = f" ({', '.join(node.accelerators)})" if node.accelerators else ""
    has = (
        f"{node.name}: {node.cpus:g} CPU, {node.gpus:g} GPU{kinds},"
        f" {node.memory / GIB:.1f} GiB memory"
    )
    if told is None:
        fix = "Look at the node's log (ray logs), or remove it from the cluster"
        return Finding("node", f"{has}; no answer within {NODE_S} s", fix)
    has += f", {told['free'] / GIB:.0f} GiB disk free, Python {told['python']}"
    if told["problems"]:
        fix = (
            "Give this node what the driver has: packages, storage and model at the"
            " same paths (DOGGOS_STORAGE, DOGGOS_MODEL)"
        )
        return Finding("node", f"{has}; {'; '.join(told['problems'])}", fix)
    return Finding("node", f"{has}, sees storage and model")
