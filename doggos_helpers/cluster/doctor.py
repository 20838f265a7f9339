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

from doggos_helpers.artefacts import check_storage
from doggos_helpers.clip.model import check_model
from doggos_helpers.cluster.connect import connect, disconnect, is_connected
from doggos_helpers.cluster.nodes import node_name
from doggos_helpers.cluster.plan import GIB
from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.errors import ClusterError, DoggosError, ServiceError, StorageError
from doggos_helpers.serve.service import free_port
from doggos_helpers.settings import SAMPLE, Settings, token_source

DISTRIBUTION = "doggos-helpers"
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
    for name, check in {
        "Python": _python,
        "versions": _versions,
        "storage": _storage,
        "data set": _dataset,
        "model": _model,
        "MLflow": _tracking,
        "port": _port,
    }.items():
        yield _finding(name, check, settings)
    yield from examine_cluster(settings)


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


def _python(settings: Settings) -> str:
    return f"{sys.version.split()[0]}, {sys.executable}"


def pins() -> dict[str, str]:
    """Return the versions that this package asks for, by distribution.

    Empty where it isn't installed, as on workers to which Ray ships it.
    """
    from packaging.requirements import Requirement

    try:
        found = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return {}
    return {r.name: str(r.specifier) for r in found if not r.marker}


def off_pins(pinned: Mapping[str, str]) -> list[str]:
    """Name what is installed here in another version, or not at all."""
    from packaging.specifiers import SpecifierSet

    wrong = []
    for name, wanted in pinned.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is missing, not {wanted}")
            continue
        if not SpecifierSet(wanted).contains(found, prereleases=True):
            wrong.append(f"{name} is {found}, not {wanted}")
    return wrong


def _versions(settings: Settings) -> str:
    pinned = pins()
    if wrong := off_pins(pinned):
        fix = "Install the pinned versions: pip install -r requirements.txt"
        raise ClusterError("; ".join(wrong), "", fix)
    if not pinned:
        return "not installed as a package: no pins to compare with"
    return f"{len(pinned)} packages as pinned"


def _storage(settings: Settings) -> str:
    check_storage(settings)
    root = settings.storage_root
    free = shutil.disk_usage(root).free
    if free < LEAST_FREE:
        raise StorageError(
            f"only {free / GIB:.1f} GiB are free",
            str(root),
            "Free space there, or set DOGGOS_STORAGE to another folder",
        )
    return f"{root}, writable, {free / GIB:.0f} GiB free"


def _dataset(settings: Settings) -> str:
    if settings.dataset == SAMPLE and not Path(settings.dataset_root).is_dir():
        return "the sample, which the first use draws"
    manifest = build_manifest(settings)
    counts = f"{manifest.table.num_rows} images, {len(manifest.classes)} classes"
    return f"{settings.dataset_root}: {counts}"


def _model(settings: Settings) -> str:
    check_model(settings)
    try:
        check_model(settings, ["text"])
    except DoggosError as error:
        return f"{settings.model}, for images alone ({error.what})"
    return f"{settings.model}, for images and texts"


def _tracking(settings: Settings) -> str:
    from doggos_helpers.train.tracking import open_tracking

    open_tracking(settings.tracking)
    return settings.tracking


def _port(settings: Settings) -> str:
    where = f"{settings.host}:{settings.port}"
    try:
        free_port(settings.host, settings.port)
    except OSError as error:
        raise ServiceError(
            f"notebook 06 can't serve there ({error.strerror})",
            where,
            "End what listens there (it may be the app of notebook 06), or set"
            " another port (DOGGOS_PORT)",
        ) from error
    return f"{where} is free for the service"


def examine_cluster(settings: Settings) -> Iterator[Finding]:
    """Join or start the Ray that a notebook would, ask each node, and leave it."""
    said, joined_before = io.StringIO(), is_connected()
    try:
        with contextlib.redirect_stdout(said):
            cluster = connect(settings)
        yield Finding("Ray", str(cluster))
        yield _finding("token", _token, settings)
        plan = ", ".join(
            f"{row['stage']} {row['workers']} x {row['cpus']:g} CPU"
            for row in cluster.plan.rows()
        )
        yield Finding("plan", f"{cluster.plan.device}: {plan}")
        marker = Path(settings.storage_root) / f".doctor-{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            marker.touch()
        try:
            reports = _ask_nodes(settings, marker)
            for node in cluster.nodes:
                yield _node(node, reports.get(node.name))
        finally:
            marker.unlink(missing_ok=True)
    except DoggosError as error:
        yield Finding("Ray", f"{error.what}: {error.where}", error.fix)
    finally:
        if not joined_before:
            disconnect()


def _token(settings: Settings) -> str:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    if not is_token_auth_enabled():
        return "off (RAY_AUTH_MODE): whoever reaches the cluster's ports can use it"
    return f"asked for and given, from {token_source()}"


def _ask_nodes(settings: Settings, marker: Path) -> dict[str, dict[str, Any]]:
    """Run `report` on every node; one that doesn't answer is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(report)
    pinned = {name: p for name, p in pins().items() if name not in OF_DRIVERS}
    asked = {}
    for raw in ray.nodes():
        if raw["Alive"]:
            here = NodeAffinitySchedulingStrategy(raw["NodeID"], soft=False)
            answer = task.options(scheduling_strategy=here).remote(
                settings, str(marker), pinned
            )
            asked[answer] = node_name(raw)
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_S)
    reports = {}
    for answer in ready:
        with contextlib.suppress(Exception):  # then it counts as not answering
            reports[asked[answer]] = ray.get(answer)
    return reports


def report(settings: Settings, marker: str, pinned: dict[str, str]) -> dict[str, Any]:
    """Say what a node has and lacks. Runs on that node."""
    problems = off_pins(pinned)
    for check in (check_storage, check_model):
        try:
            check(settings)
        except DoggosError as error:
            problems.append(f"{error.what}: {error.where}")
    if not Path(marker).exists():
        problems.append(f"it sees another storage than the driver: {marker}")
    disk = next(p for p in (Path(marker), *Path(marker).parents) if p.exists())
    return {
        "python": sys.version.split()[0],
        "free": shutil.disk_usage(disk).free,
        "problems": problems,
    }


def _node(node: Any, told: dict[str, Any] | None) -> Finding:
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
