"""Evaluation as a stage: the champion's predictions of the test split, and figures."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from doggos_helpers.artefacts import write_json, write_run
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.nodes import NODE
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.data.listing import CLASS, PATH
from doggos_helpers.embed.table import Embeddings, read_embeddings, read_record
from doggos_helpers.errors import DataError
from doggos_helpers.evaluate import prediction
from doggos_helpers.evaluate.metrics import compute_metrics
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import check_fits
from doggos_helpers.train.registry import Version, champion

METRICS = "metrics.json"


@dataclass(frozen=True)
class EvaluateInputs:
    """What an evaluation needs: test embeddings, the champion, and what it is.

    `labels` is what `describe` says of the champion, `fingerprint` that of the data.
    """

    settings: Settings
    test: Embeddings
    version: Version
    labels: dict[str, Any]
    fingerprint: str


def check(settings: Settings) -> EvaluateInputs:
    """Find out without Ray what would stop an evaluation.

    Raises:
        StorageError: There are no embeddings or no champion.
        ModelError: The champion can't be loaded, or doesn't fit the embeddings.
        DataError: No test image is embedded.
    """
    embeddings, embedded = read_embeddings(settings), read_record(settings)
    version = champion(settings)
    labels = check_fits(
        version.folder,
        embedded["encoder"]["model"],
        embeddings.vectors.shape[1],
        embeddings.classes.tolist(),
    )
    test = embeddings.select(embeddings.splits == "test")
    if not len(test):
        raise DataError(
            "no embeddings of the split test",
            str(settings.embeddings_dir),
            "Put images into test/<class>/ and run notebook 03_embedding again",
        )
    return EvaluateInputs(settings, test, version, labels, embedded["fingerprint"])


def evaluate(inputs: EvaluateInputs, cluster: Cluster) -> dict[str, Any]:
    """Predict the test split with the champion, and measure the predictions.

    Writes predictions.parquet, metrics.json and run.json into `evaluation_dir`.

    Returns:
        The run record; `counts` holds test, predicted and correct.

    Raises:
        StorageError, DataError, ClusterError: See their messages.
    """
    started, test = time.time(), inputs.test
    wait_for(cluster.plan.evaluate, cluster, inputs.settings)
    table = prediction.collect(
        prediction.build_prediction(test, cluster.plan, inputs.version.folder)
    )
    if table[PATH].to_pylist() != test.paths.tolist():
        raise DataError(
            f"{table.num_rows} predictions for {len(test)} test images",
            str(inputs.settings.evaluation_dir),
            "Report this: Ray Data lost or doubled rows",
        )
    return _record(inputs, table, started)


def _record(inputs: EvaluateInputs, table: pa.Table, started: float) -> dict[str, Any]:
    """Write the predictions, their figures, and the run record."""
    settings, predicted = inputs.settings, table.to_pydict()
    prediction.write_predictions(table, settings)
    metrics = compute_metrics(
        predicted[CLASS],
        predicted[prediction.PREDICTED],
        np.array(predicted[prediction.PROBABILITIES]),
        inputs.labels["classes"],
    )
    write_json(settings.evaluation_dir / METRICS, metrics)
    correct = round(metrics["top1"] * table.num_rows)
    counts = {"test": len(inputs.test), "predicted": table.num_rows}
    return write_run(
        settings.evaluation_dir,
        "evaluate",
        settings,
        started,
        fingerprint=inputs.fingerprint,
        counts=counts | {"correct": correct},
        nodes=dict(Counter(predicted[NODE])),
        version=inputs.version.version,
        trained_on=inputs.labels.get("fingerprint", ""),
        **{key: metrics[key] for key in ("top1", "top5", "macro", "chance")},
    )
