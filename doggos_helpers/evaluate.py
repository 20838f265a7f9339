"""Evaluation: batch prediction of the test split on Ray Data, and the figures."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doggos_helpers.classifier import (
    check_encoder,
    describe,
    load,
    predict_probabilities,
)
from doggos_helpers.cluster import Cluster, connect, disconnect
from doggos_helpers.config import (
    CLASS,
    EMBEDDING,
    NODE,
    PATH,
    PREDICTED,
    PROBABILITY,
    Settings,
)
from doggos_helpers.errors import (
    DataError,
    ModelError,
    StorageError,
    run_command,
    unwrapped,
)
from doggos_helpers.metrics import compute_metrics
from doggos_helpers.nodes import this_node, wait_for
from doggos_helpers.plan import WorkerPlan
from doggos_helpers.registry import Version, champion
from doggos_helpers.runs import missing, write_json, write_run
from doggos_helpers.table import (
    Embeddings,
    embeddings_file,
    read_embeddings,
    read_record,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ray.data import Dataset

PROBABILITIES = "probabilities"
PREDICTIONS, METRICS = "predictions.parquet", "metrics.json"
BATCH_ROWS = 256


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
        test: The rows to predict, cut into one block a worker.
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
        memory=stage.memory or None,
    )


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
    _write_parquet(table, settings.evaluation_dir / PREDICTIONS)
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


def collect(dataset: "Dataset") -> "pa.Table":
    """Run a prediction and return its rows in path order."""
    import pyarrow as pa

    with unwrapped():
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        return pa.concat_tables(batches).sort_by(PATH)


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


def _write_parquet(table: "pa.Table", file: Path) -> None:
    """Write the table so that a reader sees the old file or the new one."""
    import pyarrow.parquet as pq

    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, draft)
        draft.replace(file)
    except OSError as error:
        raise StorageError(
            f"can't write the predictions ({error})",
            str(file),
            "Check the storage setting and the free space",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def main(arguments: Sequence[str]) -> int:
    """Evaluate the champion of the settings on the test split."""
    settings = Settings.from_command("doggos_helpers.evaluate", list(arguments))
    inputs = check_inputs(settings)
    cluster = connect(settings)
    try:
        run = predict(inputs, settings, cluster)
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
