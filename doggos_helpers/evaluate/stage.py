"""Evaluation as a stage: the champion's predictions of the test split, and figures."""

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from upath import UPath

from doggos_helpers.artefacts import write_json, write_run
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.embed.table import Contents, read_contents, read_record
from doggos_helpers.errors import DataError, ModelError
from doggos_helpers.evaluate.metrics import Tally
from doggos_helpers.evaluate.prediction import (
    IS_COPY,
    NEIGHBOURS,
    build_prediction,
    read_predictions,
    write_predictions,
)
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import check_fits
from doggos_helpers.train.registry import PREVIOUS, Version, champion, named, record

METRICS = "metrics.json"
TOLD = ("top1", "interval", "top5", "macro", "chance", "rivals", "calibration_error")


@dataclass(frozen=True)
class EvaluateInputs:
    """What an evaluation needs: what the table holds, the champion, and what it is.

    `labels` is what `describe` says of the champion, `fingerprint` that of the data;
    `rivals` are folders of other classifiers.
    """

    settings: Settings
    contents: Contents
    version: Version
    labels: dict[str, Any]
    fingerprint: str
    rivals: dict[str, UPath]


def check(settings: Settings) -> EvaluateInputs:
    """Find out without Ray what would stop an evaluation.

    Raises:
        StorageError: There are no embeddings or no champion.
        ModelError: The champion can't be loaded, or doesn't fit the embeddings.
        DataError: No test image is embedded.
    """
    contents, embedded = read_contents(settings), read_record(settings)
    version, previous = champion(settings), named(settings, PREVIOUS)
    known = {name for _, name in contents.labels}
    fits = (embedded["encoder"]["model"], contents.dimension, known)
    labels = check_fits(version.folder, *fits)
    if not contents.rows("test"):
        where = str(settings.embeddings_dir)
        fix = "Put images into test/<class>/ and run notebook 03_embedding again"
        raise DataError("no embeddings of the split test", where, fix)
    # The other candidate of the same training, and what was champion before.
    others = {name: version.folder.parent / name for name in ("linear", "network")}
    others |= {"previous champion": previous.folder} if previous else {}
    rivals = {}
    for name, folder in others.items():
        with contextlib.suppress(ModelError):  # it isn't there, or of other data
            if folder != version.folder and check_fits(folder, *fits):
                rivals[name] = folder
    fingerprint = embedded["fingerprint"]
    return EvaluateInputs(settings, contents, version, labels, fingerprint, rivals)


def evaluate(inputs: EvaluateInputs, cluster: Cluster) -> dict[str, Any]:
    """Predict the test split with the champion, and measure the predictions.

    Writes predictions.parquet, metrics.json and run.json into `evaluation_dir`, and
    logs the figures to the MLflow run of the champion.

    Returns:
        The run record; `counts` holds test, predicted, correct and copies: images of
        val and test that are in another split, too.

    Raises:
        StorageError, DataError, ClusterError: See their messages.
    """
    started, settings = time.time(), inputs.settings
    wait_for(cluster.plan.evaluate, cluster, settings)
    tally = Tally(inputs.labels["classes"], [NEIGHBOURS, *inputs.rivals])
    nodes = write_predictions(build_prediction(inputs, cluster.plan), settings, tally)
    folder, test = settings.evaluation_dir, inputs.contents.rows("test")
    if nodes.total() != test:
        what = f"{nodes.total()} predictions for {test} test images"
        fix = "Embed and evaluate one after the other, or report this"
        raise DataError(what, str(folder), fix)
    metrics = tally.metrics()
    write_json(folder / METRICS, metrics)
    record(settings, inputs.version, metrics)
    counts = {"test": test, "predicted": nodes.total()}
    counts["correct"] = round(metrics["top1"] * test)
    counts["copies"] = len(read_predictions(settings, IS_COPY))
    told = {key: metrics[key] for key in TOLD} | {"counts": counts}
    told |= {"nodes": dict(nodes), "fingerprint": inputs.fingerprint}
    told["version"] = inputs.version.version
    told["trained_on"] = inputs.labels.get("fingerprint", "")
    return write_run(folder, "evaluate", settings, started, **told)
