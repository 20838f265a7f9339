"""Batch prediction of the test split on Ray Data, and the table it writes."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from doggos_helpers.artefacts import missing
from doggos_helpers.cluster.nodes import NODE, this_node
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.manifest import CLASS, PATH
from doggos_helpers.embed.table import EMBEDDING, Embeddings
from doggos_helpers.errors import StorageError, unwrapped
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import load, predict_probabilities

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from ray.data import Dataset


PREDICTED = "predicted"
PROBABILITY = "probability"
PROBABILITIES = "probabilities"
PREDICTIONS = "predictions.parquet"
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


def write_predictions(table: "pa.Table", settings: Settings) -> None:
    """Write the table so that a reader sees the old file or the new one.

    Raises:
        StorageError: It can't be written.
    """
    import pyarrow.parquet as pq

    file = settings.evaluation_dir / PREDICTIONS
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
