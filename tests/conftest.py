"""Keep tests away from the user: from storage, database, home folder and Ray.

All of it is set before the first import of the package, in the environment, so that
child processes inherit it.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
# In this order cheap tests fail first.
ORDER = ("unit", "setup", "ray", "faults", "cluster", "hosts", "notebooks", "docs")
RAYS = (
    "ray/",
    "faults/",
    "cluster/",
    "hosts/",
    "notebooks/test_execute",
    "setup/test_lab",
)
# Of those, what runs in clusters of its own: about as long as all the others.
CLUSTERS = (
    "faults/test_kills",
    "faults/test_training_kills",
    "notebooks/test_execute",
)
UNTOUCHED = "test_untouched.py"
CANARY = "canary"
HOME = "DOGGOS_TEST_HOME"
LEFT_S = 20
HELPERS = ("resource_tracker", "loky")  # they end with this process

sys.path.insert(0, str(ROOT))  # for the folder tools/, which is not installed

from tests import processes  # noqa: E402


def _isolate() -> Path:
    """Make a folder for this session and point everything there."""
    (ROOT / "build" / "test").mkdir(parents=True, exist_ok=True)
    session = Path(tempfile.mkdtemp(prefix="session-", dir=ROOT / "build" / "test"))
    for name in [n for n in os.environ if n.startswith(("DOGGOS_", "RAY_", "MLFLOW_"))]:
        if not name.startswith("DOGGOS_TEST_"):
            del os.environ[name]
    # One for all processes that share the tests; the first of them makes it.
    home = Path(os.environ.setdefault(HOME, str(session / "home")))
    (home / ".doggos").mkdir(parents=True, exist_ok=True)
    (home / ".doggos" / CANARY).touch()
    os.environ |= {
        "HOME": str(home),
        "DOGGOS_STORAGE": str(session / "storage"),
        "DOGGOS_TRACKING_URI": f"sqlite:///{session}/mlflow.db",
        # One font cache for all sessions: it takes matplotlib seconds to build.
        "MPLCONFIGDIR": str(ROOT / "build" / "test" / "matplotlib"),
    }
    return session


SESSION = _isolate()


@pytest.fixture(scope="session")
def session_folder() -> Path:
    """Where this session's storage, database and home folder are."""
    return SESSION


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Sort the folders of tests by `ORDER`, and the check of the home folder last.

    Where processes share the tests, those that start a Ray come first: they are most
    of the work.
    """
    shared = hasattr(config, "workerinput")

    def rank(item: pytest.Item) -> tuple[bool, int]:
        part = item.nodeid.split("/")[1]
        last = part.startswith(UNTOUCHED)
        place = ORDER.index(part) if part in ORDER else 0
        return shared and not starts_ray(item.nodeid), len(ORDER) if last else place

    items.sort(key=rank)


def starts_ray(nodeid: str) -> bool:
    """Whether a test starts a Ray, or looks at what others leave on the machine."""
    name = nodeid.removeprefix("tests/")
    return name.startswith((*RAYS, UNTOUCHED)) and "::test_before_ray" not in name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process take all tests on a Ray of its own, another those of clusters."""
    from xdist.scheduler import LoadScopeScheduling

    class TwoRays(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.removeprefix("tests/").startswith(CLUSTERS):
                return "clusters"
            return "ray" if starts_ray(nodeid) else nodeid.partition("::")[0]

    return TwoRays(config, log)


def left_running() -> list[psutil.Process]:
    """Return what the tests started, as their mark in the environment tells."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            ours = process.environ().get(HOME) == os.environ[HOME]
            if ours and not any(name in line for name in HELPERS):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """Remove what a session left that passed; keep it to look at after a failure.

    Processes go whatever happened, and leaving some is a failure.
    """
    yield
    if not hasattr(session.config, "workerinput") and (
        left := processes.end(left_running(), LEFT_S)
    ):
        print("\nprocesses were left behind, and were ended:", *left, sep="\n")
        session.exitstatus = exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED
    if exitstatus == 0:
        shutil.rmtree(SESSION, ignore_errors=True)
