"""The same notebooks at three sizes, by the batch; figures of each in its bounds."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "notebooks" / "params"
BATCH_S, DRAW_S = 1500, 600
ENVIRONMENT = os.environ | {"DOGGOS_ADDRESS": "local", "CI": "true"}
LARGE = 400  # images of each breed, so 6,400 in all

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Size:
    """Bounds of one size: images, top-1 accuracy, minutes on two cores."""

    name: str
    images: tuple[int, int]
    top1: tuple[float, float]
    minutes: float
    options: tuple[str, ...] = ()


SIZES = [
    Size("smoke", (384, 384), (0.6, 0.999), 8, (f"--params-file={PARAMS}/smoke.yaml",)),
    Size("default", (960, 960), (0.85, 0.999), 12),
    Size("large", (6400, 6400), (0.9, 0.999), 20),
]


@pytest.fixture(params=SIZES, ids=lambda size: size.name)
def size(request) -> Size:
    return request.param


def run(command: str, *options: str, timeout: int) -> str:
    line = [sys.executable, "-m", f"doggos_helpers.{command}", *options]
    ran = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return ran.stdout


def test_figures_are_in_bounds(size: Size, tmp_path: Path) -> None:
    storage, options = tmp_path / "storage", list(size.options)
    if size.name == "large":
        drawn = str(tmp_path / "drawn")
        each = ("--out", drawn, "--images-per-breed", str(LARGE))
        run("sample", *each, timeout=DRAW_S)
        options += ["--dataset", drawn]
    options += ["--storage", str(storage), "--out", str(tmp_path / "out")]
    run("batch", *options, timeout=BATCH_S)
    [embedded] = storage.glob("*/embeddings/run.json")
    counts = json.loads(embedded.read_text())["counts"]
    assert size.images[0] <= counts["embedded"] <= size.images[1], counts
    assert counts["errors"] == 0
    folder = embedded.parents[1]
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert size.top1[0] <= metrics["top1"] <= size.top1[1], metrics["top1"]
    served = json.loads((folder / "serving" / "run.json").read_text())["counts"]
    assert served["failed"] == 0 < served["succeeded"]
    page = (folder / "notebooks" / "index.html").read_text()
    assert page.count("All good") == 6
    notebooks = (tmp_path / "out").glob("*.ipynb")
    ran = [json.loads(n.read_text())["metadata"]["papermill"] for n in notebooks]
    assert sum(one["duration"] for one in ran) / 60 <= size.minutes
