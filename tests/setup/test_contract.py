"""The contract of imports in pyproject.toml: that it holds, and that it can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINT = [sys.executable, "-c", "from importlinter.cli import *; lint_imports_command()"]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages below a folder."""
    return subprocess.run(
        [*LINT, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_import_that_is_turned_round_breaks_the_contract(tmp_path: Path) -> None:
    """`make lint` checks the whole; here each contract is broken once in a copy."""
    for name in ("doggos_helpers", "doggos_sample"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, line in {
        "doggos_helpers/data/images.py": "doggos_helpers.embed.table",
        "doggos_helpers/train/loop.py": "doggos_helpers.embed.pipeline",
        "doggos_helpers/evaluate/metrics.py": "doggos_helpers.train.loop",
        "doggos_helpers/show/charts.py": "doggos_helpers.search.__main__",
        "doggos_sample/pen.py": "doggos_helpers.errors",
    }.items():
        source = (tmp_path / file).read_text()
        assert lint(tmp_path).returncode == 0
        # Inside a function: that counts as well.
        (tmp_path / file).write_text(f"{source}\n\ndef late():\n    import {line}\n")
        broken = lint(tmp_path)
        assert broken.returncode == 1 and "BROKEN" in broken.stdout, file
        assert file.removesuffix(".py").replace("/", ".") in broken.stdout, file
        (tmp_path / file).write_text(source)
