"""Training on the driver: from the stored embeddings to a registered classifier."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from doggos_helpers.artefacts import write_run
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.embed.table import Embeddings, read_embeddings, read_record
from doggos_helpers.settings import Settings
from doggos_helpers.train.registry import register
from doggos_helpers.train.tracking import open_tracking, tracked_run
from doggos_helpers.train.trainer import build_trainer, class_labels, fit


def train(settings: Settings, cluster: Cluster) -> dict[str, Any]:
    """Train a classifier on the embeddings, and register its best epoch.

    Returns:
        The run record; `history` holds the metrics of each epoch.

    Raises:
        StorageError, DataError, ModelError, ClusterError: See their messages.
    """
    return train_on(check_inputs(settings), settings, cluster)


def check_inputs(settings: Settings) -> Embeddings:
    """Return the embeddings, and find out without Ray what would stop a training.

    Raises:
        StorageError: There are no embeddings, or MLflow can't be used.
        DataError: They can't be trained on.
    """
    embeddings = read_embeddings(settings)
    class_labels(embeddings)
    read_record(settings)
    open_tracking(settings.tracking)
    return embeddings


def train_on(
    embeddings: Embeddings, settings: Settings, cluster: Cluster
) -> dict[str, Any]:
    """Do what `train` does, with its inputs at hand."""
    started = time.time()
    wait_for(cluster.plan.train, cluster, settings)
    with tracked_run(settings, **run_params(settings, cluster.plan)) as run_id:
        trainer = build_trainer(settings, cluster.plan, embeddings, run_id)
        result = fit(trainer)
        return conclude(settings, embeddings, result, run_id, started)


def run_params(settings: Settings, plan: WorkerPlan) -> dict[str, Any]:
    """Choose what MLflow shows about a training."""
    names = ("dataset", "model", "epochs", "learning_rate", "hidden_units", "dropout")
    shown = settings.shown()
    chosen = {name: shown[name] for name in (*names, "seed")}
    stage = plan.train
    return chosen | {"workers": stage.workers, "batch_size": stage.batch_size}


def conclude(
    settings: Settings,
    embeddings: Embeddings,
    result: Any,
    run_id: str,
    started: float,
) -> dict[str, Any]:
    """Register the best checkpoint of a `fit` and write the run record."""
    history = result.return_value
    best = min(history, key=lambda metrics: metrics["val_loss"])
    checkpoint = result.get_best_checkpoint("val_loss", "min")
    version = register(settings, run_id, Path(checkpoint.path))
    labels = class_labels(embeddings)
    run = read_record(settings)
    counts = {
        "train": int(np.sum(embeddings.splits == "train")),
        "train_seen": best["train_rows"],
        "val": int(np.sum(embeddings.splits == "val")),
        "val_seen": best["val_rows"],
    }
    return write_run(
        settings.training_dir,
        "train",
        settings,
        started,
        fingerprint=run["fingerprint"],
        counts=counts,
        nodes=best["nodes"],
        classes=labels,
        best={k: best[k] for k in ("epoch", "val_loss", "val_accuracy")},
        chance=1 / len(labels),
        history=[{k: v for k, v in m.items() if k != "nodes"} for m in history],
        mlflow_run=run_id,
        version=version.version,
        champion=version.champion,
        verdict=version.verdict,
        classifier=str(version.folder),
    )
