"""The whole series by two clones at the same time, and once more, in one home folder.

What `make tutorial` runs, without its set-up: that would change this environment.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doggos_helpers.artefacts import read_json
from doggos_helpers.settings import Settings
from doggos_helpers.train.registry import versions

ROOT = Path(__file__).resolve().parents[2]
SERIES_S = 1800


def clone(folder: Path) -> Path:
    """Copy what the series needs."""
    for part in ("doggos_helpers", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    return folder


def series(folder: Path, home: Path) -> subprocess.Popen[str]:
    """Start the series in a clone, on the defaults of a user's terminal."""
    ours = ("DOGGOS_STORAGE", "DOGGOS_TRACKING_URI")
    kept = {k: v for k, v in os.environ.items() if k not in ours}
    params = folder / "notebooks" / "params" / "smoke.yaml"
    return subprocess.Popen(
        [sys.executable, "-m", "doggos_helpers.batch", f"--params-file={params}"],
        cwd=folder,
        env=kept
        | {"HOME": str(home), "PYTHONPATH": str(folder), "DOGGOS_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
def test_two_clones_at_the_same_time_and_one_of_them_again(
    tmp_path: Path, monkeypatch
) -> None:
    home, clones = tmp_path / "home", [clone(tmp_path / name) for name in ("a", "b")]
    running = [series(folder, home) for folder in clones]
    said = [one.communicate(timeout=SERIES_S)[0] for one in running]
    assert [one.returncode for one in running] == [0, 0], "\n".join(said)
    assert any("is taken: the service will listen on" in text for text in said)
    for folder in clones:
        executed = sorted(path.name for path in (folder / "build/tutorial").iterdir())
        assert executed == sorted(p.name for p in (ROOT / "notebooks").glob("0*.ipynb"))

    monkeypatch.setenv("HOME", str(home))
    for name in ("DOGGOS_STORAGE", "DOGGOS_TRACKING_URI"):
        monkeypatch.delenv(name)
    settings = Settings()
    before = read_json(settings.embeddings_dir / "run.json", "03_embedding")
    counts = before["counts"]
    assert counts["embedded"] + counts["errors"] == counts["manifest"] > 0

    again = series(clones[0], home)
    assert "The executed notebooks are in" in again.communicate(timeout=SERIES_S)[0]
    assert read_json(settings.embeddings_dir / "run.json", "03_embedding") == before
    assert len(versions(settings)) == len(clones) + 1
