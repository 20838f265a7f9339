"""Evaluation: the champion's predictions of the test split, and their figures."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doggos_helpers.artefacts import write_json, write_run
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.nodes import NODE
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.data.manifest import CLASS, PATH
from doggos_helpers.embed.table import (
    Embeddings,
    embeddings_file,
    read_embeddings,
    read_record,
)
from doggos_helpers.errors import DataError, ModelError
from doggos_helpers.evaluate.metrics import compute_metrics
from doggos_helpers.evaluate.prediction import (
    PREDICTED,
    PROBABILITIES,
    build_prediction,
    collect,
    write_predictions,
)
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import check_encoder, describe, load
from doggos_helpers.train.registry import Version, champion

METRICS = "metrics.json"


def check_champion(
    labels: dict[str, Any], embeddings: Embeddings, folder: Path
) -> None:
    """Refuse a classifier that doesn't fit the embeddings.

    Args:
        labels: What `describe` says of the classifier.
        embeddings: All splits, so that every class of the data set counts.
        folder: Of the classifier, for the message.

    Raises:
        ModelError: Its dimension differs, or it lacks a class.
    """
    width = embeddings.vectors.shape[1]
    lacking = sorted(set(embeddings.classes.tolist()) - set(labels["classes"]))
    if labels["dimension"] == width and not lacking:
        return
    raise ModelError(
        f"the champion takes {labels['dimension']} numbers, the embeddings have {width}"
        if labels["dimension"] != width
        else f"the champion doesn't know the classes {', '.join(lacking[:5])}",
        str(folder),
        "Train on these embeddings: notebook 04_training or"
        " `python -m doggos_helpers.train`",
    )


def evaluate(settings: Settings, cluster: Cluster) -> dict[str, Any]:
    """Predict the test split with the champion, and measure the predictions.

    Writes predictions.parquet, metrics.json and run.json into `evaluation_dir`.

    Returns:
        The run record; `counts` holds test, predicted and correct.

    Raises:
        StorageError, DataError, ModelError, ClusterError: See their messages.
    """
    return predict(check_inputs(settings), settings, cluster)


@dataclass(frozen=True)
class Inputs:
    """What an evaluation needs: test embeddings, the champion, and what it is."""

    test: Embeddings
    version: Version
    labels: dict[str, Any]
    fingerprint: str


def check_inputs(settings: Settings) -> Inputs:
    """Return the inputs, and find out without Ray what would stop an evaluation.

    Raises:
        StorageError: There are no embeddings or no champion.
        ModelError: The champion can't be loaded, or doesn't fit the embeddings.
        DataError: No test image is embedded.
    """
    embeddings = read_embeddings(settings)
    version = champion(settings)
    labels = describe(version.folder)
    check_champion(labels, embeddings, version.folder)
    load(version.folder)  # small: better it fails here than on the workers
    run = read_record(settings)
    check_encoder(version.folder, run["encoder"]["model"])
    test = embeddings.select(embeddings.splits == "test")
    if not len(test):
        raise DataError(
            "no embeddings of the split test",
            str(embeddings_file(settings)),
            "Put images into test/<class>/ and run notebook 03_embedding again",
        )
    return Inputs(test, version, labels, run["fingerprint"])


def predict(inputs: Inputs, settings: Settings, cluster: Cluster) -> dict[str, Any]:
    """Do what `evaluate` does, with its inputs at hand."""
    started = time.time()
    test, version, labels = inputs.test, inputs.version, inputs.labels
    wait_for(cluster.plan.serve, cluster, settings)
    table = collect(build_prediction(test, cluster.plan, version.folder))
    if table[PATH].to_pylist() != test.paths.tolist():
        raise DataError(
            f"{table.num_rows} predictions for {len(test)} test images",
            str(settings.evaluation_dir),
            "Report this: Ray Data lost or doubled rows",
        )
    write_predictions(table, settings)
    predicted = table.to_pydict()
    metrics = compute_metrics(
        predicted[CLASS],
        predicted[PREDICTED],
        np.array(predicted[PROBABILITIES]),
        labels["classes"],
    )
    write_json(settings.evaluation_dir / METRICS, metrics)
    correct = round(metrics["top1"] * len(test))
    return write_run(
        settings.evaluation_dir,
        "evaluate",
        settings,
        started,
        fingerprint=inputs.fingerprint,
        counts={"test": len(test), "predicted": table.num_rows, "correct": correct},
        nodes=dict(Counter(predicted[NODE])),
        version=version.version,
        trained_on=labels.get("fingerprint", ""),
        **{key: metrics[key] for key in ("top1", "top5", "macro", "chance")},
    )
