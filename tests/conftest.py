"""Keep tests away from the user: from storage, database, home folder and Ray.

All of it is set before the first import of the package, in the environment, so that
child processes inherit it.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# In this order cheap tests fail first, and no two Rays of ours run at once.
ORDER = ("unit", "setup", "ray", "faults", "cluster", "notebooks")
CANARY = "canary"

sys.path.insert(0, str(ROOT))  # for the folder tools/, which is not installed


def _isolate() -> Path:
    """Make a folder for this session and point everything there."""
    (ROOT / "build" / "test").mkdir(parents=True, exist_ok=True)
    session = Path(tempfile.mkdtemp(prefix="session-", dir=ROOT / "build" / "test"))
    for name in [n for n in os.environ if n.startswith(("DOGGOS_", "RAY_", "MLFLOW_"))]:
        if not name.startswith("DOGGOS_TEST_"):
            del os.environ[name]
    home = session / "home"
    (home / ".doggos").mkdir(parents=True)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the folders of tests by `ORDER`, and the check of the home folder last."""

    def rank(item: pytest.Item) -> int:
        if item.path.name == "test_untouched.py":
            return len(ORDER)
        part = item.path.relative_to(ROOT / "tests").parts[0]
        return ORDER.index(part) if part in ORDER else 0

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(exitstatus: int) -> Iterator[None]:
    """Remove what a session left that passed; keep it to look at after a failure."""
    yield
    if exitstatus == 0:
        shutil.rmtree(SESSION, ignore_errors=True)
