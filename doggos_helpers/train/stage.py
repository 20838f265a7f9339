"""Training as a stage: from the stored embeddings to a registered classifier."""

import time
from dataclasses import dataclass
from typing import Any

from upath import UPath

from doggos_helpers.artefacts import write_run
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.data.files import LAYOUT
from doggos_helpers.data.listing import labels_problem
from doggos_helpers.embed.table import Contents, read_contents, read_record
from doggos_helpers.errors import DataError
from doggos_helpers.settings import Settings
from doggos_helpers.train.registry import register
from doggos_helpers.train.tracking import open_tracking, tracked_run
from doggos_helpers.train.trainer import build_trainer, fit


@dataclass(frozen=True)
class TrainInputs:
    """What a training needs: what the table holds, and how that was made.

    `classes` is the label set, sorted; `embedded` the run record of the embeddings.
    """

    settings: Settings
    contents: Contents
    classes: list[str]
    embedded: dict[str, Any]


def check(settings: Settings) -> TrainInputs:
    """Find out without Ray what would stop a training.

    Raises:
        StorageError: There are no embeddings, or MLflow can't be used.
        DataError: The images have no labels, or not those that training needs.
    """
    contents, embedded = read_contents(settings), read_record(settings)
    if problem := labels_problem(contents.labels):
        fix = f"Lay the images out as {LAYOUT}, and run notebook 03_embedding again"
        raise DataError(f"can't train: {problem}", settings.dataset_root, fix)
    classes = sorted({name for _, name in contents.labels})
    open_tracking(settings.tracking)
    return TrainInputs(settings, contents, classes, embedded)


def train(inputs: TrainInputs, cluster: Cluster) -> dict[str, Any]:
    """Train a classifier on the embeddings, and register its best epoch.

    Args:
        inputs: From `check`.
        cluster: Where.

    Returns:
        The run record; `history` holds the metrics of each epoch.

    Raises:
        StorageError, DataError, ModelError, ClusterError: See their messages.
    """
    started, settings = time.time(), inputs.settings
    wait_for(cluster.plan.train, cluster, settings)
    with tracked_run(settings, **run_params(inputs, cluster.plan)) as run_id:
        result = fit(build_trainer(inputs, cluster.plan, run_id))
        return conclude(inputs, result, run_id, started)


def run_params(inputs: TrainInputs, plan: WorkerPlan) -> dict[str, Any]:
    """Choose what MLflow shows about a training: all that its result depends on."""
    names = ("dataset", "model", "epochs", "learning_rate", "hidden_units", "dropout")
    shown, stage = inputs.settings.shown(), plan.train
    chosen = {name: shown[name] for name in (*names, "seed")}
    chosen |= {"workers": stage.workers, "batch_size": stage.batch_size}
    return chosen | {"fingerprint": inputs.embedded["fingerprint"]}


def conclude(
    inputs: TrainInputs, result: Any, run_id: str, started: float
) -> dict[str, Any]:
    """Register the best checkpoint of a `fit` and write the run record.

    Args:
        inputs: Of the training.
        result: What `fit` returned.
        run_id: The MLflow run, still open.
        started: `time.time()` at the start.
    """
    settings, contents = inputs.settings, inputs.contents
    history = result.return_value
    best = min(history, key=lambda metrics: metrics["val_loss"])
    checkpoint = result.get_best_checkpoint("val_loss", "min")
    with checkpoint.as_directory() as folder:
        version = register(settings, run_id, UPath(folder))
    return write_run(
        settings.training_dir,
        "train",
        settings,
        started,
        fingerprint=inputs.embedded["fingerprint"],
        counts={
            "train": contents.rows("train"),
            "train_seen": best["train_rows"],
            "val": contents.rows("val"),
            "val_seen": best["val_rows"],
        },
        nodes=best["nodes"],
        classes=inputs.classes,
        best={k: best[k] for k in ("epoch", "val_loss", "val_accuracy")},
        chance=1 / len(inputs.classes),
        history=[{k: v for k, v in m.items() if k != "nodes"} for m in history],
        mlflow_run=run_id,
        version=version.version,
        champion=version.champion,
        verdict=version.verdict,
        classifier=str(version.folder),
    )
