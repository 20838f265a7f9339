"""Evaluation: batch prediction of the test split on Ray Data, and the figures."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doggos_helpers.classifier import describe, load, predict_probabilities
from doggos_helpers.cluster import Cluster, connect, disconnect, this_node, wait_for
from doggos_helpers.config import (
    CLASS,
    EMBEDDING,
    NODE,
    PATH,
    PREDICTED,
    PROBABILITY,
    Settings,
)
from doggos_helpers.embed import Embeddings, embeddings_file, read_embeddings
from doggos_helpers.errors import DataError, ModelError, StorageError, run_command
from doggos_helpers.plan import WorkerPlan
from doggos_helpers.registry import champion
from doggos_helpers.runs import missing, read_json, write_json, write_run

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ray.data import Dataset

PROBABILITIES = "probabilities"
PREDICTIONS, METRICS = "predictions.parquet", "metrics.json"
BATCH_ROWS = 256
TOP = 5


class Predictor:
    """Classify batches of embeddings. Ray Data keeps one in each worker of its pool.

    Args:
        folder: Of the classifier, on storage that every node sees.
        threads: Of PyTorch in this worker.
    """

    def __init__(self, folder: str, threads: int) -> None:
        """Load the classifier once; every batch of this worker then uses it."""
        import torch

        torch.set_num_threads(threads)
        self.model, self.classes = load(Path(folder))
        self.node = this_node()

    def __call__(self, batch: dict[str, np.ndarray]) -> "pa.Table":
        """Replace `embedding` by the prediction and its probabilities."""
        import pyarrow as pa

        vectors = np.stack(list(batch[EMBEDDING]))
        probabilities = predict_probabilities(self.model, vectors)
        best = probabilities.argmax(axis=1)
        return pa.table(
            {
                PATH: pa.array(batch[PATH]),
                CLASS: pa.array(batch[CLASS]),
                PREDICTED: pa.array([self.classes[i] for i in best]),
                PROBABILITY: pa.array(probabilities.max(axis=1)),
                PROBABILITIES: pa.array(list(probabilities)),
                NODE: pa.array([self.node] * len(best)),
            }
        )


def build_prediction(test: Embeddings, plan: WorkerPlan, folder: Path) -> "Dataset":
    """Build the lazy pipeline: embeddings of images to predictions.

    Args:
        test: The rows to predict; each worker gets about equally many.
        plan: Workers; prediction takes those of serving, on CPUs: the classifier is
            so small that a GPU would wait for its data.
        folder: Of the classifier.
    """
    import pyarrow as pa
    import ray.data

    stage = plan.serve
    blocks = []
    for part in np.array_split(np.arange(len(test)), min(stage.workers, len(test))):
        rows = test.select(part)
        flat = pa.array(np.ascontiguousarray(rows.vectors).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, rows.vectors.shape[1])
        names = {PATH: rows.paths.tolist(), CLASS: rows.classes.tolist()}
        blocks.append(pa.table(names | {EMBEDDING: vectors}))
    return ray.data.from_arrow(blocks).map_batches(
        Predictor,
        fn_constructor_args=(str(folder), stage.threads),
        compute=ray.data.ActorPoolStrategy(size=stage.workers),
        batch_size=BATCH_ROWS,
        num_cpus=stage.cpus,
    )


def compute_metrics(
    actual: Sequence[str],
    predicted: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Measure predictions against the labels, with the fixed label set.

    A class without test rows can't be hit or missed: it stays in the tables with
    support 0, and the macro averages leave it out.

    Args:
        actual: The label of each row, n of them.
        predicted: The prediction of each row.
        probabilities: float [n, classes], in the order of `classes`.
        classes: The label set, sorted.

    Returns:
        `top1`, `top5` (of at most as many classes as there are), macro `precision`,
        `recall`, `f1`, a `per_class` table, the `confusion` matrix (rows actual,
        columns predicted) and `chance`: guessing at random, and always guessing the
        class most frequent in these rows.

    Raises:
        DataError: There are no rows, or a label isn't in the label set.
    """
    from sklearn.metrics import (
        accuracy_score,
        confusion_matrix,
        precision_recall_fscore_support,
    )

    names = list(classes)
    unknown = sorted(set(actual) - set(names))
    if unknown or not len(actual):
        raise DataError(
            f"labels outside the label set: {unknown}" if unknown else "no rows",
            f"{len(actual)} predictions",
            "Run the notebooks from 03_embedding on again",
        )
    columns = precision_recall_fscore_support(
        actual, predicted, labels=names, zero_division=0
    )
    per_class = [
        {
            CLASS: name,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
        }
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    ]
    present = [row for row in per_class if row["support"]]
    macro = {
        key: float(np.mean([row[key] for row in present]))
        for key in ("precision", "recall", "f1")
    }
    # scikit-learn's top_k_accuracy_score wants other shapes for two classes.
    order = np.argsort(-np.asarray(probabilities), axis=1, kind="stable")[:, :TOP]
    hits = order == np.searchsorted(names, actual)[:, None]
    return {
        "rows": len(actual),
        "classes": names,
        "top1": float(accuracy_score(actual, predicted)),
        "top5": float(hits.any(axis=1).mean()),
        "macro": macro,
        "chance": {
            "uniform": 1 / len(names),
            "majority": max(row["support"] for row in per_class) / len(actual),
        },
        "per_class": per_class,
        "confusion": confusion_matrix(actual, predicted, labels=names).tolist(),
    }


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
    started = time.time()
    embeddings = read_embeddings(settings)
    version = champion(settings)
    labels = describe(version.folder)
    check_champion(labels, embeddings, version.folder)
    test = embeddings.select(embeddings.splits == "test")
    if not len(test):
        raise DataError(
            "no embeddings of the split test",
            str(embeddings_file(settings)),
            "Put images into test/<class>/ and run notebook 03_embedding again",
        )
    wait_for(cluster.plan.serve, cluster, settings)
    predictions = collect(build_prediction(test, cluster.plan, version.folder))
    if predictions[PATH].tolist() != test.paths.tolist():
        raise DataError(
            f"{len(predictions)} predictions for {len(test)} test images",
            str(settings.evaluation_dir),
            "Report this: Ray Data lost or doubled rows",
        )
    _write_parquet(predictions, settings.evaluation_dir / PREDICTIONS)
    metrics = compute_metrics(
        predictions[CLASS].tolist(),
        predictions[PREDICTED].tolist(),
        np.stack(predictions[PROBABILITIES].to_list()),
        labels["classes"],
    )
    write_json(settings.evaluation_dir / METRICS, metrics)
    correct = int((predictions[CLASS] == predictions[PREDICTED]).sum())
    run = read_json(settings.embeddings_dir / "run.json", "03_embedding")
    return write_run(
        settings.evaluation_dir,
        "evaluate",
        settings,
        started,
        fingerprint=run["fingerprint"],
        counts={"test": len(test), "predicted": len(predictions), "correct": correct},
        nodes=dict(Counter(predictions[NODE].tolist())),
        version=version.version,
        trained_on=labels["fingerprint"],
        **{key: metrics[key] for key in ("top1", "top5", "macro", "chance")},
    )


