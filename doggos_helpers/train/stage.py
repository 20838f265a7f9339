"""Training as a stage: from the stored embeddings to a registered classifier."""

import math
import tempfile
import time
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from upath import UPath

from doggos_helpers.artefacts import write_run
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.data.files import LAYOUT
from doggos_helpers.data.listing import labels_problem
from doggos_helpers.embed.table import EMBEDDING, read_contents, read_record
from doggos_helpers.errors import DataError
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import Classifier, save
from doggos_helpers.train.loop import TrainInputs, state_of
from doggos_helpers.train.registry import register
from doggos_helpers.train.shard import LABEL, Shard
from doggos_helpers.train.tracking import log_epochs, open_tracking, tracked_run
from doggos_helpers.train.trainer import build_trainer, fit

BEST = ("candidate", "epoch", "val_loss", "val_accuracy")
BATCH = 4096  # rows
SURE = 1.96  # standard errors on either side hold 95 of 100
TOLD = (
    *("dataset", "model", "epochs", "patience", "learning_rate", "rate_at_end"),
    *("hidden_units", "dropout", "clip_norm", "seed"),
)


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
    """Train the candidates on the embeddings, and register the better one.

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
    shown, stage, embedded = inputs.settings.shown(), plan.train, inputs.embedded
    told = {name: shown[name] for name in TOLD} | {"workers": stage.workers}
    told |= {f"encoder_{name}": value for name, value in embedded["encoder"].items()}
    told |= {"batch_size": stage.batch_size, "fingerprint": embedded["fingerprint"]}
    return told


def conclude(
    inputs: TrainInputs, result: Any, run_id: str, started: float
) -> dict[str, Any]:
    """Register the better candidate of a `fit` and write the run record.

    Args:
        inputs: Of the training.
        result: What `fit` returned.
        run_id: The MLflow run, still open.
        started: `time.time()` at the start.
    """
    state, settings = state_of(result.checkpoint), inputs.settings
    history, models = state["history"], inputs.candidates()
    log_epochs(settings.tracking, run_id, history)
    # The best epoch of each candidate; of equal ones the last.
    ordered = sorted(history, key=lambda metrics: -metrics["val_loss"])
    epochs = {metrics["candidate"]: metrics for metrics in ordered}
    for name, model in models.items():
        model.load_state_dict(state["best"][name])
    chosen, why = choose(models, Shard(inputs.contents, "val", inputs.classes))
    record: dict[str, Any] = {"fingerprint": inputs.embedded["fingerprint"]}
    encoder = {"encoder": inputs.embedded["encoder"]["model"]}
    with tempfile.TemporaryDirectory() as place:
        folders = {name: UPath(place, name) for name in models}
        for name, model in models.items():
            about = {key: epochs[name][key] for key in BEST} | encoder | record
            save(model, folders[name], inputs.classes, **about)
        folder, best = folders.pop(chosen), epochs[chosen]
        version = register(settings, run_id, folder, folders.values())
    record |= {"counts": {}, "nodes": best["nodes"], "classes": inputs.classes}
    for split in ("train", "val"):
        seen = {f"{split}_seen": best[f"{split}_rows"]}
        record["counts"] |= {split: inputs.contents.rows(split)} | seen
    record |= {"best": {key: best[key] for key in BEST}, "choice": why}
    record |= {"chance": 1 / len(inputs.classes), "history": history}
    record |= {"mlflow_run": run_id, "version": version.version}
    record |= {"champion": version.champion, "verdict": version.verdict}
    record["classifier"] = str(version.folder)
    return write_run(settings.training_dir, "train", settings, started, **record)


def choose(models: dict[str, Classifier], rows: Shard) -> tuple[str, str]:
    """Choose among the candidates by their losses on the same rows, and say why.

    The network has to be better by more than chance: the simpler one wins a tie.
    """
    if len(models) == 1:
        return "linear", "it is the only candidate"
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in rows.batches(BATCH):
        with torch.inference_mode():
            scores = [model.eval()(batch[EMBEDDING]) for model in models.values()]
            losses = [cross_entropy(s, batch[LABEL], reduction="none") for s in scores]
        gains = (losses[0] - losses[1]).double()
        sums += torch.stack([gains.sum(), gains.square().sum()])
    gain, square = (sums / rows.total).tolist()
    noise = SURE * math.sqrt(max(square - gain**2, 0) / rows.total)
    told = f"the network lowers the validation loss by {gain:.3f} ± {noise:.3f}"
    return ("network", told) if gain > noise else ("linear", f"{told}, maybe by chance")
