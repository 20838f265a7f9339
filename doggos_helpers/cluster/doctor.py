"""The doctor: what a person who is asked for help wants to see, one line a finding.

What needs no Ray comes first; what each node has to say for itself comes last.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import requires
from typing import Any

from packaging.requirements import Requirement

from doggos_helpers.artefacts import check_storage, installed
from doggos_helpers.clip.model import check_model
from doggos_helpers.cluster.alike import SAME, lacking
from doggos_helpers.cluster.connect import connect
from doggos_helpers.cluster.nodes import growth_limits, live_nodes
from doggos_helpers.cluster.plan import plan_workers
from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.environment import token_source
from doggos_helpers.errors import DoggosError
from doggos_helpers.places import SAMPLE
from doggos_helpers.serve.service import check_port
from doggos_helpers.settings import Settings
from doggos_helpers.train.tracking import open_tracking

MEND = "Mend what the message names, or report it with the log of the command"
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
        ("storage", check_storage, f"{s.storage_root}, writable"),
        ("data set", lambda s: s.dataset == SAMPLE or build_manifest(s), s.dataset),
        ("model", check_model, s.model),
        ("MLflow", lambda s: open_tracking(s.tracking), s.tracking),
        ("port", check_port, f"{s.host}:{s.port} is free for the service"),
        ("Ray", lambda s: connect(s, alike=False), f"token {token_source()}"),
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


def _examine_nodes(settings: Settings) -> Iterator[Finding]:
    """Tell the plan, and what each node lacks of what the driver has."""
    nodes = live_nodes()
    plan = plan_workers(nodes, settings, growth_limits(settings))
    for line in str(plan).splitlines():
        yield Finding("plan", line)
    for node, wrong in lacking(nodes, settings).items():
        text = "; ".join(wrong) or "has what the driver has"
        yield Finding("node", f"{node}; {text}", SAME if wrong else "")
