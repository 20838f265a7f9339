"""Evaluation as a stage: the champion's predictions of the test split, and figures."""

import time
from dataclasses import dataclass
from typing import Any

from doggos_helpers.artefacts import write_json, write_run
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.embed.table import Contents, read_contents, read_record
from doggos_helpers.errors import DataError
from doggos_helpers.evaluate.metrics import Tally
from doggos_helpers.evaluate.prediction import (
    TEST,
    build_prediction,
    write_predictions,
)
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import check_fits
from doggos_helpers.train.registry import Version, champion

METRICS = "metrics.json"


@dataclass(frozen=True)
class EvaluateInputs:
    """What an evaluation needs: what the table holds, the champion, and what it is.

    `labels` is what `describe` says of the champion, `fingerprint` that of the data.
    """

    settings: Settings
    contents: Contents
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
    contents, embedded = read_contents(settings), read_record(settings)
    version = champion(settings)
    labels = check_fits(
        version.folder,
        embedded["encoder"]["model"],
        contents.dimension,
        {name for _, name in contents.labels},
    )
    if not contents.rows(TEST):
        raise DataError(
            "no embeddings of the split test",
            str(settings.embeddings_dir),
            "Put images into test/<class>/ and run notebook 03_embedding again",
        )
    return EvaluateInputs(settings, contents, version, labels, embedded["fingerprint"])


def evaluate(inputs: EvaluateInputs, cluster: Cluster) -> dict[str, Any]:
    """Predict the test split with the champion, and measure the predictions.

    Writes predictions.parquet, metrics.json and run.json into `evaluation_dir`.

    Returns:
        The run record; `counts` holds test, predicted and correct.

    Raises:
        StorageError, DataError, ClusterError: See their messages.
    """
    started, settings = time.time(), inputs.settings
    wait_for(cluster.plan.evaluate, cluster, settings)
    tally = Tally(inputs.labels["classes"])
    nodes = write_predictions(build_prediction(inputs, cluster.plan), settings, tally)
    test = inputs.contents.rows(TEST)
    if nodes.total() != test:
        raise DataError(
            f"{nodes.total()} predictions for {test} test images",
            str(settings.evaluation_dir),
            "Embed and evaluate one after the other, or report this",
        )
    metrics = tally.metrics()
    write_json(settings.evaluation_dir / METRICS, metrics)
    correct = round(metrics["top1"] * test)
    return write_run(
        settings.evaluation_dir,
        "evaluate",
        settings,
        started,
        fingerprint=inputs.fingerprint,
        counts={"test": test, "predicted": nodes.total(), "correct": correct},
        nodes=dict(nodes),
        version=inputs.version.version,
        trained_on=inputs.labels.get("fingerprint", ""),
        **{key: metrics[key] for key in ("top1", "top5", "macro", "chance")},
    )