def collect(dataset: "Dataset") -> "pd.DataFrame":
    """Run a prediction and return its rows in path order."""
    return dataset.to_pandas().sort_values(PATH, ignore_index=True)


def read_predictions(settings: Settings) -> "pd.DataFrame":
    """Read what `evaluate` predicted: one row a test image, in path order.

    Raises:
        StorageError: There is nothing yet.
    """
    import pandas as pd

    file = settings.evaluation_dir / PREDICTIONS
    if not file.is_file():
        raise missing(file, "05_evaluation")
    return pd.read_parquet(file)


def _write_parquet(rows: "pd.DataFrame", file: Path) -> None:
    """Write the table so that a reader sees the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        rows.to_parquet(draft, index=False)
        draft.replace(file)
    except OSError as error:
        raise StorageError(
            f"can't write the predictions ({error})",
            str(file),
            "Check the storage setting and the free space",
        ) from error


def main(arguments: Sequence[str]) -> int:
    """Evaluate the champion of the settings on the test split."""
    settings = Settings.from_command("doggos_helpers.evaluate", list(arguments))
    cluster = connect(settings)
    try:
        run = evaluate(settings, cluster)
    finally:
        disconnect()
    chance, counts = run["chance"], run["counts"]
    print(f"version {run['version']}: {counts['correct']} of {counts['test']} correct")
    print(
        f"top-1 accuracy {run['top1']:.3f} (chance {chance['uniform']:.3f}, always the"
        f" most frequent class {chance['majority']:.3f}), top-5 {run['top5']:.3f},"
        f" macro F1 {run['macro']['f1']:.3f}"
    )
    print(f"{settings.evaluation_dir} ({run['seconds']} s)")
    return 0


if __name__ == "__main__":
    run_command(main)
