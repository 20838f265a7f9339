"""Environments of their own, for packages whose pins disagree with ours."""

import subprocess
import venv
from pathlib import Path

import pytest

from deploy.fill import ROOT


def python_with(requirements: Path) -> Path:
    """Return the Python of an environment with what a file asks for; skip without."""
    folder = ROOT / "build" / requirements.parent.name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    install = [python, "-m", "pip", "install", "--quiet", "-r", requirements]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"{requirements} can't be installed: {done.stderr[-200:]}")
    return python
