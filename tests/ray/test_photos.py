"""Real photographs, from embedding to evaluation and through the service.

Skipped where there are none; see tests/photos.py.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import upright
from doggos_helpers.embed import stage as embed
from doggos_helpers.embed.table import find_table
from doggos_helpers.evaluate import stage as evaluate
from doggos_helpers.evaluate.prediction import read_predictions
from doggos_helpers.serve.service import start, stop
from doggos_helpers.serve.stages import ServeSettings
from doggos_helpers.train import stage as train
from tests.photos import DOGS, NOT_DOGS, needs_photos
from tools.local_cluster import free_ports

pytestmark = needs_photos


@pytest.fixture(scope="module")
def settings(cluster, tmp_path_factory):
    port = free_ports(1)[0]
    change = {
        "dataset": str(DOGS),
        "storage": str(tmp_path_factory.mktemp("photos")),
        "epochs": 4,
        "port": port,
        "app_name": "photos",
    }
    return cluster[0].model_copy(update=change)


@pytest.fixture(scope="module")
def runs(cluster, settings):
    """Run the three stages once."""
    return {
        "embed": embed.embed(embed.check(settings), cluster[1]),
        "train": train.train(train.check(settings), cluster[1]),
        "evaluate": evaluate.evaluate(evaluate.check(settings), cluster[1]),
    }


def test_every_photograph_is_accounted_for(runs, settings):
    files = sorted(p for p in DOGS.rglob("*") if p.is_file())
    counts = runs["embed"]["counts"]
    assert counts["manifest"] == len(files) > 100
    assert (counts["embedded"], counts["errors"]) == (len(files), 0)
    stored = pq.read_table(find_table(settings))["path"].to_pylist()
    assert sorted(stored) == sorted(str(p.relative_to(DOGS)) for p in files)
    trained = runs["train"]["counts"]
    test = [p for p in files if p.parts[-3] == "test"]
    assert trained["train"] + trained["val"] + len(test) == len(files)
    assert runs["evaluate"]["counts"]["predicted"] == len(test)


def test_figures_are_finite_and_labels_agree(runs, settings):
    history = runs["train"]["history"]
    assert np.isfinite([h["val_loss"] for h in history]).all()
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    classes = sorted(p.name for p in (DOGS / "train").iterdir())
    assert runs["train"]["classes"] == classes
    metrics = json.loads((settings.evaluation_dir / "metrics.json").read_text())
    predictions = read_predictions(settings)
    assert metrics["classes"] == classes
    assert set(predictions["predicted"]) <= set(classes)
    print(f"top-1 {metrics['top1']:.3f}, chance {metrics['chance']['uniform']:.3f}")


def test_scikit_learn_finds_the_same_figures(runs, settings):
    """By a script that imports nothing of ours, in a process without our path."""
    script = Path(__file__).parents[2] / "tools" / "check_metrics.py"
    command = [sys.executable, "-I", str(script), str(settings.evaluation_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"of {runs['evaluate']['counts']['test']} rows" in done.stdout
    assert "doggos" not in script.read_text()
    print(done.stdout)


def test_sideways_photographs_are_turned_upright():
    turned = 0
    for path in sorted(DOGS.rglob("*")):
        if path.is_file():
            with Image.open(path) as stored:
                orientation, size = stored.getexif().get(0x0112), stored.size
            relative = str(path.relative_to(DOGS))
            image = upright(read_bytes(str(DOGS), relative))
            if orientation in (5, 6, 7, 8):
                turned += 1
                assert image.size == size[::-1]
            else:
                assert image.size == size
    assert turned == 4  # ../shared/photos/README.md: four are stored sideways


def test_photographs_of_other_animals_go_through_the_service(runs, cluster, settings):
    files = sorted(p for p in NOT_DOGS.rglob("*") if p.is_file())
    started = time.time()
    service = start(ServeSettings(**settings.model_dump()), cluster[1])
    try:
        with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
            for file in files:
                upload = {"image": file.read_bytes()}
                reply = client.post("/v1/predict/upload?k=3", files=upload)
                answer = reply.json()
                assert reply.status_code == 200, (file.name, answer)
                shares = [breed["probability"] for breed in answer["breeds"]]
                assert sum(shares) == pytest.approx(1, abs=1e-3)  # four breeds
                assert len(answer["similar"]) == 3
    finally:
        stop(service)
    assert len(files) == 41
    print(f"{len(files)} images in {time.time() - started:.0f} s with the start")
